//! The master's keys and certificates on disk, under `<state>/keys/` (0700, files 0600).
//!
//! | file | holds | signs |
//! | --- | --- | --- |
//! | `operator.pem` | the operator's Ed25519 key | the trust root |
//! | `online.pem` | the master's Ed25519 key | bundles |
//! | `ca.crt`, `ca.pem` | the issuing CA (P-256) | host and server leaves |
//! | `trust-root.json` | the signed trust root | |

use std::path::{Path, PathBuf};

use decnet_pki::ca::{CaError, CertificateAuthority};
use decnet_pki::envelope::Envelope;
use decnet_pki::files::{self, FileError};
use decnet_pki::key::{KeyError, SigningKey};
use decnet_wire::ids::{FleetId, Timestamp};
use decnet_wire::trust::{self, TrustRoot};

/// How long the trust root lets the online key sign bundles.
const ONLINE_KEY_LIFETIME: time::Duration = time::Duration::days(365);

/// The most that a key or certificate file may hold, in bytes.
const FILE_CAP: usize = 64 * 1024;

/// What the running master needs. The operator's key is not part of it.
#[derive(Debug)]
pub struct MasterKeys {
    pub online: SigningKey,
    pub ca: CertificateAuthority,
    /// The signed trust root, as agents get it.
    pub trust_root: Envelope,
}

/// What went wrong with the keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("could not make the keys")]
    Generate(#[source] KeyError),
    #[error("could not make the CA, or it does not read")]
    Authority(#[source] CaError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the file {path} is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
    #[error("could not write the trust root as JSON")]
    Encode(#[source] serde_json::Error),
}

impl MasterKeys {
    /// Makes all keys and the first trust root, and writes them.
    ///
    /// # Errors
    /// No randomness, or the folder cannot be written.
    pub fn create(folder: &Path, fleet: FleetId, now: Timestamp) -> Result<Self, KeysError> {
        let operator = SigningKey::generate().map_err(KeysError::Generate)?;
        let online = SigningKey::generate().map_err(KeysError::Generate)?;
        let ca = CertificateAuthority::create(&format!("DECNET {fleet}"), now.get())
            .map_err(KeysError::Authority)?;
        let root = TrustRoot {
            schema: trust::SCHEMA,
            fleet,
            version: 1,
            epoch: 1,
            threshold: 1,
            operator_keys: vec![operator.public().to_string()],
            online_key: online.public().to_string(),
            online_key_expires_at: Timestamp::new(now.get() + ONLINE_KEY_LIFETIME),
            ca_certificates: vec![ca.cert_pem()],
        };
        let payload = serde_json::to_vec(&root).map_err(KeysError::Encode)?;
        let trust_root = Envelope::sign(trust::PAYLOAD_TYPE, payload, &[&operator]);
        files::create_private_dir(folder)?;
        files::write_private(&folder.join("operator.pem"), operator.to_pkcs8_pem().as_bytes())?;
        files::write_private(&folder.join("online.pem"), online.to_pkcs8_pem().as_bytes())?;
        files::write_private(&folder.join("ca.crt"), ca.cert_pem().as_bytes())?;
        files::write_private(&folder.join("ca.pem"), ca.key_pem().as_bytes())?;
        files::write_private(&folder.join("trust-root.json"), &trust_root.to_json())?;
        Ok(Self {
            online,
            ca,
            trust_root,
        })
    }

    /// Reads what [`MasterKeys::create`] wrote.
    ///
    /// # Errors
    /// A file is missing, damaged or readable by others.
    pub fn load(folder: &Path) -> Result<Self, KeysError> {
        let text = |name: &str| -> Result<String, KeysError> {
            let path = folder.join(name);
            let bytes = files::read_private(&path, FILE_CAP)?;
            String::from_utf8(bytes.to_vec()).map_err(|_| KeysError::Damaged {
                path,
                reason: "it is not text".to_owned(),
            })
        };
        let damaged = |name: &str, error: &dyn std::error::Error| KeysError::Damaged {
            path: folder.join(name),
            reason: error.to_string(),
        };
        let online = SigningKey::from_pkcs8_pem(&text("online.pem")?)
            .map_err(|error| damaged("online.pem", &error))?;
        let ca =
            CertificateAuthority::from_pem(&text("ca.crt")?, &text("ca.pem")?).map_err(
                |error| match error {
                    CaError::Certificate(_) => damaged("ca.crt", &error),
                    _ => damaged("ca.pem", &error),
                },
            )?;
        let trust_root = Envelope::parse(text("trust-root.json")?.as_bytes(), FILE_CAP)
            .map_err(|error| damaged("trust-root.json", &error))?;
        Ok(Self {
            online,
            ca,
            trust_root,
        })
    }
}
