//! `host enroll --out`: the file that is carried to a host which does not reach the master yet.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use decnet_pki::files;
use decnet_wire::ids::Digest;
use hyper::Method;
use sha2::{Digest as _, Sha256};

use super::super::Console;
use super::super::client::Client;
use super::super::failure::Failure;
use crate::serve::operator::views::{EnrollView, FileView};
use crate::text::chain;

/// Writes the file, for its owner alone: packages and token, or the token where the master has no packages.
pub(super) async fn write(
    path: &Path,
    name: &str,
    view: &EnrollView,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let shown = path.display();
    let Some(file) = &view.file else {
        files::write_private(path, format!("{}\n", view.token).as_bytes())
            .map_err(|error| Failure::Failed(chain(&error)))?;
        console.remark(&format!(
            "The token is in {shown}. Carry it to {name}, and run there as root before {}: decnet-agent enroll --file FILE",
            view.expires_at
        ));
        return Ok(());
    };
    if let Err(error) = whole(path, file, client).await {
        // Cut off it would be of no use, and it holds the token.
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    console.remark(&format!(
        "Carry {shown} to {name}, run there: sudo sh FILE, and remove it. It works once, for {name}, until {}; whoever has it \
         until then can become {name}",
        view.expires_at
    ));
    Ok(())
}

async fn whole(path: &Path, file: &FileView, client: &Client) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Failed(format!("cannot write {}: {error}", path.display()));
    let mut out = create(path).map_err(failed)?;
    out.write_all(file.script.as_bytes()).map_err(failed)?;
    for package in &file.packages {
        let mut out = Measured {
            out: &out,
            hash: Sha256::new(),
        };
        let from = format!("/api/v1/swarm/packages/{}", package.digest);
        client.download(Method::GET, &from, &mut out).await?;
        let found = Digest::from_sha256(out.hash.finalize().into());
        if found != package.digest {
            return Err(Failure::Failed(format!(
                "the master sent a package with the digest {found}, not {}: it was changed; restart the master",
                package.digest
            )));
        }
    }
    out.sync_all().map_err(failed)
}

/// A file that nobody else has open: one that is there may be anybody's.
fn create(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// A file that knows the digest of what was written to it.
struct Measured<'a> {
    out: &'a File,
    hash: Sha256,
}

impl Write for Measured<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
