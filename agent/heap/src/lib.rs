//! What the C library does with memory that was freed, and what is mapped of the program itself.
//!
//! Left to itself, glibc keeps a heap for each thread and gives back only what lies at a heap's end: a process that once
//! held much stays large for ever. An agent has a lot in its hands while it works, and next to nothing for days afterwards.
//!
//! The same goes for the program: what it once ran stays mapped, and counts as its memory, although the page cache has it
//! anyway.
//!
//! It is a crate of its own because `mallopt`, `malloc_trim` and `madvise` have no safe wrapper: all its unsafe code stands in
//! [`share`], [`give_back`] and [`unmap_code`]. With another C library the first two do nothing.

/// Lets all threads take their memory from one heap, and large blocks from none. To be called before there is a second
/// thread.
#[allow(unsafe_code)]
pub fn share() {
    // From so many bytes on (glibc's own default) a block is mapped by itself, and gone when it is freed. Said aloud, it
    // stays so: glibc raises it to whatever was freed last otherwise, up to 32 MiB.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    const MAPPED: nix::libc::c_int = 128 * 1024;
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes two numbers; it may be called at any time, and an unknown one only fails.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, MAPPED);
    }
}

/// Gives the kernel back every whole page that nothing lies on. It walks the whole heap, so not for every small thing.
#[allow(unsafe_code)]
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` takes a number of bytes to leave; it may be called by any thread at any time.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Lets go of the program's code, which comes back from the page cache a piece at a time as it is run.
#[allow(unsafe_code)]
pub fn unmap_code() {
    #[cfg(target_os = "linux")]
    for (start, end) in own_code() {
        // SAFETY: the range is a mapping of the program's file that nobody can write to, so that every page of it is as the
        // file has it, and is read from there again (madvise(2), MADV_DONTNEED).
        unsafe {
            nix::libc::madvise(start as *mut _, end - start, nix::libc::MADV_DONTNEED);
        }
    }
}

/// Where the program's code is mapped (proc_pid_maps(5)).
#[cfg(target_os = "linux")]
fn own_code() -> Vec<(usize, usize)> {
    let Ok(program) = std::fs::read_link("/proc/self/exe") else {
        return Vec::new();
    };
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    code_of(&maps, &program.to_string_lossy())
}

/// Private, read-only and executable mappings of a file.
#[cfg(target_os = "linux")]
fn code_of(maps: &str, file: &str) -> Vec<(usize, usize)> {
    let of = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        if !(rest.starts_with("r-xp ") && rest.ends_with(&format!(" {file}"))) {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        Some((number(start)?, number(end)?)).filter(|(start, end)| start < end)
    };
    maps.lines().filter_map(of).collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_code_that_nobody_can_write_to_is_let_go_of() {
        let maps = "\
55d0-55d1 r--p 00000000 fe:00 1 /usr/bin/decnet-agent
55d1-55f0 r-xp 00001000 fe:00 1 /usr/bin/decnet-agent
55f0-55f1 rw-p 00020000 fe:00 1 /usr/bin/decnet-agent
55f1-55f2 rwxp 00021000 fe:00 1 /usr/bin/decnet-agent
7f00-7f10 r-xp 00000000 fe:00 2 /usr/lib/libc.so.6
7f10-7f20 r-xp 00000000 fe:00 3 /usr/bin/decnet-agent (deleted)
7f20-7f30 r-xp 00000000 fe:00 3 /srv/usr/bin/decnet-agent
7f30-7f40 r-xp 00000000 00:00 0 [vdso]
broken
";
        assert_eq!(code_of(maps, "/usr/bin/decnet-agent"), [(0x55d1, 0x55f0)]);
        let deleted = "/usr/bin/decnet-agent (deleted)";
        assert_eq!(code_of(maps, deleted), [(0x7f10, 0x7f20)]);
        assert!(!own_code().is_empty());
    }

    #[test]
    fn code_that_was_let_go_of_runs_on() {
        let mapped = || -> usize {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(2).unwrap().parse().unwrap()
        };
        let before = mapped();
        unmap_code();
        let after = mapped();
        assert!(after < before, "{before} pages of files before, {after} after");
    }
}
