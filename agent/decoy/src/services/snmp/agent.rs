//! Answers requests of versions 1 and 2c (RFC 3416 §4.2, RFC 1157 §4.1).

use std::collections::BTreeMap;

use rasn::types::ObjectIdentifier;
use rasn_snmp::v2::{ObjectSyntax, Pdu, Pdus, Response, VarBind, VarBindValue};

use super::VARIABLES_CAP;
use super::machine::Machine;
use super::mib::{self, Oid};
use crate::host::Host;
use crate::identity::Identity;

/// Largest answer in bytes: the least every agent must manage (RFC 3417 §3.2.1), and so the least a forged
/// request can be blown up to.
const ANSWER_CAP: usize = 484;
/// What a message needs around its variables at most.
const FRAME: usize = 64;
/// Characters of a variable kept for the log.
const VARIABLE_TEXT_CAP: usize = 512;

/// What a community may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl Access {
    /// The communities that devices come with; messages with another are not answered.
    pub(super) fn of(community: &[u8]) -> Option<Self> {
        match community {
            b"public" => Some(Self::Read),
            b"private" => Some(Self::Write),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Agent {
    machine: Machine,
}

impl Agent {
    pub(super) fn new(identity: &Identity, host: &Host) -> Self {
        Self {
            machine: Machine::new(identity, host),
        }
    }

    /// The answer to `pdu`, or none when there is none to give.
    pub(super) fn answer(&mut self, old: bool, access: Option<Access>, pdu: Pdus) -> Option<Pdus> {
        let access = access?;
        self.machine.count_request();
        let objects = mib::objects(&self.machine);
        let response = match pdu {
            Pdus::GetRequest(request) => look_up(old, &objects, &request.0, exact),
            Pdus::GetNextRequest(request) => look_up(old, &objects, &request.0, next),
            Pdus::GetBulkRequest(request) if !old => {
                let bulk = request.0;
                let count = bulk.variable_bindings.len().min(VARIABLES_CAP);
                let single = usize::try_from(bulk.non_repeaters).unwrap_or(count).min(count);
                Pdu {
                    request_id: bulk.request_id,
                    error_status: Pdu::ERROR_STATUS_NO_ERROR,
                    error_index: 0,
                    variable_bindings: repeat(
                        &objects,
                        &bulk.variable_bindings[..count],
                        single,
                        bulk.max_repetitions,
                    ),
                }
            }
            Pdus::SetRequest(request) => refuse_set(old, access, request.0),
            _ => return None,
        };
        Some(Pdus::Response(Response(response)))
    }
}

type Objects = BTreeMap<Oid, ObjectSyntax>;

/// The object asked for.
fn exact(objects: &Objects, asked: &Oid) -> (Oid, VarBindValue) {
    let value = match objects.get(asked) {
        Some(value) => VarBindValue::Value(value.clone()),
        // RFC 3416 §4.2.1: an object with other instances lacks this one; else the object is unknown.
        None if mib::has_instances(objects, asked) => VarBindValue::NoSuchInstance,
        None => VarBindValue::NoSuchObject,
    };
    (asked.clone(), value)
}

/// The object after the one asked for.
fn next(objects: &Objects, asked: &Oid) -> (Oid, VarBindValue) {
    use std::ops::Bound::{Excluded, Unbounded};
    match objects.range((Excluded(asked.clone()), Unbounded)).next() {
        Some((oid, value)) => (oid.clone(), VarBindValue::Value(value.clone())),
        None => (asked.clone(), VarBindValue::EndOfMibView),
    }
}

fn look_up(
    old: bool,
    objects: &Objects,
    request: &Pdu,
    find: fn(&Objects, &Oid) -> (Oid, VarBindValue),
) -> Pdu {
    let failed = |status: u32, index: usize| Pdu {
        request_id: request.request_id,
        error_status: status,
        error_index: u32::try_from(index).unwrap_or(0),
        variable_bindings: request.variable_bindings.clone(),
    };
    let mut found = Vec::new();
    let mut room = ANSWER_CAP - FRAME;
    for (index, asked) in (1..).zip(&request.variable_bindings) {
        let (oid, value) = find(objects, &mib::numbers(&asked.name));
        // Version 1 has no values for absence (RFC 1157 §4.1.2).
        if old && !matches!(value, VarBindValue::Value(_)) {
            return failed(Pdu::ERROR_STATUS_NO_SUCH_NAME, index);
        }
        let bound = VarBind {
            name: mib::identifier(&oid),
            value,
        };
        let Some(left) = room.checked_sub(size(&bound)) else {
            return Pdu {
                variable_bindings: vec![],
                ..failed(Pdu::ERROR_STATUS_TOO_BIG, 0)
            };
        };
        room = left;
        found.push(bound);
    }
    Pdu {
        request_id: request.request_id,
        error_status: Pdu::ERROR_STATUS_NO_ERROR,
        error_index: 0,
        variable_bindings: found,
    }
}

/// GETBULK: the first `single` variables once, the others up to `repetitions` times, until the answer is
/// full (RFC 3416 §4.2.3).
fn repeat(objects: &Objects, asked: &[VarBind], single: usize, repetitions: u32) -> Vec<VarBind> {
    let mut found = Vec::new();
    let mut room = ANSWER_CAP - FRAME;
    let mut add = |oid: &Oid, value: VarBindValue| {
        let bound = VarBind {
            name: mib::identifier(oid),
            value,
        };
        let fits = room.checked_sub(size(&bound));
        room = fits.unwrap_or(0);
        if fits.is_some() {
            found.push(bound);
        }
        fits.is_some()
    };
    let mut columns: Vec<Oid> = asked.iter().map(|bound| mib::numbers(&bound.name)).collect();
    let repeated = columns.split_off(single);
    for oid in &columns {
        let (oid, value) = next(objects, oid);
        if !add(&oid, value) {
            return found;
        }
    }
    let mut columns = repeated;
    for _ in 0..repetitions {
        let mut ended = true;
        for column in &mut columns {
            let (oid, value) = next(objects, column);
            ended &= value == VarBindValue::EndOfMibView;
            if !add(&oid, value) {
                return found;
            }
            *column = oid;
        }
        if ended {
            break;
        }
    }
    found
}

/// Nothing can be set; how that is said depends on the version and the community.
fn refuse_set(old: bool, access: Access, request: Pdu) -> Pdu {
    let status = match access {
        _ if old => Pdu::ERROR_STATUS_NO_SUCH_NAME,
        Access::Read => Pdu::ERROR_STATUS_NO_ACCESS,
        Access::Write => Pdu::ERROR_STATUS_NOT_WRITABLE,
    };
    Pdu {
        error_status: status,
        error_index: 1,
        ..request
    }
}

fn size(bound: &VarBind) -> usize {
    rasn::ber::encode(bound).map_or(ANSWER_CAP, |bytes| bytes.len())
}

/// The operation's name and its variables, for the log.
pub(super) fn describe(pdu: &Pdus) -> (&'static str, Vec<String>) {
    let (name, bindings) = match pdu {
        Pdus::GetRequest(request) => ("get", &request.0.variable_bindings),
        Pdus::GetNextRequest(request) => ("get-next", &request.0.variable_bindings),
        Pdus::GetBulkRequest(request) => ("get-bulk", &request.0.variable_bindings),
        Pdus::SetRequest(request) => ("set", &request.0.variable_bindings),
        Pdus::Response(request) => ("response", &request.0.variable_bindings),
        Pdus::InformRequest(request) => ("inform", &request.0.variable_bindings),
        Pdus::Trap(request) => ("trap", &request.0.variable_bindings),
        Pdus::Report(request) => ("report", &request.0.variable_bindings),
    };
    let describe = |bound: &VarBind| {
        let mut text = dotted(&bound.name);
        if let VarBindValue::Value(value) = &bound.value {
            text.push_str(&format!(" = {}", mib::shown(value)));
        }
        text.truncate(text.floor_char_boundary(VARIABLE_TEXT_CAP));
        text
    };
    (name, bindings.iter().take(VARIABLES_CAP).map(describe).collect())
}

fn dotted(oid: &ObjectIdentifier) -> String {
    mib::numbers(oid)
        .iter()
        .map(u32::to_string)
        .collect::<Vec<_>>()
        .join(".")
}
