//! Version 3: discovery and the user-based security model (RFC 3412, RFC 3414), with no user configured.

use std::time::Instant;

use rasn::types::{Integer, ObjectIdentifier, OctetString};
use rasn_snmp::v2::{ObjectSyntax, Pdu, Pdus, Report, VarBind, VarBindValue};
use rasn_snmp::v3::{HeaderData, Message, ScopedPdu, ScopedPduData, USMSecurityParameters};

use super::mib;
use crate::event::Category;
use crate::host::{Host, OsFamily};
use crate::identity::Identity;
use crate::serve::Session;

/// `usmStatsUnknownUserNames.0` and `usmStatsUnknownEngineIDs.0` (RFC 3414 §5).
const UNKNOWN_USER_NAMES: &[u32] = &[1, 3, 6, 1, 6, 3, 15, 1, 1, 3, 0];
const UNKNOWN_ENGINE_IDS: &[u32] = &[1, 3, 6, 1, 6, 3, 15, 1, 1, 4, 0];
/// The flag that allows a report (RFC 3412 §6.4).
const REPORTABLE: u8 = 4;
const USER_BASED: u32 = 3;

/// The authoritative engine: its id, and how often and how long it has run.
#[derive(Debug)]
pub(super) struct Engine {
    id: Vec<u8>,
    boots: u64,
    started: Instant,
    ran_before: u64,
    unknown_users: u32,
    unknown_engines: u32,
    /// Windows' own agent speaks no version 3, and drops it.
    silent: bool,
}

impl Engine {
    pub(super) fn new(identity: &Identity, host: &Host) -> Self {
        Self {
            id: engine_id(identity, host),
            boots: identity.number("snmp.boots", 2..=60),
            started: Instant::now(),
            ran_before: super::machine::ran_before(identity).as_secs(),
            silent: host.family.is_windows(),
            unknown_users: 0,
            unknown_engines: 0,
        }
    }

    /// A report that tells the engine's id, or that the user is unknown.
    pub(super) fn answer(&mut self, datagram: &[u8], session: &Session) -> Option<Vec<u8>> {
        let parsed = rasn::ber::decode::<Message>(datagram).ok().and_then(|message| {
            let parameters = rasn::ber::decode::<USMSecurityParameters>(&message.security_parameters).ok()?;
            Some((message, parameters))
        });
        let Some((message, parameters)) = parsed else {
            session.garbage(datagram);
            return None;
        };
        let flags = message.global_data.flags.first().copied().unwrap_or(0);
        let discovery = parameters.authoritative_engine_id.as_ref() != self.id;
        session
            .event(
                if discovery { "discovery" } else { "login" },
                Category::Authentication,
            )
            .outcome(false)
            .text("user.name", &parameters.user_name)
            .field("decnet.snmp.version", "3")
            .field("decnet.snmp.security_level", security_level(flags))
            .field(
                "decnet.snmp.engine_id",
                hex::encode(head(&parameters.authoritative_engine_id)),
            )
            .field(
                "decnet.snmp.authentication",
                hex::encode(head(&parameters.authentication_parameters)),
            )
            .emit();
        let reportable = flags & REPORTABLE != 0;
        if self.silent || !reportable || message.global_data.security_model != Integer::from(USER_BASED) {
            return None;
        }
        let (counter, count) = if discovery {
            self.unknown_engines = self.unknown_engines.wrapping_add(1);
            (UNKNOWN_ENGINE_IDS, self.unknown_engines)
        } else {
            self.unknown_users = self.unknown_users.wrapping_add(1);
            (UNKNOWN_USER_NAMES, self.unknown_users)
        };
        // The request id can only be read from what is not encrypted (RFC 3412 §7.1 3c).
        let request_id = match &message.scoped_data {
            ScopedPduData::CleartextPdu(scoped) => request_id(&scoped.data),
            ScopedPduData::EncryptedPdu(_) => 0,
        };
        self.report(
            message.global_data.message_id,
            parameters.user_name,
            request_id,
            counter,
            count,
        )
    }

    fn report(
        &self,
        id: Integer,
        user: OctetString,
        request_id: i32,
        counter: &[u32],
        count: u32,
    ) -> Option<Vec<u8>> {
        let seconds = self.ran_before + self.started.elapsed().as_secs();
        let engine = || OctetString::from(self.id.clone());
        let parameters = USMSecurityParameters {
            authoritative_engine_id: engine(),
            authoritative_engine_boots: self.boots.into(),
            authoritative_engine_time: seconds.into(),
            user_name: user,
            authentication_parameters: OctetString::from_static(&[]),
            privacy_parameters: OctetString::from_static(&[]),
        };
        let report = Pdu {
            request_id,
            error_status: Pdu::ERROR_STATUS_NO_ERROR,
            error_index: 0,
            variable_bindings: vec![VarBind {
                name: ObjectIdentifier::new(counter.to_vec())?,
                value: VarBindValue::Value(ObjectSyntax::from(mib::counter(count))),
            }],
        };
        let message = Message {
            version: super::VERSION_3.into(),
            global_data: HeaderData {
                message_id: id,
                max_size: 65_507.into(),
                flags: OctetString::from_static(&[0]),
                security_model: USER_BASED.into(),
            },
            security_parameters: rasn::ber::encode(&parameters).ok()?.into(),
            scoped_data: ScopedPduData::CleartextPdu(ScopedPdu {
                engine_id: engine(),
                name: OctetString::from_static(&[]),
                data: Pdus::Report(Report(report)),
            }),
        };
        rasn::ber::encode(&message).ok()
    }
}

/// RFC 3411 §5, SnmpEngineID: the enterprise with its first bit set, a format, and the rest.
fn engine_id(identity: &Identity, host: &Host) -> Vec<u8> {
    let rest: [u8; 8] = identity.bytes("snmp.engine");
    match host.family {
        // Cisco's and other devices' is the MAC address (format 3).
        OsFamily::Cisco => [&[0x80, 0, 0, 9, 3, 0][..], &super::machine::mac(identity)].concat(),
        OsFamily::Embedded => [&[0x80, 0, 0, 11, 3][..], &super::machine::mac(identity)].concat(),
        // Net-SNMP's own: four random bytes and a time of creation, least significant byte first.
        _ => {
            let made = u32::try_from(identity.number("snmp.engine.time", 1_640_000_000..=1_710_000_000))
                .unwrap_or(0);
            [
                &[0x80, 0, 0x1f, 0x88, 0x80][..],
                &rest[..4],
                &made.to_le_bytes(),
                &[0; 4],
            ]
            .concat()
        }
    }
}

fn security_level(flags: u8) -> &'static str {
    match flags & 3 {
        0 => "noAuthNoPriv",
        1 => "authNoPriv",
        3 => "authPriv",
        _ => "invalid",
    }
}

/// Enough of what a visitor sent for the log.
fn head(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(64)]
}

fn request_id(pdus: &Pdus) -> i32 {
    match pdus {
        Pdus::GetRequest(request) => request.0.request_id,
        Pdus::GetNextRequest(request) => request.0.request_id,
        Pdus::SetRequest(request) => request.0.request_id,
        Pdus::GetBulkRequest(request) => request.0.request_id,
        Pdus::InformRequest(request) => request.0.request_id,
        Pdus::Response(request) => request.0.request_id,
        Pdus::Trap(request) => request.0.request_id,
        Pdus::Report(request) => request.0.request_id,
    }
}
