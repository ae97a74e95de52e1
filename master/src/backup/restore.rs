//! The way back: a new store out of a backup, in the place of the one that is there.
//!
//! Flow: the backup is read to its end → the fleet's keys are there → no master runs → the new store is written beside
//! the old one → the old one gets a second name → one rename. Whatever is cut off before the rename leaves the old
//! store; after it there is the new one.
//!
//! Guarantees: what hosts have learnt since the backup is not gone back on. No bundle is published for a host until it
//! has said which generation it accepted ([`crate::control::restored`]); enrolment tokens are void; what the
//! replaced store, where it still reads, knows to be revoked stays so.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use decnet_pki::files;
use decnet_wire::ids::{HostName, Timestamp};
use serde_json::json;

use super::{Backup, BackupError, Header, Part};
use crate::audit::{Action, Actor, Audited, Change, Who, names};
use crate::control::certificates::supersede;
use crate::control::decommission::forget;
use crate::init;
use crate::keys::MasterKeys;
use crate::records::{
    ApiTokenRecord, AwaitedRecord, Cause, Departure, End, EnrolTokenRecord, Host, ObservedRecord,
    RevocationListRecord,
};
use crate::store::{Db, Decision, RedbStore, Store as _, StoreError, Writer};

/// Records that are written in one transaction.
const PORTION: usize = 2000;
/// By how much the numbers of revocation lists go up: those that were made since the backup had smaller ones
/// (RFC 5280, §5.2.3: they never go back).
const LISTS: u64 = 1 << 20;

/// What was restored, and what the operator must know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    pub header: Header,
    /// Where the store is that was there before.
    pub replaced: Option<PathBuf>,
    /// Whether the keys came out of the backup.
    pub keys: bool,
    /// The hosts that get no bundle until they have reported.
    pub awaited: Vec<HostName>,
    /// Enrolment tokens that are worth nothing any more.
    pub voided: usize,
    /// What the replaced store had; none when it did not read, or was not there.
    pub since: Option<Since>,
    /// Hosts that are believed.
    pub believed: Vec<HostName>,
    /// Operator tokens that count.
    pub tokens: Vec<String>,
}

/// What the replaced store knows and the backup does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Since {
    /// Hosts that were revoked: they stay so.
    pub revoked: Vec<HostName>,
    /// Operator tokens that were revoked: they stay so.
    pub tokens: Vec<String>,
    /// Hosts that were invited or enrolled: nobody knows them any more.
    pub unknown: Vec<HostName>,
}

/// Puts the store of a backup into the state folder of a master that does not run.
///
/// # Errors
/// [`BackupError`]: nothing was changed.
pub fn restore(file: &Path, state_dir: &Path, by: &Actor, now: Timestamp) -> Result<Restored, BackupError> {
    let open = || {
        let opened = File::open(file).map_err(|source| BackupError::File {
            action: "read",
            path: file.to_owned(),
            source,
        })?;
        Backup::open(BufReader::new(opened))
    };
    let (header, has_keys) = open()?.check()?;
    owned(state_dir)?;
    make_dir(state_dir)?;
    let folder = init::keys_path(state_dir);
    let keys = !folder.exists();
    if keys {
        if !has_keys {
            return Err(BackupError::NoKeys(folder));
        }
        restore_keys(&mut open()?, &folder, &header)?;
    }
    of_fleet(&folder, &header)?;

    let store = init::store_path(state_dir);
    let (old, _lock) = hold(&store)?;
    let old = old.map(Db::new);
    let making = state_dir.join("store.redb.restoring");
    remove_if_there(&making)?;
    let new = RedbStore::create(&making)?;
    fill(&new, &mut open()?)?;
    let new = Db::new(new);
    let mut restored = Restored {
        header,
        replaced: None,
        keys,
        awaited: Vec::new(),
        voided: 0,
        since: None,
        believed: Vec::new(),
        tokens: Vec::new(),
    };
    mark(&new, old.as_ref(), by, now, &mut restored)?;
    drop(new);

    if store.exists() {
        let aside = aside(&store, now);
        std::fs::hard_link(&store, &aside).map_err(|source| BackupError::File {
            action: "keep the replaced store as",
            path: aside.clone(),
            source,
        })?;
        restored.replaced = Some(aside);
    }
    let put = std::fs::rename(&making, &store).and_then(|()| File::open(state_dir)?.sync_all());
    put.map_err(|source| BackupError::File {
        action: "put the store in its place as",
        path: store,
        source,
    })?;
    Ok(restored)
}

fn make_dir(path: &Path) -> Result<(), BackupError> {
    files::create_private_dir(path).map_err(|error| BackupError::File {
        action: "make the folder",
        path: path.to_owned(),
        source: std::io::Error::other(error),
    })
}

/// What root made the master of another user could not open.
fn owned(state_dir: &Path) -> Result<(), BackupError> {
    let Ok(meta) = std::fs::metadata(state_dir) else {
        return Ok(());
    };
    if meta.uid() == nix::unistd::geteuid().as_raw() {
        return Ok(());
    }
    Err(BackupError::Owner {
        path: state_dir.to_owned(),
        uid: meta.uid(),
    })
}

fn remove_if_there(path: &Path) -> Result<(), BackupError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(BackupError::File {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Another name for the store that is there, with the date.
fn aside(store: &Path, now: Timestamp) -> PathBuf {
    let at = now.get();
    let date = format!(
        "{}-{:02}-{:02}-{:02}{:02}{:02}",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    let name = |suffix: &str| store.with_file_name(format!("store.redb.replaced-{date}{suffix}"));
    // Two within a second keep both.
    (0..)
        .map(|n| if n == 0 { name("") } else { name(&format!(".{n}")) })
        .find(|path| !path.exists())
        .unwrap_or_else(|| name(".again"))
}

/// Keeps masters away from the store that is there. It is given out where it reads; a damaged one is locked all the same.
fn hold(store: &Path) -> Result<(Option<RedbStore>, Option<File>), BackupError> {
    if !store.exists() {
        return Ok((None, None));
    }
    match RedbStore::open(store) {
        Ok(old) => Ok((Some(old), None)),
        Err(StoreError::Held { .. }) => Err(BackupError::Held(store.to_owned())),
        Err(error) => {
            tracing::warn!(error = %crate::text::chain(&error), "the store that is replaced does not read");
            let file = File::open(store).map_err(|source| BackupError::File {
                action: "read",
                path: store.to_owned(),
                source,
            })?;
            match file.try_lock() {
                Ok(()) => Ok((None, Some(file))),
                Err(_) => Err(BackupError::Held(store.to_owned())),
            }
        }
    }
}

/// All of the keys, or none.
fn restore_keys(
    backup: &mut Backup<impl std::io::Read>,
    folder: &Path,
    header: &Header,
) -> Result<(), BackupError> {
    let making = folder.with_file_name("keys.restoring");
    if making.exists() {
        std::fs::remove_dir_all(&making).map_err(|source| BackupError::File {
            action: "remove",
            path: making.clone(),
            source,
        })?;
    }
    make_dir(&making)?;
    while let Some(part) = backup.next_part()? {
        let Part::File { name, bytes } = part else {
            continue;
        };
        let plain = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
        let relative = Path::new(&name);
        if !relative.components().all(plain) {
            return Err(BackupError::Damaged(format!("the name {name:?} leads elsewhere")));
        }
        let path = making.join(relative);
        if let Some(parent) = path.parent() {
            make_dir(parent)?;
        }
        files::write_private(&path, &bytes).map_err(|error| BackupError::File {
            action: "write",
            path,
            source: std::io::Error::other(error),
        })?;
    }
    of_fleet(&making, header)?;
    std::fs::rename(&making, folder).map_err(|source| BackupError::File {
        action: "put the keys in their place as",
        path: folder.to_owned(),
        source,
    })
}

fn of_fleet(folder: &Path, header: &Header) -> Result<(), BackupError> {
    let keys = MasterKeys::load(folder)?;
    let fleet = keys.root.document().fleet;
    if fleet == header.fleet {
        return Ok(());
    }
    Err(BackupError::OtherFleet {
        backup: header.fleet,
        keys: fleet,
        folder: folder.to_owned(),
    })
}

/// Writes every record of a backup to an empty store.
fn fill(store: &RedbStore, backup: &mut Backup<impl std::io::Read>) -> Result<(), BackupError> {
    let mut over = false;
    while !over {
        let mut failed: Option<BackupError> = None;
        store.transact(&mut |transaction| {
            for _ in 0..PORTION {
                let put = match backup.next_part() {
                    Ok(Some(Part::Record { table, key, value })) => {
                        transaction.put(table, &key, &value).map_err(BackupError::from)
                    }
                    Ok(Some(Part::File { .. })) => Ok(()),
                    Ok(None) => {
                        over = true;
                        break;
                    }
                    Err(error) => Err(error),
                };
                if let Err(error) = put {
                    failed = Some(error);
                    return Decision::Abort;
                }
            }
            Decision::Commit
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
    }
    Ok(())
}

/// Notes in the new store what must not be as it was when the backup was taken.
fn mark(
    new: &Db,
    old: Option<&Db>,
    by: &Actor,
    now: Timestamp,
    restored: &mut Restored,
) -> Result<(), BackupError> {
    let known = old.and_then(|old| {
        let read = old.read(|r| {
            let head = crate::control::audit::head_of(r)?;
            let departures = r.all::<Departure>()?;
            Ok::<_, StoreError>((r.all::<Host>()?, r.all::<ApiTokenRecord>()?, head, departures))
        });
        // What does not read says nothing.
        read.ok()
    });
    new.change(by, now, |w| {
        if let Some((hosts, tokens, _, departures)) = &known {
            restored.since = Some(carry_over(w, hosts, tokens, now)?);
            stay_departed(w, departures, now)?;
        }
        for token in w.all::<EnrolTokenRecord>()? {
            w.remove::<EnrolTokenRecord>(&token.host)?;
            restored.voided += 1;
        }
        let hosts: Vec<Host> = w.all::<Host>()?;
        for host in hosts.into_iter().filter(Host::lives) {
            let awaited = AwaitedRecord {
                host: host.id,
                since: now,
                backup: restored.header.taken_at,
            };
            w.put(&host.id, &awaited)?;
            // What it sees by now is another thing: it is asked for it.
            w.remove::<ObservedRecord>(&host.id)?;
            restored.believed.push(host.name.clone());
            restored.awaited.push(host.name);
        }
        for mut list in w.all::<RevocationListRecord>()? {
            list.number = list.number.saturating_add(LISTS);
            w.put(&list.authority.clone(), &list)?;
        }
        restored.tokens = w
            .all::<ApiTokenRecord>()?
            .into_iter()
            .map(|token| token.name)
            .collect();
        let replaced = known.as_ref().and_then(|(_, _, head, _)| head.clone());
        let since = restored.since.clone().unwrap_or_default();
        let change = Change::new(Action::FleetRestore, "fleet")
            .before(json!({ "audit_head": replaced }))
            .after(json!({
                "backup_of": restored.header.taken_at,
                "audit_head": restored.header.audit,
                "awaited": names(&restored.awaited),
                "voided_enrolment_tokens": restored.voided,
                "stay_revoked": names(&since.revoked),
                "tokens_stay_revoked": names(&since.tokens),
            }));
        Ok::<_, BackupError>(Audited::Changed((), change))
    })
}

/// Who was ordered to leave since is on his way, and who has left is gone.
fn stay_departed(w: &mut Writer<'_>, departures: &[Departure], now: Timestamp) -> Result<(), StoreError> {
    for departure in departures {
        if let Some(host) = w.get::<Host>(&departure.host)? {
            if departure.forced || departure.tombstone.is_some() {
                let end = End::Failed(
                    Cause::HostGone,
                    format!("the host {} has left the fleet", host.name),
                );
                forget(w, &host, &end, &Who::Master {}, now)?;
            } else {
                w.put(
                    &host.id,
                    &Host {
                        leaving: true,
                        ..host.clone()
                    },
                )?;
            }
        }
        w.put(&departure.host, departure)?;
    }
    Ok(())
}

/// What was revoked since stays revoked.
fn carry_over(
    w: &mut Writer<'_>,
    hosts: &[Host],
    tokens: &[ApiTokenRecord],
    now: Timestamp,
) -> Result<Since, StoreError> {
    let mut since = Since::default();
    for old in hosts {
        match w.get::<Host>(&old.id)? {
            None => since.unknown.push(old.name.clone()),
            Some(host) if old.revoked && !host.revoked => {
                supersede(w, host.id, now)?;
                since.revoked.push(host.name.clone());
                w.put(
                    &old.id,
                    &Host {
                        revoked: true,
                        next_key: None,
                        ..host
                    },
                )?;
            }
            Some(_) => {}
        }
    }
    let known: BTreeSet<&String> = tokens.iter().map(|token| &token.hash).collect();
    for token in w.all::<ApiTokenRecord>()? {
        if !known.contains(&token.hash) {
            w.remove::<ApiTokenRecord>(&token.hash)?;
            since.tokens.push(token.name);
        }
    }
    Ok(since)
}
