//! `decnet-pack`: makes what is shipped. One subcommand for each thing.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use decnet_packaging::image::{self, Arch, Reference};

/// Largest binary that is read: far above any decoy, far below what fills a builder's memory.
const MAX_BINARY: u64 = 256 << 20;

#[derive(Debug, Parser)]
#[command(version, about = "Makes what DECNET ships")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the decoy image archive, and its description as JSON beside it and on standard output
    Image {
        /// The static decoy binary
        #[arg(long, value_name = "PATH")]
        binary: PathBuf,
        /// Where to write the archive; the description gets the same name with .json
        #[arg(long, value_name = "FILE", default_value = "decoy-image.tar")]
        out: PathBuf,
        /// Name and tag of the image [default: decnet/decoy:<first 12 hex digits of the config digest>]
        #[arg(long, value_name = "NAMESPACE/NAME:TAG")]
        reference: Option<Reference>,
        /// Processor the binary was built for
        #[arg(long, value_enum, default_value_t = Arch::Amd64)]
        arch: Arch,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Image {
            binary,
            out,
            reference,
            arch,
        } => make_image(&binary, &out, reference, arch),
    }
}

fn make_image(binary: &Path, out: &Path, reference: Option<Reference>, arch: Arch) -> anyhow::Result<()> {
    let beside = out.with_extension("json");
    if beside == out {
        bail!(
            "--out {} would be overwritten by its own description; name it .tar",
            out.display()
        );
    }
    let bytes =
        read_capped(binary).with_context(|| format!("cannot read the binary {}", binary.display()))?;
    let archive = image::build(&bytes, arch, reference)
        .with_context(|| format!("cannot make an image of {}", binary.display()))?;
    let mut description = serde_json::to_string_pretty(&archive.description).context("describe the image")?;
    description.push('\n');
    replace(out, &archive.bytes)?;
    replace(&beside, description.as_bytes())?;
    print!("{description}");
    Ok(())
}

fn read_capped(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BINARY + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BINARY {
        bail!("it is larger than {} MiB", MAX_BINARY >> 20);
    }
    Ok(bytes)
}

/// Whole or not at all: a reader never sees half an archive.
fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new()
            .permissions(readable_by_all())
            .tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn readable_by_all() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}
