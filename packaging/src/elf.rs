//! Is this file a static Linux executable of the expected processor?
//!
//! Only the few header fields that answer the question are read (System V ABI, "ELF Header" and
//! "Program Header"); every offset comes from outside, so every read is bounds-checked.

use crate::image::Arch;

const PT_INTERP: u32 = 3;
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
    #[error("it needs a dynamic loader; build it with RUSTFLAGS=\"-C target-feature=+crt-static\"")]
    Dynamic,
}

/// Accepts `file` if it runs on `arch` without any other file.
///
/// # Errors
/// [`ElfError`] names the first thing that is wrong.
pub fn check_static(file: &[u8], arch: Arch) -> Result<(), ElfError> {
    if file.get(..4) != Some(b"\x7fELF") {
        return Err(ElfError::NotElf);
    }
    if file.get(4) != Some(&CLASS_64) || file.get(5) != Some(&LITTLE_ENDIAN) {
        return Err(ElfError::NotExecutable);
    }
    if !matches!(u16_at(file, 16)?, ET_EXEC | ET_DYN) {
        return Err(ElfError::NotExecutable);
    }
    let found = u16_at(file, 18)?;
    if found != arch.elf_machine() {
        return Err(ElfError::OtherMachine { found, wanted: arch });
    }
    let table = usize::try_from(u64_at(file, 32)?).map_err(|_| ElfError::Truncated)?;
    let (entry_size, entries) = (usize::from(u16_at(file, 54)?), usize::from(u16_at(file, 56)?));
    for index in 0..entries {
        let at = table.checked_add(index * entry_size).ok_or(ElfError::Truncated)?;
        if u32_at(file, at)? == PT_INTERP {
            return Err(ElfError::Dynamic);
        }
    }
    Ok(())
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
