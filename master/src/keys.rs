//! The master's keys and certificates on disk, under `<state>/keys/` (0700, files 0600).
//!
//! | file | holds | signs |
//! | --- | --- | --- |
//! | `operator.pem` | the operator's Ed25519 key, until it is moved elsewhere | trust roots |
//! | `online.pem` | the master's Ed25519 key | bundles |
//! | `online.next.pem` | the one that a coming trust root names | nothing yet |
//! | `authorities/PIN.pem` | the key (P-256) of each CA that the trust root lists | host and server leaves |
//! | `authority.next.pem`, `.crt` | the CA that a coming trust root lists | nothing yet |
//! | `ca.crt` | the certificates of those that are listed, for operators to take along | |
//! | `trust-root.json` | the signed trust root that counts | |
//! | `trust-roots/N.json` | the signed trust root of version N | |
//!
//! A change of keys is decided by the one rename that replaces `trust-root.json`: before it the old keys count, after
//! it the new ones, which lie there already.
//!
//! The trust root lists CAs from the newest to the oldest. The newest issues hosts' certificates. The oldest stands
//! behind the listeners, so that a host which has not heard of the newest still finds the master.

use std::path::{Path, PathBuf};

use decnet_pki::ca::{CaError, CertificateAuthority};
use decnet_pki::certificate::{CaCertificate, CaPin};
use decnet_pki::envelope::{Envelope, ParseError};
use decnet_pki::files::{self, FileError};
use decnet_pki::key::{KeyError, PublicKey, SigningKey};
use decnet_pki::root::{Root, RootError};
use decnet_wire::ids::{FleetId, Timestamp};
use decnet_wire::limits;
use decnet_wire::trust::{self, TrustRoot};

/// How long the trust root lets the online key sign bundles.
pub const ONLINE_KEY_LIFETIME: time::Duration = time::Duration::days(365);

/// The operator's key, in the folder of the keys.
pub const OPERATOR: &str = "operator.pem";
const ONLINE: &str = "online.pem";
const ONLINE_NEXT: &str = "online.next.pem";
const CA_CERTIFICATE: &str = "ca.crt";
const AUTHORITIES: &str = "authorities";
const AUTHORITY_NEXT: &str = "authority.next.crt";
const AUTHORITY_NEXT_KEY: &str = "authority.next.pem";
const ROOT: &str = "trust-root.json";
const ROOTS: &str = "trust-roots";

/// The most that a key or certificate file may hold, in bytes.
const FILE_CAP: usize = 64 * 1024;

/// What the running master needs. The operator's key is not part of it.
#[derive(Debug)]
pub struct MasterKeys {
    folder: PathBuf,
    pub online: SigningKey,
    authorities: Authorities,
    /// The trust root that counts.
    pub root: Root,
}

/// The CAs that the trust root lists.
#[derive(Debug)]
struct Authorities {
    newest: CertificateAuthority,
    /// From the second newest to the oldest.
    older: Vec<CertificateAuthority>,
}

impl Authorities {
    fn all(&self) -> impl Iterator<Item = &CertificateAuthority> {
        std::iter::once(&self.newest).chain(&self.older)
    }
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
    #[error("the trust root is not one")]
    Parse(#[source] ParseError),
    #[error("the trust root is refused")]
    Root(#[source] RootError),
    #[error(
        "the trust root names the online key {key}, which this master does not have: draft it here (decnet key rotate)"
    )]
    ForeignOnlineKey { key: PublicKey },
    #[error(
        "the trust root lists the CA {pin}, which this master does not have: draft it here (decnet key rotate)"
    )]
    ForeignAuthority { pin: CaPin },
    #[error("the trust root lists no CA")]
    NoAuthority,
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
        let document = TrustRoot {
            schema: trust::SCHEMA,
            fleet,
            version: 1,
            epoch: 1,
            threshold: 1,
            operator_keys: vec![operator.public().to_string()],
            online_key: online.public().to_string(),
            online_key_expires_at: Timestamp::new(now.get() + ONLINE_KEY_LIFETIME),
            ca_certificates: vec![ca.cert_pem()],
            policy: None,
        };
        let payload = serde_json::to_vec(&document).map_err(KeysError::Encode)?;
        let envelope = Envelope::sign(trust::PAYLOAD_TYPE, payload, &[&operator]);
        let root = Root::stored(envelope).map_err(KeysError::Root)?;
        files::create_private_dir(folder)?;
        files::write_private(&folder.join(OPERATOR), operator.to_pkcs8_pem().as_bytes())?;
        files::write_private(&folder.join(ONLINE), online.to_pkcs8_pem().as_bytes())?;
        files::write_private(&folder.join(CA_CERTIFICATE), ca.cert_pem().as_bytes())?;
        files::create_private_dir(&folder.join(AUTHORITIES))?;
        files::write_private(&authority_path(folder, ca.pin()), ca.key_pem().as_bytes())?;
        write_root(folder, &root)?;
        Ok(Self {
            folder: folder.to_owned(),
            online,
            authorities: Authorities {
                newest: ca,
                older: Vec::new(),
            },
            root,
        })
    }

    /// Reads what [`MasterKeys::create`] wrote, and ends a change of keys that was decided and not finished.
    ///
    /// # Errors
    /// A file is missing, damaged or readable by others.
    pub fn load(folder: &Path) -> Result<Self, KeysError> {
        let path = folder.join(ROOT);
        let damaged = |path: &Path, reason: String| KeysError::Damaged {
            path: path.to_owned(),
            reason,
        };
        let bytes = files::read_private(&path, limits::ENROLMENT)?;
        let envelope =
            Envelope::parse(&bytes, limits::ENROLMENT).map_err(|error| damaged(&path, error.to_string()))?;
        let root = Root::stored(envelope).map_err(|error| damaged(&path, error.to_string()))?;

        let authorities = settle_authorities(folder, &root)?;
        let (current, next) = (folder.join(ONLINE), folder.join(ONLINE_NEXT));
        let mut online = signing_key(&current)?;
        if online.public() != *root.online_key() && next.exists() {
            let staged = signing_key(&next)?;
            if staged.public() == *root.online_key() {
                files::write_private(&current, staged.to_pkcs8_pem().as_bytes())?;
                online = staged;
            }
        }
        if online.public() == *root.online_key() {
            // A key that is not named yet is kept: its root may be on its way through other hands.
            discard_if(&next, &online.public())?;
        } else {
            return Err(damaged(
                &current,
                format!("the trust root names the online key {}", root.online_key()),
            ));
        }
        let keys = Self {
            folder: folder.to_owned(),
            online,
            authorities,
            root,
        };
        if keys.root_document(keys.root.version())?.is_none() {
            write_root(folder, &keys.root)?;
        }
        Ok(keys)
    }

    /// The online key that the next trust root may name: made once, and kept until a root has named it.
    ///
    /// # Errors
    /// No randomness, or the folder cannot be read or written.
    pub fn next_online_key(&self) -> Result<PublicKey, KeysError> {
        let path = self.folder.join(ONLINE_NEXT);
        if path.exists() {
            return Ok(signing_key(&path)?.public());
        }
        let key = SigningKey::generate().map_err(KeysError::Generate)?;
        files::write_private(&path, key.to_pkcs8_pem().as_bytes())?;
        Ok(key.public())
    }

    /// The CA that the next trust root may list before the others: made once, and kept until a root has listed it.
    ///
    /// # Errors
    /// No randomness, or the folder cannot be read or written.
    pub fn next_authority(&self, now: Timestamp) -> Result<CaCertificate, KeysError> {
        if let Some(staged) = staged_authority(&self.folder)? {
            return Ok(staged.certificate().clone());
        }
        // Two authorities of one name would be told apart by their keys alone.
        let name = format!(
            "DECNET {} {}",
            self.root.fleet(),
            self.root.version().saturating_add(1)
        );
        let made = CertificateAuthority::create(&name, now.get()).map_err(KeysError::Authority)?;
        files::write_private(&self.folder.join(AUTHORITY_NEXT_KEY), made.key_pem().as_bytes())?;
        files::write_private(&self.folder.join(AUTHORITY_NEXT), made.cert_pem().as_bytes())?;
        Ok(made.certificate().clone())
    }

    /// The CA that issues hosts' certificates: the newest.
    #[must_use]
    pub fn issuing(&self) -> &CertificateAuthority {
        &self.authorities.newest
    }

    /// The CA behind the listeners: the oldest, which every host knows.
    #[must_use]
    pub fn serving(&self) -> &CertificateAuthority {
        let Authorities { newest, older } = &self.authorities;
        older.last().unwrap_or(newest)
    }

    /// All CAs that the trust root lists, the newest first.
    pub fn authorities(&self) -> impl Iterator<Item = &CertificateAuthority> {
        self.authorities.all()
    }

    /// Takes a signed trust root that follows the one that counts; gives the keys as they are then.
    ///
    /// # Errors
    /// It does not follow, or names keys that this master does not have: nothing is changed then.
    pub fn follow(&self, envelope: &[u8]) -> Result<Self, KeysError> {
        let envelope = Envelope::parse(envelope, limits::ENROLMENT).map_err(KeysError::Parse)?;
        let root = self.root.next(envelope).map_err(KeysError::Root)?;
        let staged = self.folder.join(ONLINE_NEXT);
        let known = *root.online_key() == self.online.public()
            || (staged.exists() && signing_key(&staged)?.public() == *root.online_key());
        if !known {
            return Err(KeysError::ForeignOnlineKey {
                key: *root.online_key(),
            });
        }
        let staged = staged_authority(&self.folder)?;
        for pin in root.authorities().iter().map(CaCertificate::pin) {
            let mut known = self.authorities.all().chain(&staged);
            if !known.any(|authority| authority.pin() == pin) {
                return Err(KeysError::ForeignAuthority { pin });
            }
        }
        write_root(&self.folder, &root)?;
        Self::load(&self.folder)
    }

    /// The signed trust root of a version; none when there never was one.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn root_document(&self, version: u64) -> Result<Option<Vec<u8>>, KeysError> {
        let path = root_path(&self.folder, version);
        if !path.exists() {
            return Ok(None);
        }
        Ok(Some(files::read_private(&path, limits::ENROLMENT)?.to_vec()))
    }

    /// Whether an operator's key lies beside the master's own.
    #[must_use]
    pub fn has_operator_key(&self) -> bool {
        self.folder.join(OPERATOR).exists()
    }
}

/// Reads an Ed25519 key from a private file.
///
/// # Errors
/// It is missing, damaged or readable by others.
pub fn signing_key(path: &Path) -> Result<SigningKey, KeysError> {
    SigningKey::from_pkcs8_pem(&text(path)?).map_err(|error| KeysError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn root_path(folder: &Path, version: u64) -> PathBuf {
    folder.join(ROOTS).join(format!("{version}.json"))
}

fn authority_path(folder: &Path, pin: CaPin) -> PathBuf {
    let name = hex::encode(pin.sha256().as_bytes());
    folder.join(AUTHORITIES).join(format!("{name}.pem"))
}

/// The CA that waits for a trust root to list it. The certificate is written last: without it there is none.
fn staged_authority(folder: &Path) -> Result<Option<CertificateAuthority>, KeysError> {
    let certificate = folder.join(AUTHORITY_NEXT);
    if !certificate.exists() {
        return Ok(None);
    }
    let key = text(&folder.join(AUTHORITY_NEXT_KEY))?;
    CertificateAuthority::from_pem(&text(&certificate)?, &key)
        .map(Some)
        .map_err(|error| KeysError::Damaged {
            path: certificate,
            reason: error.to_string(),
        })
}

/// Takes up the CAs that the root lists, the staged one among them if it is listed now, and forgets the keys of those
/// that it does not list any more.
fn settle_authorities(folder: &Path, root: &Root) -> Result<Authorities, KeysError> {
    let staged = staged_authority(folder)?;
    let mut found = Vec::new();
    for certificate in root.authorities() {
        let path = authority_path(folder, certificate.pin());
        if let Some(staged) = &staged
            && staged.pin() == certificate.pin()
            && !path.exists()
        {
            files::write_private(&path, staged.key_pem().as_bytes())?;
        }
        let authority =
            CertificateAuthority::from_pem(&certificate.pem(), &text(&path)?).map_err(|error| {
                KeysError::Damaged {
                    path,
                    reason: error.to_string(),
                }
            })?;
        found.push(authority);
    }
    if let Some(staged) = staged
        && found.iter().any(|authority| authority.pin() == staged.pin())
    {
        remove(&folder.join(AUTHORITY_NEXT))?;
        remove(&folder.join(AUTHORITY_NEXT_KEY))?;
    }
    let kept: Vec<PathBuf> = found
        .iter()
        .map(|authority| authority_path(folder, authority.pin()))
        .collect();
    for path in files_in(&folder.join(AUTHORITIES))? {
        if !kept.contains(&path) {
            remove(&path)?;
        }
    }
    let certificates: String = found.iter().map(CertificateAuthority::cert_pem).collect();
    let path = folder.join(CA_CERTIFICATE);
    if !text(&path).is_ok_and(|there| *there == certificates) {
        files::write_private(&path, certificates.as_bytes())?;
    }
    let mut found = found.into_iter();
    Ok(Authorities {
        newest: found.next().ok_or(KeysError::NoAuthority)?,
        older: found.collect(),
    })
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>, KeysError> {
    let read = |source| FileError::Read {
        path: folder.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        found.push(entry.map_err(read)?.path());
    }
    Ok(found)
}

fn remove(path: &Path) -> Result<(), KeysError> {
    std::fs::remove_file(path).map_err(|source| FileError::Write {
        path: path.to_owned(),
        source,
    })?;
    Ok(())
}

/// The history first: whoever hears of a version can fetch it.
fn write_root(folder: &Path, root: &Root) -> Result<(), KeysError> {
    files::create_private_dir(&folder.join(ROOTS))?;
    let bytes = root.envelope().to_json();
    files::write_private(&root_path(folder, root.version()), &bytes)?;
    files::write_private(&folder.join(ROOT), &bytes)?;
    Ok(())
}

/// Removes a staged key that has taken its place.
fn discard_if(path: &Path, key: &PublicKey) -> Result<(), KeysError> {
    if path.exists() && signing_key(path)?.public() == *key {
        remove(path)?;
    }
    Ok(())
}

fn text(path: &Path) -> Result<zeroize::Zeroizing<String>, KeysError> {
    let bytes = files::read_private(path, FILE_CAP)?;
    std::str::from_utf8(&bytes)
        .map(|text| zeroize::Zeroizing::new(text.to_owned()))
        .map_err(|_| KeysError::Damaged {
            path: path.to_owned(),
            reason: "it is not text".to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::new(time::OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000))
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> (Self, MasterKeys) {
            let folder = Self(tempfile::tempdir().unwrap());
            let fleet = FleetId::new(uuid::Uuid::from_u128(1));
            let keys = MasterKeys::create(&folder.path(), fleet, now()).unwrap();
            (folder, keys)
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("keys")
        }

        fn operator(&self) -> SigningKey {
            signing_key(&self.path().join(OPERATOR)).unwrap()
        }

        fn sign(&self, document: &TrustRoot) -> Vec<u8> {
            let payload = serde_json::to_vec(document).unwrap();
            Envelope::sign(trust::PAYLOAD_TYPE, payload, &[&self.operator()]).to_json()
        }
    }

    fn next(keys: &MasterKeys) -> TrustRoot {
        let mut document = keys.root.document().clone();
        document.version += 1;
        document
    }

    #[test]
    fn a_staged_online_key_takes_over_with_the_root_that_names_it() {
        let (folder, keys) = Folder::new();
        let staged = keys.next_online_key().unwrap();
        assert_eq!(keys.next_online_key().unwrap(), staged, "made once");
        assert_ne!(staged, keys.online.public());
        // A restart in between changes nothing.
        assert_eq!(
            MasterKeys::load(&folder.path())
                .unwrap()
                .next_online_key()
                .unwrap(),
            staged
        );

        let mut document = next(&keys);
        document.online_key = staged.to_string();
        let after = keys.follow(&folder.sign(&document)).unwrap();
        assert_eq!(after.online.public(), staged);
        assert_eq!(after.root.version(), 2);
        assert!(!folder.path().join(ONLINE_NEXT).exists());
        let again = MasterKeys::load(&folder.path()).unwrap();
        assert_eq!(again.online.public(), staged);
        for version in [1, 2] {
            assert!(again.root_document(version).unwrap().is_some(), "{version}");
        }
        assert_eq!(again.root_document(3).unwrap(), None);
    }

    #[test]
    fn a_crash_after_the_root_was_replaced_ends_with_the_new_key() {
        let (folder, keys) = Folder::new();
        let staged = keys.next_online_key().unwrap();
        let mut document = next(&keys);
        document.online_key = staged.to_string();
        let envelope = Envelope::parse(&folder.sign(&document), limits::ENROLMENT).unwrap();
        write_root(&folder.path(), &keys.root.next(envelope).unwrap()).unwrap();
        // Nothing else was done; the master starts.
        assert_eq!(MasterKeys::load(&folder.path()).unwrap().online.public(), staged);
    }

    #[test]
    fn a_root_with_keys_that_this_master_lacks_changes_nothing() {
        let (folder, keys) = Folder::new();
        let mut foreign = next(&keys);
        foreign.online_key = SigningKey::generate().unwrap().public().to_string();
        let error = keys.follow(&folder.sign(&foreign)).unwrap_err();
        assert!(matches!(error, KeysError::ForeignOnlineKey { .. }), "{error}");

        let other = CertificateAuthority::create("other", now().get()).unwrap();
        let mut foreign = next(&keys);
        foreign.ca_certificates = vec![other.cert_pem()];
        let error = keys.follow(&folder.sign(&foreign)).unwrap_err();
        assert!(matches!(error, KeysError::ForeignAuthority { .. }), "{error}");

        let mut gap = next(&keys);
        gap.version += 1;
        let error = keys.follow(&folder.sign(&gap)).unwrap_err();
        assert!(matches!(error, KeysError::Root(_)), "{error}");
        assert_eq!(MasterKeys::load(&folder.path()).unwrap().root.version(), 1);
    }

    #[test]
    fn a_staged_ca_issues_while_the_one_of_before_stays_behind_the_listeners() {
        let (folder, keys) = Folder::new();
        let first = keys.issuing().pin();
        let staged = keys.next_authority(now()).unwrap();
        assert_eq!(keys.next_authority(now()).unwrap(), staged, "made once");

        let mut document = next(&keys);
        document.ca_certificates.insert(0, staged.pem());
        let both = keys.follow(&folder.sign(&document)).unwrap();
        assert_eq!(
            (both.issuing().pin(), both.serving().pin()),
            (staged.pin(), first)
        );
        let operators = std::fs::read_to_string(folder.path().join(CA_CERTIFICATE)).unwrap();
        assert_eq!(operators.matches("BEGIN CERTIFICATE").count(), 2);
        assert_ne!(both.next_authority(now()).unwrap().pin(), staged.pin(), "spent");

        let mut document = next(&both);
        document.ca_certificates.pop();
        let one = both.follow(&folder.sign(&document)).unwrap();
        assert_eq!(
            (one.issuing().pin(), one.serving().pin()),
            (staged.pin(), staged.pin())
        );
        assert!(
            !authority_path(&folder.path(), first).exists(),
            "the old key is still there"
        );
        // It cannot come back: nobody has its key any more.
        let mut document = next(&one);
        document.ca_certificates.push(keys.issuing().cert_pem());
        let error = one.follow(&folder.sign(&document)).unwrap_err();
        assert!(matches!(error, KeysError::ForeignAuthority { .. }), "{error}");
    }

    #[test]
    fn a_crash_after_the_root_was_replaced_ends_with_the_new_ca() {
        let (folder, keys) = Folder::new();
        let staged = keys.next_authority(now()).unwrap();
        let mut document = next(&keys);
        document.ca_certificates = vec![staged.pem()];
        let envelope = Envelope::parse(&folder.sign(&document), limits::ENROLMENT).unwrap();
        write_root(&folder.path(), &keys.root.next(envelope).unwrap()).unwrap();
        let after = MasterKeys::load(&folder.path()).unwrap();
        assert_eq!(after.serving().pin(), staged.pin());
        assert!(!folder.path().join(AUTHORITY_NEXT_KEY).exists());
        assert_eq!(files_in(&folder.path().join(AUTHORITIES)).unwrap().len(), 1);
    }

    #[test]
    fn a_folder_from_before_there_was_a_history_gets_one() {
        let (folder, _) = Folder::new();
        std::fs::remove_dir_all(folder.path().join(ROOTS)).unwrap();
        let keys = MasterKeys::load(&folder.path()).unwrap();
        assert!(keys.root_document(1).unwrap().is_some());
    }
}
