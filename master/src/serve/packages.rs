//! The agent's packages that lie beside the master, for hosts that are to become its own.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use decnet_wire::ids::Digest;
use tokio::io::AsyncReadExt as _;

use super::blobs;
use super::message::Body;

/// How the names of the agent's packages begin, with what follows in each format.
const DEB: &str = "decnet-agent_";
const RPM: &str = "decnet-agent-";

/// A package of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Format and processor, as dpkg or rpm calls it: `deb-amd64`, `rpm-x86_64`.
    pub kind: String,
    /// With its revision.
    pub version: String,
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    pub path: PathBuf,
}

/// What can be handed out: one package of a kind.
#[derive(Debug, Clone, Default)]
pub struct Packages(Vec<Package>);

/// The packages cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
pub struct PackagesError {
    path: PathBuf,
    source: io::Error,
}

impl Packages {
    /// The packages in a folder, by kind. None where there is no folder; other files are left alone, and so are two packages of
    /// one kind, of which nobody could say which is meant.
    ///
    /// # Errors
    /// The folder or a package does not read.
    pub fn load(folder: &Path) -> Result<Self, PackagesError> {
        let failed = |path: &Path, source| PackagesError {
            path: path.to_owned(),
            source,
        };
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(failed(folder, source)),
        };
        let mut found: BTreeMap<String, Vec<(String, PathBuf)>> = BTreeMap::new();
        for entry in entries {
            let path = entry.map_err(|source| failed(folder, source))?.path();
            let named = path.file_name().and_then(|name| named(name.to_str()?));
            if let Some((kind, version)) = named {
                found.entry(kind).or_default().push((version, path));
            }
        }
        let mut packages = Vec::new();
        for (kind, mut candidates) in found {
            let Some((version, path)) = candidates.pop().filter(|_| candidates.is_empty()) else {
                tracing::error!(
                    folder = %folder.display(),
                    "there are several packages of the kind {kind}: none of them is handed out; remove all but one"
                );
                continue;
            };
            let (digest, size) = blobs::measure(&path).map_err(|source| failed(&path, source))?;
            packages.push(Package {
                kind,
                version,
                digest,
                size,
                path,
            });
        }
        Ok(Self(packages))
    }

    /// All of them, by kind.
    #[must_use]
    pub fn all(&self) -> &[Package] {
        &self.0
    }

    /// The package with this digest.
    #[must_use]
    pub fn find(&self, digest: &Digest) -> Option<&Package> {
        self.0.iter().find(|package| package.digest == *digest)
    }
}

impl Package {
    /// Its bytes, as many as it had when it was looked at. Who reads them has to look at their digest.
    ///
    /// # Errors
    /// The file does not read, or has another size now.
    pub async fn open(&self) -> io::Result<Body> {
        let file = tokio::fs::File::open(&self.path).await?;
        let size = file.metadata().await?.len();
        if size != self.size {
            let text = format!("it had {} bytes and has {size}; restart the master", self.size);
            return Err(io::Error::other(text));
        }
        Ok(blobs::stream(file.take(size)))
    }
}

/// Kind and version of the package that a file's name says.
fn named(name: &str) -> Option<(String, String)> {
    let (format, version, arch) = if let Some(rest) = name.strip_suffix(".deb") {
        let (version, arch) = rest.strip_prefix(DEB)?.rsplit_once('_')?;
        ("deb", version, arch)
    } else {
        let rest = name.strip_suffix(".rpm")?.strip_prefix(RPM)?;
        let (version, arch) = rest.rsplit_once('.')?;
        ("rpm", version, arch)
    };
    // They come into a script.
    let plain = |text: &str, more: &[u8]| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
    };
    let is_version = version.starts_with(|first: char| first.is_ascii_digit()) && plain(version, b".~-+");
    (is_version && plain(arch, b"_-")).then(|| (format!("{format}-{arch}"), version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_agents_packages_are_packages_and_names_that_no_script_can_hold_are_none() {
        let kind = |name: &str| named(name).map(|(kind, version)| format!("{kind} {version}"));
        for (name, expected) in [
            ("decnet-agent_0.1.0-1_amd64.deb", Some("deb-amd64 0.1.0-1")),
            (
                "decnet-agent-1.2.0~rc1-1.x86_64.rpm",
                Some("rpm-x86_64 1.2.0~rc1-1"),
            ),
            ("decnet-agent-1.2.0-1.aarch64.rpm", Some("rpm-aarch64 1.2.0-1")),
            ("decnet_0.1.0-1_amd64.deb", None),
            ("decnet-0.1.0-1.x86_64.rpm", None),
            ("decnet-agent-dbgsym-1.0-1.x86_64.rpm", None),
            ("decnet-agent_0.1.0-1_amd64.deb.part", None),
            ("decnet-agent_0.1'; reboot; '_amd64.deb", None),
            ("decnet-agent_1_$(id).deb", None),
            ("decnet-agent__amd64.deb", None),
            ("decnet-agent_1_.deb", None),
        ] {
            assert_eq!(kind(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn a_folder_gives_one_package_of_a_kind_and_none_where_that_is_in_doubt() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str| std::fs::write(folder.path().join(name), name).unwrap();
        assert!(
            Packages::load(&folder.path().join("none"))
                .unwrap()
                .all()
                .is_empty()
        );
        put("README");
        put("decnet-agent_1.0-1_amd64.deb");
        put("decnet-agent-1.0-1.x86_64.rpm");
        let packages = Packages::load(folder.path()).unwrap();
        let kinds: Vec<_> = packages
            .all()
            .iter()
            .map(|package| package.kind.as_str())
            .collect();
        assert_eq!(kinds, ["deb-amd64", "rpm-x86_64"]);
        let deb = &packages.all()[0];
        assert_eq!((deb.size, packages.find(&deb.digest)), (28, Some(deb)));
        put("decnet-agent_1.1-1_amd64.deb");
        let packages = Packages::load(folder.path()).unwrap();
        assert_eq!(packages.all().len(), 1);
        assert!(packages.find(&deb.digest).is_none());
    }

    #[tokio::test]
    async fn a_package_that_has_another_size_than_it_had_is_not_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decnet-agent_1.0-1_amd64.deb");
        std::fs::write(&path, "package").unwrap();
        let packages = Packages::load(folder.path()).unwrap();
        assert!(packages.all()[0].open().await.is_ok());
        std::fs::write(&path, "packages").unwrap();
        assert!(packages.all()[0].open().await.is_err());
    }
}
