//! The policy as this host believes it: what the operators allow any bundle to ask of it.
//!
//! Guarantees: a policy is in the ledger before anything is decided by it. A bundle is held to the policy that was
//! believed when it came, and goes on under that one: a newer policy tears nothing down.
//!
//! What is kept is not checked against newer operators: it was signed by those who decided then, and without it a stolen
//! master would only have to wait for a rotation to be rid of it. Whatever is to replace it needs the present ones.

use decnet_pki::policy::{PolicyError, SignedPolicy};
use decnet_plan::policy::{self, Policy};
use decnet_wire::ids::{FleetId, HostId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::admit::{self, Code};
use crate::ledger::{Ledger, LedgerError, PolicyRecord};

/// A policy that is believed, in the form that bundles are checked with.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) signed: SignedPolicy,
    pub(crate) rules: Policy,
    pub(crate) record: PolicyRecord,
}

impl Held {
    /// One that was just found to be good.
    pub(crate) fn new(signed: SignedPolicy, accepted_at: Timestamp) -> Self {
        // An envelope's JSON is text.
        let envelope = String::from_utf8(signed.envelope().to_json()).unwrap_or_default();
        Self {
            rules: Policy::from(signed.document()),
            record: PolicyRecord {
                envelope,
                accepted_at,
            },
            signed,
        }
    }

    /// The one that bundles for this host are held to, out of the ledger. One of a fleet that the host has left is none.
    pub(crate) fn load(ledger: &Ledger, fleet: FleetId, host: HostId) -> Result<Option<Self>, LedgerError> {
        let held = ledger.policy()?.and_then(Self::read);
        Ok(held.filter(|held| held.signed.is_for(fleet, host)))
    }

    fn read(record: PolicyRecord) -> Option<Self> {
        match SignedPolicy::stored(record.envelope.as_bytes()) {
            Ok(signed) => Some(Self {
                rules: Policy::from(signed.document()),
                signed,
                record,
            }),
            Err(error) => {
                tracing::error!(
                    "the stored policy cannot be used any more: {}",
                    crate::error::error_chain(&error)
                );
                None
            }
        }
    }
}

/// What the accepted bundle goes on under.
pub(crate) fn of_bundle(ledger: &Ledger) -> Result<Policy, LedgerError> {
    let record = ledger.bundle_policy()?;
    let held = record.and_then(Held::read);
    Ok(held.map_or_else(Policy::built_in, |held| held.rules))
}

/// Under what code a policy is refused.
pub(crate) fn code(error: &PolicyError) -> Code {
    match error {
        PolicyError::Equivocation(_) => Code::PolicyEquivocation,
        _ => Code::PolicyDocument,
    }
}

/// What people are told about the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Of the newest policy that was believed.
    pub version: u64,
    pub accepted_at: Timestamp,
    /// After this moment no new bundle is accepted.
    pub expires_at: Timestamp,
    /// The version that the accepted bundle was held to; none for the built-in policy, or when no bundle was accepted.
    pub bundle: Option<u64>,
    /// What the accepted bundle asks for and this version forbids. It runs all the same, until the next one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outside: Vec<String>,
}

impl PolicyStatus {
    pub(crate) fn read(ledger: &Ledger, fleet: FleetId, host: HostId) -> Result<Option<Self>, LedgerError> {
        let Some(held) = Held::load(ledger, fleet, host)? else {
            return Ok(None);
        };
        let of_bundle = ledger.bundle_policy()?.and_then(Held::read);
        let bundle = of_bundle.map(|held| held.signed.version());
        let outside = if bundle == Some(held.signed.version()) {
            Vec::new()
        } else {
            outside(ledger, host, &held.rules)?
        };
        Ok(Some(Self {
            version: held.signed.version(),
            accepted_at: held.record.accepted_at,
            expires_at: held.signed.document().expires_at,
            bundle,
            outside,
        }))
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("version {}, until {}", self.version, self.expires_at);
        if let Some(first) = self.outside.first() {
            text.push_str(&format!("; the accepted bundle is outside of it: {first}"));
            if self.outside.len() > 1 {
                text.push_str(&format!("; and {} more", self.outside.len() - 1));
            }
        }
        text
    }
}

/// What the accepted bundle asks for beyond a policy.
fn outside(ledger: &Ledger, host: HostId, rules: &Policy) -> Result<Vec<String>, LedgerError> {
    let (Some(accepted), Some(envelope)) = (ledger.accepted()?, ledger.envelope()?) else {
        return Ok(Vec::new());
    };
    let desired = admit::stored_desired(host, &accepted.digest, &envelope);
    Ok(desired.map_or_else(Vec::new, |desired| {
        let found = policy::check(&desired, rules);
        found.iter().map(ToString::to_string).collect()
    }))
}
