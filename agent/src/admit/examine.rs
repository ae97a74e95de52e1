//! The checks themselves: a pure function of the bytes, what is remembered and the time.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;

use decnet_pki::envelope::{Envelope, ParseError, VerifyError};
use decnet_pki::order::SignedDecommission;
use decnet_pki::root::Root;
use decnet_plan::desired::Desired;
use decnet_plan::policy::{self, Policy};
use decnet_wire::bundle::{Bundle, PAYLOAD_TYPE, SCHEMA};
use decnet_wire::ids::{Digest, FleetId, HostId, Timestamp};
use decnet_wire::limits;
use decnet_wire::order::Order;
use serde::Deserialize;

use super::{AdmittedBundle, Code, Refusal};
use crate::clock::later;
use crate::error::{error_chain, one_line};
use crate::ledger::{AcceptedRecord, RefusalRecord, digest_of};
use crate::policy::Held;
use crate::trust::wire_digest;

/// How far ahead of the accepted generation the next one may be. A master counts one for each change of one
/// host; without a bound, one stolen signature could use up the numbers.
const MAX_JUMP: u64 = 1 << 20;
/// How far ahead of this host's clock a bundle may have been issued. Less than bundles live (24 hours): the time that
/// an accepted one moves forward must not be past the end of those that a master signs once its clock is right.
const MAX_LEAD: time::Duration = time::Duration::hours(12);
/// Most networks, and most blobs, in one bundle.
const MAX_PARTS: usize = 4096;
/// Problems of a document that are told; a broken generator makes thousands of the same kind.
const TOLD: usize = 3;

/// Whom bundles must be for and whose signature counts.
#[derive(Debug)]
pub(crate) struct Audience {
    pub(crate) fleet: FleetId,
    pub(crate) host: HostId,
    pub(crate) host_key: Digest,
    pub(crate) root: Root,
}

/// What was decided before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    pub(crate) accepted: Option<AcceptedRecord>,
    pub(crate) refusals: Vec<RefusalRecord>,
    /// The policy that is believed; none for the built-in one.
    pub(crate) policy: Option<Arc<Held>>,
}

/// A bundle that nothing speaks against.
#[derive(Debug)]
pub(crate) enum Examined {
    News(Box<AdmittedBundle>),
    /// The operators want this host to leave: nothing else in the bundle matters.
    Leave(Box<SignedDecommission>),
    NoNews,
}

/// Decides about an envelope.
pub(crate) fn examine(
    audience: &Audience,
    memory: &Memory,
    envelope: &[u8],
    now: Timestamp,
) -> Result<Examined, Refusal> {
    let refuse = |code, detail: String, digest: &Digest, generation| Refusal {
        code,
        detail: one_line(&detail),
        digest: digest.clone(),
        generation,
    };
    // Size before anything is parsed.
    let parsed = Envelope::parse(envelope, limits::BUNDLE_ENVELOPE).map_err(|error| {
        let code = match error {
            ParseError::TooLarge { .. } => Code::TooLarge,
            _ => Code::Malformed,
        };
        refuse(code, error_chain(&error), &digest_of(envelope), None)
    })?;
    let digest = wire_digest(&parsed.digest());

    let root = &audience.root;
    let verified = parsed
        .verify(PAYLOAD_TYPE, &[*root.online_key()], NonZeroUsize::MIN)
        .map_err(|error| {
            let code = match error {
                VerifyError::PayloadType { .. } => Code::PayloadType,
                _ => Code::Signature,
            };
            refuse(code, error_chain(&error), &digest, None)
        })?;
    let bundle = parse(verified.bytes()).map_err(|(code, detail)| refuse(code, detail, &digest, None))?;

    let generation = Some(bundle.generation);
    let refuse = |code, detail| refuse(code, detail, &digest, generation);
    check_audience(audience, &bundle).map_err(|detail| refuse(Code::Audience, detail))?;
    if let Some(Order::Decommission(envelope)) = &bundle.order {
        // It proves itself: neither a policy nor a time keeps a host from leaving.
        let order = SignedDecommission::admit(envelope.to_string().as_bytes(), root, audience.host);
        return match order {
            Ok(order) => Ok(Examined::Leave(Box::new(order))),
            Err(error) => Err(refuse(Code::Order, error_chain(&error))),
        };
    }
    if memory
        .accepted
        .as_ref()
        .is_some_and(|accepted| accepted.digest == digest)
    {
        return Ok(Examined::NoNews);
    }
    // What was refused before stays refused: a clock that is set back makes nothing good again.
    let before = |refusal: &&RefusalRecord| refusal.stands && refusal.digest == digest;
    if let Some(code) = memory
        .refusals
        .iter()
        .find(before)
        .and_then(|found| Code::from_name(&found.code))
    {
        return Err(refuse(code, "it was refused before for this reason".to_owned()));
    }
    check_time(root, memory, &bundle, now).map_err(|(code, detail)| refuse(code, detail))?;
    check_order(root, memory, &bundle).map_err(|(code, detail)| refuse(code, detail))?;
    let rules = check_policy(root, memory, now).map_err(|(code, detail)| refuse(code, detail))?;
    check_documents(audience.host, &bundle, &rules).map_err(|(code, detail)| refuse(code, detail))?;
    Ok(Examined::News(Box::new(AdmittedBundle {
        bundle,
        digest,
        policy: rules,
    })))
}

/// Reads a stored envelope again; `policy` is the one that it was held to.
pub(crate) fn restore(
    host: HostId,
    accepted: &Digest,
    envelope: &[u8],
    policy: Policy,
) -> Result<AdmittedBundle, Refusal> {
    let refuse = |code, detail| Refusal {
        code,
        detail,
        digest: accepted.clone(),
        generation: None,
    };
    let bundle = stored(accepted, envelope)?;
    check_documents(host, &bundle, &policy).map_err(|(code, detail)| refuse(code, detail))?;
    Ok(AdmittedBundle {
        bundle,
        digest: accepted.clone(),
        policy,
    })
}

/// What a stored envelope asks for, whatever any policy says.
pub(crate) fn stored_desired(host: HostId, accepted: &Digest, envelope: &[u8]) -> Option<Desired> {
    desired(host, &stored(accepted, envelope).ok()?).ok()
}

fn stored(accepted: &Digest, envelope: &[u8]) -> Result<Bundle, Refusal> {
    let refuse = |code, detail| Refusal {
        code,
        detail,
        digest: accepted.clone(),
        generation: None,
    };
    let parsed = Envelope::parse(envelope, limits::BUNDLE_ENVELOPE)
        .map_err(|error| refuse(Code::Malformed, error_chain(&error)))?;
    // The ledger says which payload was accepted; its signature was checked then.
    if wire_digest(&parsed.digest()) != *accepted {
        return Err(refuse(
            Code::Malformed,
            "it is not the document that was accepted".to_owned(),
        ));
    }
    parse(parsed.unverified_payload()).map_err(|(code, detail)| refuse(code, detail))
}

/// The policy that a new bundle is held to.
fn check_policy(root: &Root, memory: &Memory, now: Timestamp) -> Result<Policy, (Code, String)> {
    let held = memory.policy.as_deref();
    let version = held.map_or(0, |held| held.signed.version());
    if let Some(least) = root.document().policy.filter(|least| version < *least) {
        let detail = format!(
            "the trust root asks for version {least} of the policy, this host has {}; the master has to hand it on",
            if version == 0 {
                "none".to_owned()
            } else {
                format!("version {version}")
            }
        );
        return Err((Code::PolicyMissing, detail));
    }
    let Some(held) = held else {
        return Ok(Policy::built_in());
    };
    let now = later(now, memory.accepted.as_ref().map(|accepted| accepted.signed_at));
    let ends = held.signed.document().expires_at;
    if ends <= now {
        let detail = format!(
            "version {version} of the policy expired at {ends}; sign another one: decnet policy sign FILE"
        );
        return Err((Code::PolicyExpired, detail));
    }
    Ok(held.rules.clone())
}

fn desired(host: HostId, bundle: &Bundle) -> Result<Desired, (Code, String)> {
    let stacks = bundle.stacks.iter().map(|stack| (&stack.name, &stack.compose));
    Desired::new(host, &bundle.networks, &bundle.blobs, stacks)
        .map_err(|errors| (Code::Document, told(&errors)))
}

/// The bundle's documents have one meaning each, within the policy.
fn check_documents(host: HostId, bundle: &Bundle, rules: &Policy) -> Result<(), (Code, String)> {
    let violations = policy::check(&desired(host, bundle)?, rules);
    if violations.is_empty() {
        Ok(())
    } else {
        Err((Code::Policy, told(&violations)))
    }
}

fn parse(payload: &[u8]) -> Result<Bundle, (Code, String)> {
    // The version is read by itself: a newer document need not parse as one of ours.
    #[derive(Deserialize)]
    struct Head {
        schema: u32,
    }
    let malformed =
        |error: serde_json::Error| (Code::Malformed, format!("the payload is no bundle: {error}"));
    let head: Head = serde_json::from_slice(payload).map_err(malformed)?;
    if head.schema != SCHEMA {
        let detail = format!(
            "the bundle is of version {}, this agent knows version {SCHEMA}",
            head.schema
        );
        return Err((Code::Schema, detail));
    }
    let bundle: Bundle = serde_json::from_slice(payload).map_err(malformed)?;
    if bundle.stacks.len() > limits::STACKS
        || bundle.networks.len() > MAX_PARTS
        || bundle.blobs.len() > MAX_PARTS
    {
        let detail = format!(
            "it has {} stacks, {} networks and {} blobs; no more than {} of each are taken",
            bundle.stacks.len(),
            bundle.networks.len(),
            bundle.blobs.len(),
            limits::STACKS
        );
        return Err((Code::TooLarge, detail));
    }
    if bundle.issued_at >= bundle.expires_at {
        return Err((Code::Malformed, "it expires before it was issued".to_owned()));
    }
    let mut operations = BTreeSet::new();
    for stack in &bundle.stacks {
        if let Some(operation) = stack.operation
            && !operations.insert(operation.id)
        {
            return Err((
                Code::Document,
                format!("operation {} stands on two stacks", operation.id),
            ));
        }
    }
    Ok(bundle)
}

fn check_audience(audience: &Audience, bundle: &Bundle) -> Result<(), String> {
    if bundle.fleet != audience.fleet {
        return Err(format!(
            "it is for fleet {}, this is {}",
            bundle.fleet, audience.fleet
        ));
    }
    if bundle.host != audience.host {
        return Err(format!(
            "it is for host {}, this is {}",
            bundle.host, audience.host
        ));
    }
    if bundle.host_key != audience.host_key {
        return Err(format!(
            "it is for the host key {}, this is {}",
            bundle.host_key, audience.host_key
        ));
    }
    Ok(())
}

fn check_time(root: &Root, memory: &Memory, bundle: &Bundle, now: Timestamp) -> Result<(), (Code, String)> {
    // A clock that was set back does not make the past current: signed times count as well.
    let now = later(now, memory.accepted.as_ref().map(|accepted| accepted.signed_at));
    if root.online_key_expires_at() <= now {
        let detail = format!(
            "the master's signing key expired at {}, it is {now}; look at both clocks, or rotate the key at the master: \
             decnet key rotate online",
            root.online_key_expires_at()
        );
        return Err((Code::KeyExpired, detail));
    }
    if bundle.issued_at.get() > now.get() + MAX_LEAD {
        let detail = format!(
            "it was issued at {}, it is {now}; look at both clocks",
            bundle.issued_at
        );
        return Err((Code::Early, detail));
    }
    if bundle.expires_at <= now {
        let detail = format!(
            "it expired at {}, it is {now}; look at both clocks",
            bundle.expires_at
        );
        return Err((Code::Expired, detail));
    }
    Ok(())
}

fn check_order(root: &Root, memory: &Memory, bundle: &Bundle) -> Result<(), (Code, String)> {
    let generation = bundle.generation;
    if bundle.epoch != root.epoch() {
        let detail = format!(
            "it is of epoch {}, the trust root says {}",
            bundle.epoch,
            root.epoch()
        );
        return Err((Code::Epoch, detail));
    }
    let Some(accepted) = &memory.accepted else {
        return Ok(());
    };
    if accepted.epoch > bundle.epoch {
        let detail = format!(
            "it is of epoch {}, epoch {} was accepted",
            bundle.epoch, accepted.epoch
        );
        return Err((Code::Rollback, detail));
    }
    // Generations count within their epoch.
    if accepted.epoch < bundle.epoch {
        return Ok(());
    }
    if generation < accepted.generation {
        let detail = format!(
            "generation {generation} is older than {}, which was accepted",
            accepted.generation
        );
        return Err((Code::Rollback, detail));
    }
    if generation == accepted.generation {
        let detail = format!(
            "generation {generation} was accepted with other content ({}): the master signed two of them",
            accepted.digest
        );
        return Err((Code::Equivocation, detail));
    }
    if generation - accepted.generation > MAX_JUMP {
        let detail = format!(
            "generation {generation} is too far ahead of {}",
            accepted.generation
        );
        return Err((Code::FastForward, detail));
    }
    if generation == accepted.generation + 1
        && let Some(previous) = &bundle.previous
        && *previous != accepted.digest
    {
        let detail = format!(
            "it follows {previous}, but generation {} was accepted as {}",
            accepted.generation, accepted.digest
        );
        return Err((Code::Fork, detail));
    }
    Ok(())
}

fn told<T: std::fmt::Display>(problems: &[T]) -> String {
    let mut text = problems
        .iter()
        .take(TOLD)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ");
    if problems.len() > TOLD {
        text.push_str(&format!("; and {} more", problems.len() - TOLD));
    }
    text
}
