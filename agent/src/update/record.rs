//! What rpm's database says of the installed version, kept before an update and put back by rpm itself.
//!
//! `rpmdb --exportdb` gives the headers of all packages, one after the other, and `--importdb` adds such headers. A header
//! is 16 bytes (magic, entries, bytes of data), the entries of 16 bytes each (tag, type, offset, count), and the data.
//! All numbers are big-endian.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use decnet_pki::files;
use tokio::io::{AsyncRead, AsyncReadExt as _, BufReader};
use tokio::time::timeout;

use super::package::{NAME, WORK, command, run, run_with};
use crate::error::error_chain;

const MAGIC: [u8; 8] = [0x8e, 0xad, 0xe8, 0x01, 0, 0, 0, 0];
const ENTRY: usize = 16;
/// rpm takes no header that has more data.
const LONGEST: u64 = 256 * 1024 * 1024;
const TAG_NAME: u32 = 1000;
const TAG_VERSION: u32 = 1001;
const TAG_RELEASE: u32 = 1002;

/// Writes the installed version's record into a file.
pub(super) async fn keep(version: &str, file: &Path) -> Result<(), String> {
    let mut exporting = command("rpmdb")
        .arg("--exportdb")
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run rpmdb: {error}"))?;
    let headers = exporting.stdout.take().ok_or("rpmdb has no output")?;
    let found = timeout(WORK, find(BufReader::new(headers), version))
        .await
        .map_err(|_| format!("rpmdb did not end within {} s", WORK.as_secs()))??;
    let header = found.ok_or_else(|| format!("rpm has no record of {NAME} {version}"))?;
    files::write_private(file, &header).map_err(|error| error_chain(&error))
}

/// Puts a version's record back, and removes those of others with the files that only they have. What was cut off can be
/// done again: in between rpm knows of both, as it does in the middle of an upgrade.
pub(super) async fn put_back(version: &str, file: &Path) -> Result<(), String> {
    if !known().await.iter().any(|known| known == version) {
        let header =
            File::open(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
        run_with("rpmdb", ["--importdb"], header.into(), WORK).await?;
    }
    let (same, others): (Vec<_>, Vec<_>) = known().await.into_iter().partition(|known| known == version);
    // Without it, the files that run would go with the other version.
    if same.is_empty() {
        return Err(format!("rpm does not take the record of {NAME} {version}"));
    }
    for other in others {
        // Its scripts are those of a version that does not work. Files that the other one has as well stay.
        let package = format!("{NAME}-{other}");
        run("rpm", ["--erase", "--nodeps", "--noscripts", &package], WORK).await?;
    }
    Ok(())
}

/// The versions that rpm says are installed.
async fn known() -> Vec<String> {
    let asked = ["-q", "--queryformat", "%{VERSION}-%{RELEASE}\\n", NAME];
    // rpm fails where there is none.
    let said = run("rpm", asked, WORK).await.unwrap_or_default();
    said.lines().map(str::to_owned).collect()
}

/// The header of this package and version, as it is among others.
async fn find(mut headers: impl AsyncRead + Unpin, version: &str) -> Result<Option<Vec<u8>>, String> {
    let damaged = |error| format!("rpm's headers cannot be read: {error}");
    let mut found = None;
    loop {
        let mut header = Vec::new();
        let mut begin = (&mut headers).take(ENTRY as u64);
        if begin.read_to_end(&mut header).await.map_err(damaged)? == 0 {
            return Ok(found);
        }
        let Some((entries, data)) = sizes(&header) else {
            return Err("rpm's headers are of no form that is known".to_owned());
        };
        let length = entries * ENTRY as u64 + data;
        let mut rest = (&mut headers).take(length);
        if rest.read_to_end(&mut header).await.map_err(damaged)? as u64 != length {
            return Err("rpm's headers break off".to_owned());
        }
        let says = |tag| text(&header, entries, tag).unwrap_or_default();
        let full = format!("{}-{}", says(TAG_VERSION), says(TAG_RELEASE));
        if says(TAG_NAME) == NAME && full == version {
            found = Some(header);
        }
    }
}

/// How many entries a header has, and how many bytes of data; none where it is no header.
fn sizes(header: &[u8]) -> Option<(u64, u64)> {
    let (entries, data) = (number(header, 8)?, number(header, 12)?);
    let (entries, data) = (u64::from(entries), u64::from(data));
    (header.starts_with(&MAGIC) && entries * ENTRY as u64 + data <= LONGEST).then_some((entries, data))
}

/// The text that a header has for a tag.
fn text(header: &[u8], entries: u64, tag: u32) -> Option<&str> {
    let (index, data) = header.get(ENTRY..)?.split_at_checked(entries as usize * ENTRY)?;
    let entry = index
        .chunks_exact(ENTRY)
        .find(|entry| number(entry, 0) == Some(tag))?;
    let text = data.get(number(entry, 8)? as usize..)?;
    let text = text.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(text).ok()
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(four.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, version: &str, release: &str) -> Vec<u8> {
        let texts = [(TAG_NAME, name), (TAG_VERSION, version), (TAG_RELEASE, release)];
        let (mut index, mut data) = (Vec::new(), Vec::new());
        for (tag, text) in texts {
            for number in [tag, 6, data.len() as u32, 1] {
                index.extend(number.to_be_bytes());
            }
            data.extend(text.as_bytes());
            data.push(0);
        }
        let counts = [texts.len() as u32, data.len() as u32].map(u32::to_be_bytes);
        [MAGIC.to_vec(), counts.concat(), index, data].concat()
    }

    #[tokio::test]
    async fn a_record_is_found_among_others_as_it_is() {
        let wanted = header("decnet-agent", "1.0.0", "1");
        let others = [
            header("decnet", "1.0.0", "1"),
            header("decnet-agent", "1.1.0", "1"),
            header("bash", "5", "1"),
        ];
        let all = [&others[0], &wanted, &others[1], &others[2]]
            .map(Vec::as_slice)
            .concat();
        assert_eq!(find(&all[..], "1.0.0-1").await.unwrap(), Some(wanted));
        assert_eq!(find(&all[..], "1.2.0-1").await.unwrap(), None);
        assert_eq!(find(&[][..], "1.0.0-1").await.unwrap(), None);
    }

    #[tokio::test]
    async fn headers_that_break_off_or_are_none_are_no_records() {
        let whole = header("decnet-agent", "1.0.0", "1");
        for length in 1..whole.len() {
            assert!(find(&whole[..length], "1.0.0-1").await.is_err(), "{length} bytes");
        }
        let mut other = whole.clone();
        other[0] = 0;
        assert!(find(&other[..], "1.0.0-1").await.is_err());
        let mut endless = whole;
        endless[12..16].fill(0xff);
        assert!(find(&endless[..], "1.0.0-1").await.is_err());
        // An entry that leads beyond the data.
        let mut beyond = header("decnet-agent", "1.0.0", "1");
        beyond[16 + 8..16 + 12].fill(0xff);
        assert_eq!(find(&beyond[..], "1.0.0-1").await.unwrap(), None);
    }
}
