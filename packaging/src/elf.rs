//! What is this executable: static, for which processor, as hard to misuse as it should be?
//!
//! Only the few header fields that answer the questions are read (System V ABI, "ELF Header", "Program Header",
//! "Dynamic Section"; GNU's segment types); every offset comes from outside, so every read is bounds-checked.

use crate::image::Arch;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PT_GNU_STACK: u32 = 0x6474_e551;
const PT_GNU_RELRO: u32 = 0x6474_e552;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const DT_RPATH: u64 = 15;
const DT_TEXTREL: u64 = 22;
const DT_BIND_NOW: u64 = 24;
const DT_RUNPATH: u64 = 29;
const DT_FLAGS: u64 = 30;
const DT_FLAGS_1: u64 = 0x6fff_fffb;
const DF_TEXTREL: u64 = 4;
const DF_BIND_NOW: u64 = 8;
const DF_1_NOW: u64 = 1;
const DF_1_PIE: u64 = 0x0800_0000;
const SHT_SYMTAB: u32 = 2;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;

/// Why a file cannot be the only file of an image.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    #[error("it is not an ELF file")]
    NotElf,
    #[error("it is not a 64-bit little-endian executable")]
    NotExecutable,
    #[error("it ends inside its own program headers")]
    Truncated,
    #[error("it is built for ELF machine {found}, not for {wanted} ({})", wanted.elf_machine())]
    OtherMachine { found: u16, wanted: Arch },
    #[error("it is built for ELF machine {0}, which nothing is packaged for")]
    UnknownMachine(u16),
    #[error("it needs a dynamic loader; build it with RUSTFLAGS=\"-C target-feature=+crt-static\"")]
    Dynamic,
}

/// Accepts `file` if it runs on `arch` without any other file.
///
/// # Errors
/// [`ElfError`] names the first thing that is wrong.
pub fn check_static(file: &[u8], arch: Arch) -> Result<(), ElfError> {
    let found = machine(file)?;
    if found != arch.elf_machine() {
        return Err(ElfError::OtherMachine { found, wanted: arch });
    }
    if segments(file)?.iter().any(|segment| segment.kind == PT_INTERP) {
        return Err(ElfError::Dynamic);
    }
    Ok(())
}

/// The processor that an executable is for.
///
/// # Errors
/// [`ElfError`] when it is none, or for a processor that nothing is built for.
pub fn arch(file: &[u8]) -> Result<Arch, ElfError> {
    let found = machine(file)?;
    [Arch::Amd64, Arch::Arm64]
        .into_iter()
        .find(|arch| arch.elf_machine() == found)
        .ok_or(ElfError::UnknownMachine(found))
}

/// Whether a table of symbols is in the file, which only a debugger needs.
///
/// # Errors
/// [`ElfError`] when it is no executable.
pub fn has_symbols(file: &[u8]) -> Result<bool, ElfError> {
    machine(file)?;
    let sections = usize::from(u16_at(file, 60)?);
    let found = entries(file, u64_at(file, 40)?, u16_at(file, 58)?, sections)?
        .into_iter()
        .map(|at| u32_at(file, at + 4))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(found.contains(&SHT_SYMTAB))
}

/// What makes a dynamic executable easier to misuse than it has to be. None is how it should be.
///
/// # Errors
/// [`ElfError`] when it is no executable.
pub fn weaknesses(file: &[u8]) -> Result<Vec<Weakness>, ElfError> {
    machine(file)?;
    let segments = segments(file)?;
    let mut flags = Flags::default();
    for segment in segments.iter().filter(|segment| segment.kind == PT_DYNAMIC) {
        flags.read(file, segment)?;
    }
    let stack_runs = segments
        .iter()
        .find(|segment| segment.kind == PT_GNU_STACK)
        .is_none_or(|stack| stack.flags & PF_X != 0);
    let both = |segment: &Segment| segment.flags & (PF_W | PF_X) == PF_W | PF_X;
    let found = [
        (
            Weakness::FixedAddress,
            u16_at(file, 16)? != ET_DYN || !flags.position_independent,
        ),
        (
            Weakness::LateBinding,
            !flags.binds_now || segments.iter().all(|segment| segment.kind != PT_GNU_RELRO),
        ),
        (Weakness::ExecutableStack, stack_runs),
        (
            Weakness::WritableCode,
            flags.writes_code
                || segments
                    .iter()
                    .any(|segment| segment.kind == PT_LOAD && both(segment)),
        ),
        (Weakness::LibraryPath, flags.library_path),
    ];
    Ok(found
        .into_iter()
        .filter_map(|(weakness, is_there)| is_there.then_some(weakness))
        .collect())
}

/// What an executable that is shipped must not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Weakness {
    #[error("its code lies at fixed addresses (no PIE)")]
    FixedAddress,
    #[error("its tables of functions stay writable (no full RELRO)")]
    LateBinding,
    #[error("its stack is executable")]
    ExecutableStack,
    #[error("it has code that can be written")]
    WritableCode,
    #[error("it looks for libraries in folders of the builder's choice (RPATH)")]
    LibraryPath,
}

/// What the dynamic section says.
#[derive(Debug, Default)]
struct Flags {
    position_independent: bool,
    binds_now: bool,
    writes_code: bool,
    library_path: bool,
}

impl Flags {
    fn read(&mut self, file: &[u8], segment: &Segment) -> Result<(), ElfError> {
        const ENTRY: u16 = 16;
        let count = usize::try_from(segment.size / u64::from(ENTRY)).map_err(|_| ElfError::Truncated)?;
        for at in entries(file, segment.offset, ENTRY, count)? {
            let value = u64_at(file, at + 8)?;
            match u64_at(file, at)? {
                0 => break,
                DT_BIND_NOW => self.binds_now = true,
                DT_TEXTREL => self.writes_code = true,
                DT_RPATH | DT_RUNPATH => self.library_path = true,
                DT_FLAGS => {
                    self.binds_now |= value & DF_BIND_NOW != 0;
                    self.writes_code |= value & DF_TEXTREL != 0;
                }
                DT_FLAGS_1 => {
                    self.binds_now |= value & DF_1_NOW != 0;
                    self.position_independent |= value & DF_1_PIE != 0;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

/// `e_machine` of a 64-bit little-endian executable.
fn machine(file: &[u8]) -> Result<u16, ElfError> {
    if file.get(..4) != Some(b"\x7fELF") {
        return Err(ElfError::NotElf);
    }
    if file.get(4) != Some(&CLASS_64) || file.get(5) != Some(&LITTLE_ENDIAN) {
        return Err(ElfError::NotExecutable);
    }
    if !matches!(u16_at(file, 16)?, ET_EXEC | ET_DYN) {
        return Err(ElfError::NotExecutable);
    }
    u16_at(file, 18)
}

fn segments(file: &[u8]) -> Result<Vec<Segment>, ElfError> {
    entries(
        file,
        u64_at(file, 32)?,
        u16_at(file, 54)?,
        usize::from(u16_at(file, 56)?),
    )?
    .into_iter()
    .map(|at| {
        Ok(Segment {
            kind: u32_at(file, at)?,
            flags: u32_at(file, at + 4)?,
            offset: u64_at(file, at + 8)?,
            size: u64_at(file, at + 32)?,
        })
    })
    .collect()
}

/// Where the entries of a table begin that lies wholly in the file.
fn entries(file: &[u8], table: u64, size: u16, count: usize) -> Result<Vec<usize>, ElfError> {
    let (table, size) = (
        usize::try_from(table).map_err(|_| ElfError::Truncated)?,
        usize::from(size),
    );
    let end = size
        .checked_mul(count)
        .and_then(|length| length.checked_add(table));
    if end.is_none_or(|end| end > file.len()) {
        return Err(ElfError::Truncated);
    }
    Ok((0..count).map(|index| table + index * size).collect())
}

fn bytes_at<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N], ElfError> {
    file.get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .ok_or(ElfError::Truncated)
}

fn u16_at(file: &[u8], at: usize) -> Result<u16, ElfError> {
    bytes_at(file, at).map(u16::from_le_bytes)
}

fn u32_at(file: &[u8], at: usize) -> Result<u32, ElfError> {
    bytes_at(file, at).map(u32::from_le_bytes)
}

fn u64_at(file: &[u8], at: usize) -> Result<u64, ElfError> {
    bytes_at(file, at).map(u64::from_le_bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A header and one program header: enough to be judged, not to be run.
    pub(crate) fn elf(machine: u16, segment: u32) -> Vec<u8> {
        let mut file = vec![0; 64 + 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[16..18].copy_from_slice(&ET_DYN.to_le_bytes());
        file[18..20].copy_from_slice(&machine.to_le_bytes());
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&1u16.to_le_bytes());
        file[64..68].copy_from_slice(&segment.to_le_bytes());
        file
    }

    #[test]
    fn a_static_binary_of_the_right_machine_is_accepted() {
        assert_eq!(check_static(&elf(62, 1), Arch::Amd64), Ok(()));
        assert_eq!(check_static(&elf(183, 1), Arch::Arm64), Ok(()));
    }

    #[test]
    fn a_dynamic_binary_is_refused_before_it_fails_on_a_host() {
        assert_eq!(
            check_static(&elf(62, PT_INTERP), Arch::Amd64),
            Err(ElfError::Dynamic)
        );
    }

    #[test]
    fn a_binary_for_another_processor_is_refused() {
        let refused = check_static(&elf(183, 1), Arch::Amd64);
        assert_eq!(
            refused,
            Err(ElfError::OtherMachine {
                found: 183,
                wanted: Arch::Amd64
            })
        );
    }

    /// An executable with these segments (kind, flags) and these entries of the dynamic section.
    fn dynamic(segments: &[(u32, u32)], entries: &[(u64, u64)]) -> Vec<u8> {
        let mut file = elf(62, PT_LOAD);
        file.truncate(64);
        file[56..58].copy_from_slice(&u16::try_from(segments.len() + 1).unwrap().to_le_bytes());
        let at = 64 + 56 * (segments.len() as u64 + 1);
        let size = 16 * entries.len() as u64;
        for (kind, flags) in segments.iter().chain([&(PT_DYNAMIC, PF_W)]) {
            let mut header = [0; 56];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[4..8].copy_from_slice(&flags.to_le_bytes());
            header[8..16].copy_from_slice(&at.to_le_bytes());
            header[32..40].copy_from_slice(&size.to_le_bytes());
            file.extend(header);
        }
        for (tag, value) in entries {
            file.extend(tag.to_le_bytes());
            file.extend(value.to_le_bytes());
        }
        file
    }

    const HARD: [(u32, u32); 4] = [
        (PT_LOAD, PF_X),
        (PT_LOAD, PF_W),
        (PT_GNU_RELRO, 0),
        (PT_GNU_STACK, PF_W),
    ];
    const BOUND: (u64, u64) = (DT_FLAGS_1, DF_1_NOW | DF_1_PIE);

    #[test]
    fn each_way_of_being_easier_to_misuse_is_named() {
        assert_eq!(weaknesses(&dynamic(&HARD, &[BOUND])), Ok(vec![]));
        let cases = [
            (
                Weakness::FixedAddress,
                HARD.to_vec(),
                vec![(DT_FLAGS_1, DF_1_NOW)],
            ),
            (Weakness::LateBinding, HARD.to_vec(), vec![(DT_FLAGS_1, DF_1_PIE)]),
            (Weakness::LateBinding, [HARD[0], HARD[3]].to_vec(), vec![BOUND]),
            (Weakness::ExecutableStack, HARD[..3].to_vec(), vec![BOUND]),
            (
                Weakness::ExecutableStack,
                [&HARD[..3], &[(PT_GNU_STACK, PF_W | PF_X)]].concat(),
                vec![BOUND],
            ),
            (
                Weakness::WritableCode,
                [&HARD[..], &[(PT_LOAD, PF_W | PF_X)]].concat(),
                vec![BOUND],
            ),
            (
                Weakness::WritableCode,
                HARD.to_vec(),
                vec![BOUND, (DT_TEXTREL, 0)],
            ),
            (Weakness::LibraryPath, HARD.to_vec(), vec![BOUND, (DT_RUNPATH, 1)]),
        ];
        for (weakness, segments, entries) in cases {
            assert_eq!(weaknesses(&dynamic(&segments, &entries)), Ok(vec![weakness]));
        }
    }

    #[test]
    fn this_very_program_is_read_without_error() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(has_symbols(&file).unwrap(), "tests are built with symbols");
        assert_eq!(weaknesses(&file), Ok(vec![]));
        assert!(arch(&file).is_ok());
    }

    #[test]
    fn scripts_and_cut_files_are_refused() {
        assert_eq!(check_static(b"#!/bin/sh\n", Arch::Amd64), Err(ElfError::NotElf));
        let whole = elf(62, 1);
        for length in 0..67 {
            assert!(
                check_static(&whole[..length], Arch::Amd64).is_err(),
                "{length} bytes were accepted"
            );
        }
        let mut lying = whole;
        lying[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(check_static(&lying, Arch::Amd64), Err(ElfError::Truncated));
    }
}
