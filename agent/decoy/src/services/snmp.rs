//! An SNMP agent: versions 1 and 2c for two communities, version 3 up to the refused user.
//!
//! Every message is logged with its community and what it asked for. Answers stay small and few for each
//! address, because the source of a datagram can be forged. Messages are read and written with
//! `rasn-snmp`.

mod agent;
mod budget;
mod machine;
mod mib;
mod usm;

use rasn_snmp::v2::Pdus;
use rasn_snmp::v2c;

use crate::Failure;
use crate::environment::Context;
use crate::event::Category;
use crate::serve::{self, Session};
use agent::{Access, Agent};
use budget::Budget;
use usm::Engine;

/// `version` fields (RFC 1157 §4, RFC 1901 §3, RFC 3412 §6).
const VERSION_1: u8 = 0;
const VERSION_2C: u8 = 1;
const VERSION_3: u8 = 3;
/// Variables of one request that are looked at; the rest of a longer one makes it `tooBig`.
const VARIABLES_CAP: usize = 64;

/// Serves for ever.
///
/// # Errors
///
/// When the port cannot be bound.
pub(super) async fn run(context: Context) -> Result<(), Failure> {
    let mut agent = Agent::new(&context.identity, &context.host);
    let mut engine = Engine::new(&context.identity, &context.host);
    let mut budget = Budget::default();
    serve::udp(&context, move |datagram, session| {
        let answer = answer(&mut agent, &mut engine, datagram, session)?;
        budget.allows(session.peer(), answer.len()).then_some(answer)
    })
    .await
}

fn answer(agent: &mut Agent, engine: &mut Engine, datagram: &[u8], session: &Session) -> Option<Vec<u8>> {
    match version(datagram) {
        Some(version @ (VERSION_1 | VERSION_2C)) => {
            let Ok(message) = rasn::ber::decode::<v2c::Message<Pdus>>(datagram) else {
                session.garbage(datagram);
                return None;
            };
            let access = Access::of(&message.community);
            log(session, version, &message, access);
            let pdu = agent.answer(version == VERSION_1, access, message.data)?;
            let message = v2c::Message {
                version: version.into(),
                community: message.community,
                data: pdu,
            };
            rasn::ber::encode(&message).ok()
        }
        Some(VERSION_3) => engine.answer(datagram, session),
        _ => {
            session.garbage(datagram);
            None
        }
    }
}

/// The version number at the front of every message: SEQUENCE { INTEGER version, … }.
fn version(datagram: &[u8]) -> Option<u8> {
    let (0x30, rest) = datagram.split_first().map(|(tag, rest)| (*tag, rest))? else {
        return None;
    };
    let length_bytes = match *rest.first()? {
        0..=0x7f => 1,
        long @ 0x81..=0x84 => 1 + usize::from(long & 0x0f),
        _ => return None,
    };
    match rest.get(length_bytes..)? {
        [2, 1, version, ..] => Some(*version),
        _ => None,
    }
}

fn log(session: &Session, version: u8, message: &v2c::Message<Pdus>, access: Option<Access>) {
    let (operation, variables) = agent::describe(&message.data);
    session
        .event("query", Category::Authentication)
        .outcome(access.is_some())
        .text("decnet.snmp.community", &message.community)
        .field(
            "decnet.snmp.version",
            if version == VERSION_1 { "1" } else { "2c" },
        )
        .field("decnet.snmp.operation", operation)
        .field("decnet.snmp.variables", variables)
        .emit();
}
