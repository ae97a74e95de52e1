//! `decnet init`: keys, CA, trust root, store and the first operator token.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use decnet_pki::ServerName;
use decnet_pki::files::{self, FileError};
use decnet_pki::secret::{Secret, SecretError};
use decnet_wire::ids::{FleetId, Timestamp};
use serde_json::json;
use uuid::Uuid;

use crate::audit::{Action, Actor, Change};
use crate::control::{ControlError, tokens};
use crate::fleet::model::{DeploymentLimit, Minutes};
use crate::keys::{KeysError, MasterKeys};
use crate::records::{Role, Settings};
use crate::store::{Db, RedbStore, StoreError};

/// Where the master keeps everything, unless told otherwise.
pub const STATE_DIR: &str = "/var/lib/decnet/master";

/// What `decnet init` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct InitArgs {
    /// The folder for keys and store.
    #[arg(long, env = "DECNET_MASTER_DIR", default_value = STATE_DIR)]
    pub state_dir: PathBuf,
    /// A DNS name or IP address under which hosts and operators reach this master. The first one goes into
    /// enrolment tokens. Without it: this machine's host name.
    #[arg(long, value_name = "NAME")]
    pub advertise: Vec<String>,
}

/// What was made.
pub struct Initialised {
    pub fleet: FleetId,
    pub ca_pin: String,
    pub keys: PathBuf,
    pub advertise: Vec<String>,
    /// The first operator token, of the role `admin`. It is shown once.
    pub token: String,
}

// Not the token: what is written to a log stays there.
impl fmt::Debug for Initialised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initialised")
            .field("fleet", &self.fleet)
            .field("ca_pin", &self.ca_pin)
            .field("keys", &self.keys)
            .field("advertise", &self.advertise)
            .finish_non_exhaustive()
    }
}

/// Why a master was not initialised.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("{0} holds a master already: nothing was changed")]
    Exists(PathBuf),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the keys were not made")]
    Keys(#[from] KeysError),
    #[error("the store was not made")]
    Store(#[from] StoreError),
    #[error("no randomness")]
    Secret(#[from] SecretError),
    #[error("the first token was not made")]
    Token(#[from] ControlError),
    #[error("this machine's host name cannot be read: say --advertise NAME")]
    HostName,
    #[error("--advertise {0:?} is neither a DNS name nor an IP address: nothing was made")]
    Name(String),
}

/// The store's file.
#[must_use]
pub fn store_path(state_dir: &Path) -> PathBuf {
    state_dir.join("store.redb")
}

/// The folder of the keys.
#[must_use]
pub fn keys_path(state_dir: &Path) -> PathBuf {
    state_dir.join("keys")
}

/// Makes a master. The store comes last: a folder without one was not finished and is made again.
///
/// # Errors
/// There is a master in the folder already, or it cannot be written.
pub fn run(args: &InitArgs, now: Timestamp) -> Result<Initialised, InitError> {
    let store = store_path(&args.state_dir);
    if store.exists() {
        return Err(InitError::Exists(args.state_dir.clone()));
    }
    let advertise = if args.advertise.is_empty() {
        vec![host_name()?]
    } else {
        args.advertise.clone()
    };
    if let Some(wrong) = advertise
        .iter()
        .find(|name| ServerName::try_from(name.as_str()).is_err())
    {
        return Err(InitError::Name(wrong.clone()));
    }
    files::create_private_dir(&args.state_dir)?;
    let fleet = FleetId::new(Uuid::new_v4());
    let folder = keys_path(&args.state_dir);
    let keys = MasterKeys::create(&folder, fleet, now)?;
    let making = args.state_dir.join("store.redb.new");
    if making.exists() {
        std::fs::remove_file(&making).map_err(|source| FileError::Write {
            path: making.clone(),
            source,
        })?;
    }
    let token = {
        let db = Db::new(RedbStore::create(&making)?);
        let settings = Settings {
            fleet,
            revision: 0,
            draw_seed: Secret::generate()?.hash().to_string(),
            advertise: advertise.clone(),
            lan: None,
            mutate_interval: Minutes::default(),
            deployment_limit: DeploymentLimit::default(),
            custom_services: BTreeMap::new(),
            embedded: None,
        };
        let by = Actor::local(nix::unistd::getuid().as_raw());
        db.change(&by, now, |w| {
            w.put(&(), &settings)?;
            let made = json!({ "fleet": fleet, "advertise": advertise, "trust_root": keys.root.version() });
            Ok::<_, InitError>(Change::new(Action::FleetInit, "fleet").after(made).done(()))
        })?;
        tokens::create(&db, &by, "init", Role::Admin, now, None)?
    };
    std::fs::rename(&making, &store).map_err(|source| FileError::Write { path: store, source })?;
    Ok(Initialised {
        fleet,
        ca_pin: keys.serving().pin().to_string(),
        keys: folder,
        advertise,
        token,
    })
}

fn host_name() -> Result<String, InitError> {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .ok_or(InitError::HostName)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Such a master did not serve, and could not be initialised again.
    #[test]
    fn a_name_that_no_certificate_can_have_is_refused_before_anything_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = folder.path().join("master");
        for wrong in ["", "two words", "https://master.example", "192.0.2.1:8770"] {
            let args = InitArgs {
                state_dir: state_dir.clone(),
                advertise: vec!["master.example".to_owned(), wrong.to_owned()],
            };
            let error = run(&args, Timestamp::new(time::OffsetDateTime::UNIX_EPOCH)).unwrap_err();
            assert!(
                matches!(&error, InitError::Name(name) if name == wrong),
                "{error}"
            );
            assert!(!state_dir.exists(), "{wrong:?}");
        }
    }
}
