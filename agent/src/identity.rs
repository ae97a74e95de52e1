//! Who this host is: its key, its certificate and the trust root. One private file, replaced as a whole.

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use decnet_pki::certificate::{CertificateError, Leaf};
use decnet_pki::files::{self, FileError};
use decnet_pki::key::{HostKey, KeyError};
use decnet_pki::root::Root;
use decnet_pki::tls::{self, TlsError};
use decnet_wire::enrol::HostNetwork;
use decnet_wire::ids::{Digest, FleetId, HostId, HostName};
use decnet_wire::limits;
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};

use crate::admit::Audience;
use crate::config::{HostPort, HostPortError};
use crate::trust::{self, TrustError, wire_digest};

mod store;

pub(crate) use store::IdentityStore;

const FILE: &str = "identity.json";
const SCHEMA: u32 = 1;
const LONGEST: usize = 2 * limits::ENROLMENT;
const LONGEST_KEY: usize = 8 * 1024;

/// The file's content.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stored {
    pub(crate) schema: u32,
    pub(crate) fleet: FleetId,
    pub(crate) host: HostId,
    pub(crate) name: HostName,
    pub(crate) agent_api: String,
    pub(crate) network: HostNetwork,
    pub(crate) certificate: String,
    /// PKCS #8. It was made on this host and is in no other file.
    pub(crate) key: String,
    pub(crate) trust_root: serde_json::Value,
    /// Where the enrolment listener is: `host:port`. A certificate that has ended is replaced there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) enrol_at: Option<String>,
    /// The key and certificate of before, until the present ones have worked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) previous: Option<StoredPair>,
}

/// A key and its certificate.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredPair {
    certificate: String,
    key: String,
}

impl Stored {
    pub(crate) const SCHEMA: u32 = SCHEMA;

    fn load(state_dir: &Path) -> Result<Self, IdentityError> {
        let path = state_dir.join(FILE);
        if !path.try_exists().unwrap_or(true) {
            return Err(IdentityError::NotEnrolled { path });
        }
        let bytes = files::read_private(&path, LONGEST).map_err(IdentityError::Read)?;
        serde_json::from_slice(&bytes).map_err(|source| IdentityError::Malformed { path, source })
    }

    /// Whoever reads during a crash finds the old one or the new one.
    fn write(&self, state_dir: &Path) -> Result<(), IdentityError> {
        // Plain strings and JSON values: writing them as JSON cannot fail, but a file must not be emptied.
        let path = state_dir.join(FILE);
        let bytes = serde_json::to_vec_pretty(self).map_err(|source| IdentityError::Malformed {
            path: path.clone(),
            source,
        })?;
        files::write_private(&path, &bytes).map_err(IdentityError::Write)
    }
}

/// An enrolled host.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) fleet: FleetId,
    pub(crate) host: HostId,
    pub(crate) name: HostName,
    pub(crate) agent_api: HostPort,
    pub(crate) network: HostNetwork,
    pub(crate) leaf: Leaf,
    pub(crate) key: HostKey,
    pub(crate) root: Root,
    pub(crate) enrol_at: Option<HostPort>,
    /// The present key has not been seen to work, and the one of before is still there.
    pub(crate) on_trial: bool,
}

/// The identity cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(
        "this host is not enrolled (there is no {path}): run `decnet host enroll NAME` at the master, then here, as root, the `decnet-agent enroll` that it prints"
    )]
    NotEnrolled { path: PathBuf },
    #[error("cannot read the identity")]
    Read(#[source] FileError),
    #[error("cannot write the identity")]
    Write(#[source] FileError),
    #[error("the identity {path} is damaged; enrol again with --force")]
    Malformed {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the identity is of version {0}, this agent knows version {SCHEMA}")]
    Schema(u32),
    #[error("the host key cannot be used")]
    Key(#[source] KeyError),
    #[error("the host's certificate cannot be read")]
    Certificate(#[source] CertificateError),
    #[error("the host's certificate is for another key")]
    KeyMismatch,
    #[error("TLS cannot be spoken with this identity")]
    Tls(#[source] TlsError),
    #[error("the stored trust root cannot be believed")]
    Trust(#[source] TrustError),
    #[error("the master's address is not usable")]
    Address(#[source] HostPortError),
    #[error("cannot remove {path}")]
    Remove {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl Identity {
    /// Reads the identity out of a state folder.
    pub(crate) fn load(state_dir: &Path) -> Result<Self, IdentityError> {
        Self::from_stored(&Stored::load(state_dir)?)
    }

    /// Makes sense of what is, or is about to be, stored.
    pub(crate) fn from_stored(stored: &Stored) -> Result<Self, IdentityError> {
        if stored.schema != SCHEMA {
            return Err(IdentityError::Schema(stored.schema));
        }
        let key = HostKey::from_pkcs8_pem(&stored.key).map_err(IdentityError::Key)?;
        let leaf = Leaf::from_pem(&stored.certificate).map_err(IdentityError::Certificate)?;
        if leaf.key_digest() != key.digest() {
            return Err(IdentityError::KeyMismatch);
        }
        Ok(Self {
            fleet: stored.fleet,
            host: stored.host,
            name: stored.name.clone(),
            agent_api: stored.agent_api.parse().map_err(IdentityError::Address)?,
            network: stored.network.clone(),
            leaf,
            key,
            root: trust::stored(&stored.trust_root).map_err(IdentityError::Trust)?,
            enrol_at: stored
                .enrol_at
                .as_deref()
                .map(str::parse)
                .transpose()
                .map_err(IdentityError::Address)?,
            on_trial: stored.previous.is_some(),
        })
    }

    /// Replaces the identity with that of a finished enrolment.
    pub(crate) fn store(state_dir: &Path, stored: &Stored) -> Result<(), IdentityError> {
        stored.write(state_dir)?;
        PendingKey::Enrolment.forget(state_dir)
    }

    /// Keeps the identity in another folder as well.
    pub(crate) fn copy(state_dir: &Path, to: &Path) -> Result<(), IdentityError> {
        Stored::load(state_dir)?.write(to)
    }

    /// Overwrites the keys of a folder, and removes them. What a disk keeps of what was overwritten is its own.
    pub(crate) fn erase(folder: &Path) -> Result<(), IdentityError> {
        let pending = [PendingKey::Enrolment, PendingKey::Renewal].map(|key| key.path(folder));
        for path in pending.into_iter().chain([folder.join(FILE)]) {
            match erase(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(IdentityError::Remove { path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the certificate is one of a CA that the trust root lists.
    pub(crate) fn is_of_a_known_authority(&self) -> bool {
        self.root.authorities().iter().any(|known| self.leaf.is_of(known))
    }

    /// Whom bundles must be for and whose signature counts.
    fn audience(&self) -> Audience {
        Audience {
            fleet: self.fleet,
            host: self.host,
            host_key: self.host_key(),
            root: self.root.clone(),
        }
    }

    /// SHA-256 of the host key's SubjectPublicKeyInfo.
    pub(crate) fn host_key(&self) -> Digest {
        wire_digest(self.key.digest().sha256())
    }

    /// The TLS that the agent API is spoken with.
    pub(crate) fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        tls::client_config(self.root.authorities(), &self.leaf, &self.key)
    }
}

fn erase(path: &Path) -> std::io::Result<()> {
    let found = std::fs::symlink_metadata(path)?;
    if !found.is_file() {
        // A link to somebody else's file, say.
        return std::fs::remove_file(path);
    }
    let mut file = std::fs::File::options()
        .write(true)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)?;
    std::io::copy(&mut std::io::repeat(0).take(found.len()), &mut file)?;
    file.sync_all()?;
    std::fs::remove_file(path)
}

/// A key that is to become the host's, on disk before anybody hears of it: a retry with the same key is answered as
/// the first try was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PendingKey {
    Enrolment,
    Renewal,
}

impl PendingKey {
    fn path(self, state_dir: &Path) -> PathBuf {
        state_dir.join(match self {
            Self::Enrolment => "enrolling.key",
            Self::Renewal => "renewing.key",
        })
    }

    /// The one that an interrupted try left, or a new one.
    pub(crate) fn get(self, state_dir: &Path) -> Result<HostKey, IdentityError> {
        let path = self.path(state_dir);
        if path.try_exists().unwrap_or(true) {
            let bytes = files::read_private(&path, LONGEST_KEY).map_err(IdentityError::Read)?;
            let pending = std::str::from_utf8(&bytes)
                .ok()
                .and_then(|text| HostKey::from_pkcs8_pem(text).ok());
            // A key that is the identity's already belongs to a try that was finished.
            let finished = Identity::load(state_dir).ok();
            if let Some(key) = pending
                && finished.is_none_or(|identity| identity.key.digest() != key.digest())
            {
                return Ok(key);
            }
        }
        let key = HostKey::generate().map_err(IdentityError::Key)?;
        files::write_private(&path, key.to_pkcs8_pem().as_bytes()).map_err(IdentityError::Write)?;
        Ok(key)
    }

    /// Removes it, once it is the identity's or of no more use.
    pub(crate) fn forget(self, state_dir: &Path) -> Result<(), IdentityError> {
        let path = self.path(state_dir);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(IdentityError::Remove { path, source })
            }
            _ => Ok(()),
        }
    }
}
