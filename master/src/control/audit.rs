//! Reading the audit log.

use decnet_wire::ids::Timestamp;
use serde_json::Value;

use super::{Control, ControlError};
use crate::audit::{Entry, StoredEntry};
use crate::store::{Reader, StoreError};

/// Where a page ends at the latest, in bytes of its entries. The last one may go beyond.
const PAGE: usize = 2 * 1024 * 1024;

/// Which entries to list. All of what is given must be so.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Not before this moment.
    pub since: Option<Timestamp>,
    /// Before this moment.
    pub until: Option<Timestamp>,
    /// The actor's name, id or kind.
    pub actor: Option<String>,
    /// What the action begins with, as in `host.` or `alarm`.
    pub action: Option<String>,
    /// The subject, or what stands after its stroke.
    pub subject: Option<String>,
    /// Only what comes after the entry of this number, from there on. Without it: the newest entries.
    pub after: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

/// A part of the log.
#[derive(Debug, Clone, Default)]
pub struct AuditPage {
    /// As they are stored, in the order of their numbers.
    pub entries: Vec<Value>,
    /// After which number the list goes on; none at the end of the log.
    pub next: Option<u64>,
    /// The newest entry of the whole log: its number and its digest.
    pub head: Option<(u64, String)>,
}

impl AuditFilter {
    /// Without conditions everything is listed, also what is no entry any more: a check must see it.
    fn wants(&self, entry: &Value) -> bool {
        let Self {
            since,
            until,
            actor,
            action,
            subject,
            after: _,
            limit: _,
        } = self;
        if since.is_none() && until.is_none() && actor.is_none() && action.is_none() && subject.is_none() {
            return true;
        }
        let Ok(entry) = serde_json::from_value::<Entry>(entry.clone()) else {
            return false;
        };
        let about = |wanted: &String| {
            let name = entry.subject.split_once('/').map(|(_, name)| name);
            entry.subject == *wanted || name == Some(wanted.as_str())
        };
        since.is_none_or(|since| entry.at >= since)
            && until.is_none_or(|until| entry.at < until)
            && actor.as_ref().is_none_or(|actor| entry.actor.is_called(actor))
            && action
                .as_ref()
                .is_none_or(|action| entry.action.starts_with(action.as_str()))
            && subject.as_ref().is_none_or(about)
    }
}

impl Control {
    /// A part of the audit log.
    ///
    /// # Errors
    /// The store's.
    pub fn audit(&self, filter: &AuditFilter) -> Result<AuditPage, ControlError> {
        self.db.read(|r| {
            let mut page = AuditPage {
                head: head_of(r)?,
                ..AuditPage::default()
            };
            match filter.after {
                Some(after) => following(r, filter, after, &mut page)?,
                None => newest(r, filter, &mut page)?,
            }
            Ok(page)
        })
    }
}

/// The newest entry: its number and its digest.
pub(crate) fn head_of(r: &Reader<'_>) -> Result<Option<(u64, String)>, StoreError> {
    let mut head = None;
    r.newest::<StoredEntry>(|StoredEntry(entry)| {
        let seq = entry["seq"].as_u64();
        let digest = entry["digest"].as_str().map(str::to_owned);
        head = seq.zip(digest);
        false
    })?;
    Ok(head)
}

fn newest(r: &Reader<'_>, filter: &AuditFilter, page: &mut AuditPage) -> Result<(), ControlError> {
    let mut bytes = 0;
    r.newest::<StoredEntry>(|StoredEntry(entry)| {
        if filter.wants(&entry) {
            bytes += entry.to_string().len();
            page.entries.push(entry);
        }
        page.entries.len() < filter.limit && bytes < PAGE
    })?;
    page.entries.reverse();
    Ok(())
}

fn following(
    r: &Reader<'_>,
    filter: &AuditFilter,
    after: u64,
    page: &mut AuditPage,
) -> Result<(), ControlError> {
    let mut bytes = 0;
    let mut last = after;
    r.from::<StoredEntry>(&after.saturating_add(1), |key, StoredEntry(entry)| {
        if page.entries.len() >= filter.limit || bytes >= PAGE {
            page.next = Some(last);
            return false;
        }
        // By its key: a number that somebody changed must not lead in a circle.
        last = <[u8; 8]>::try_from(key).map_or(u64::MAX, u64::from_be_bytes);
        if filter.wants(&entry) {
            bytes += entry.to_string().len();
            page.entries.push(entry);
        }
        true
    })?;
    Ok(())
}
