//! What the C library does with memory that was freed.
//!
//! Left to itself, glibc keeps a heap for each thread and gives back only what lies at a heap's end: a process that once
//! held much stays large for ever. An agent has a lot in its hands while it works, and next to nothing for days afterwards.
//!
//! It is a crate of its own because `mallopt` and `malloc_trim` have no safe wrapper: all its unsafe code stands in
//! [`share`] and [`give_back`]. With another C library both do nothing.

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
