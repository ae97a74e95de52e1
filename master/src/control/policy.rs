//! The policies that the operators have signed: what any bundle may ask of a host.
//!
//! The master keeps them, hands each host the newest that names it, and holds what it compiles to the same rules by the
//! same code as the agents do, so that who asks for too much hears it at once. It signs none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use decnet_pki::policy::{PolicyError, SignedPolicy};
use decnet_plan::desired::Desired;
use decnet_plan::policy::{self, Policy, Rule};
use decnet_wire::ids::{DeckyName, HostId, HostName, StackName, Timestamp};
use decnet_wire::policy::Policy as Document;

use serde_json::json;

use super::{Control, ControlError, settings, touch};
use crate::audit::{Action, Actor, Change};
use crate::records::{DeckyRecord, Host, PolicyRecord};
use crate::store::Db;
use crate::text::chain;

/// Every policy that was ever taken, by version.
pub(super) type Policies = Arc<BTreeMap<u64, Arc<SignedPolicy>>>;

/// One thing that the present fleet asks for and a policy forbids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forbidden {
    pub host: HostName,
    /// None when it is about a network, or the host as a whole.
    pub decky: Option<DeckyName>,
    /// The service, or the network; empty for the host as a whole.
    pub service: String,
    pub attribute: String,
    /// What the policy says, and what was asked for.
    pub reason: String,
    pub rule: Rule,
}

/// What a policy makes of the present fleet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// The hosts that the policy is for.
    pub hosts: usize,
    /// Their deckies.
    pub deckies: usize,
    pub forbidden: Vec<Forbidden>,
}

/// Reads what the store holds.
pub(super) fn load(db: &Db) -> Result<Policies, ControlError> {
    let records = db.read(|r| Ok::<_, ControlError>(r.all::<PolicyRecord>()?))?;
    let mut policies = BTreeMap::new();
    for record in records {
        let policy =
            SignedPolicy::stored(record.envelope.as_bytes()).map_err(|source| ControlError::Sign {
                what: "the stored policy",
                source: source.into(),
            })?;
        policies.insert(policy.version(), Arc::new(policy));
    }
    Ok(Arc::new(policies))
}

impl Control {
    /// Every policy that was ever taken, by version.
    #[must_use]
    pub fn policies(&self) -> Arc<BTreeMap<u64, Arc<SignedPolicy>>> {
        Arc::clone(&self.policies.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The policy that a host is to hold; none while the built-in one does.
    #[must_use]
    pub fn policy_for(&self, host: HostId) -> Option<Arc<SignedPolicy>> {
        let policies = self.policies();
        let mut newest = policies.values().rev();
        newest.find(|policy| policy.is_for(self.fleet, host)).cloned()
    }

    /// The newest version that every host is to hold at least.
    #[must_use]
    pub fn fleet_wide_policy(&self) -> Option<u64> {
        let policies = self.policies();
        let mut newest = policies.values().rev();
        newest
            .find(|policy| policy.document().hosts.is_none())
            .map(|policy| policy.version())
    }

    /// Takes a signed policy, as an agent would, and has every host that it names look at its bundle again.
    ///
    /// # Errors
    /// An agent would not believe it, it is not newer than all others, or it names a host that is none (422).
    pub fn take_policy(&self, by: &Actor, envelope: &[u8]) -> Result<u64, ControlError> {
        let now = self.now();
        let root = self.keys();
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let policies = self.policies();
        let newest = policies.values().next_back().cloned();
        let policy = SignedPolicy::admit(envelope, &root.root, None, newest.as_deref(), now)
            .map_err(|error: PolicyError| ControlError::Invalid(chain(&error)))?;
        let version = policy.version();
        if policies.contains_key(&version) {
            return Err(ControlError::Invalid(format!(
                "version {version} of the policy is there already: sign another version"
            )));
        }
        let text = String::from_utf8(policy.envelope().to_json()).map_err(|error| ControlError::Sign {
            what: "the policy",
            source: error.into(),
        })?;
        let change = Change::new(Action::PolicySign, "policy")
            .before(json!({ "version": newest.as_ref().map(|newest| newest.version()) }))
            .after(json!({
                "version": version,
                "expires_at": policy.document().expires_at,
                "hosts": policy.document().hosts,
                "rules": policy.document().rules,
            }));
        self.db.change(by, now, |w| {
            let hosts = w.all::<Host>()?;
            let known: BTreeSet<HostId> = hosts.iter().map(|host| host.id).collect();
            let named = policy.document().hosts.iter().flatten();
            if let Some(unknown) = named.clone().find(|host| !known.contains(host)) {
                return Err(ControlError::Invalid(format!(
                    "the policy names host {unknown}, which this fleet does not have"
                )));
            }
            w.put(
                &version,
                &PolicyRecord {
                    version,
                    envelope: text,
                    taken_at: now,
                },
            )?;
            for host in hosts.iter().filter(|host| host.lives()) {
                if policy.document().names(host.id) {
                    touch(w, host.id)?;
                }
            }
            Ok::<_, ControlError>(change.done(()))
        })?;
        let mut all = BTreeMap::clone(&policies);
        all.insert(version, Arc::new(policy));
        *self.policies.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(all);
        tracing::info!(version, "a policy was taken");
        self.publish.notify_one();
        Ok(version)
    }

    /// What a host's next bundle is held to.
    ///
    /// # Errors
    /// The host would take no bundle at all: its policy has ended, or it has none where it must (409).
    pub(super) fn bundle_policy(&self, host: &Host) -> Result<Policy, ControlError> {
        let policy = self.policy_for(host.id);
        let version = policy.as_ref().map_or(0, |policy| policy.version());
        let least = self.keys().root.document().policy.unwrap_or(0);
        if version < least {
            return Err(ControlError::Conflict(format!(
                "the trust root asks for version {least} of the policy and there is none for the host {}: sign one for \
                 every host: decnet policy sign FILE",
                host.name
            )));
        }
        let Some(policy) = policy else {
            return Ok(Policy::built_in());
        };
        let ends = policy.document().expires_at;
        if ends <= self.now() {
            return Err(ControlError::Conflict(format!(
                "version {version} of the policy, which the host {} holds, expired at {ends}: sign another one: decnet \
                 policy sign FILE",
                host.name
            )));
        }
        Ok(Policy::from(policy.document()))
    }

    /// What a policy would forbid of the present fleet; without one, what those that are held do. Changes nothing.
    ///
    /// # Errors
    /// The store's, or the fleet cannot be compiled.
    pub fn check_policy(&self, draft: Option<&Document>) -> Result<Verdict, ControlError> {
        let (settings, hosts, records) = self
            .db
            .read(|r| Ok::<_, ControlError>((settings(r)?, r.all::<Host>()?, r.all::<DeckyRecord>()?)))?;
        let mut verdict = Verdict::default();
        for host in hosts.iter().filter(|host| host.lives()) {
            let held = self.policy_for(host.id);
            let document = match draft {
                Some(draft) if !draft.names(host.id) => continue,
                Some(draft) => Some(draft),
                None => held.as_ref().map(|held| held.document()),
            };
            verdict.hosts += 1;
            let state = self.state_under(document, &settings, host, &records)?;
            let deckies: BTreeMap<StackName, DeckyName> = state
                .stacks
                .iter()
                .map(|stack| (stack.name.clone(), stack.decky.clone()))
                .collect();
            verdict.deckies += deckies.len();
            let stacks = state.stacks.iter().map(|stack| (&stack.name, &stack.compose));
            let desired = Desired::new(host.id, &state.networks, &state.blobs, stacks)
                .map_err(|errors| super::deploy::unacceptable(host, &errors))?;
            let rules = document.map_or_else(Policy::built_in, Policy::from);
            let found = policy::check(&desired, &rules).into_iter();
            verdict.forbidden.extend(found.map(|violation| Forbidden {
                host: host.name.clone(),
                decky: violation.stack.and_then(|stack| deckies.get(&stack).cloned()),
                service: violation.service,
                attribute: violation.attribute,
                reason: violation.reason,
                rule: violation.rule,
            }));
        }
        Ok(verdict)
    }

    /// Whether the operators of the present trust root signed it: only then does a host take it that has none yet.
    #[must_use]
    pub fn is_policy_of_present_operators(&self, policy: &SignedPolicy) -> bool {
        let issued: Timestamp = policy.document().issued_at;
        let bytes = policy.envelope().to_json();
        SignedPolicy::admit(&bytes, &self.keys().root, None, None, issued).is_ok()
    }
}
