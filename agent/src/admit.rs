//! Admission: the only way from bytes off the network to an [`AdmittedBundle`].
//!
//! Flow: size cap → signature → parse exactly the verified bytes → schema → audience → expiry → epoch and
//! generation → document → policy → commit to the ledger → publish.
//!
//! Policies come the same way (`decnet_pki::policy`): they are in the ledger before a bundle is held to them.
//!
//! Guarantees: what is published was committed before. A refusal changes nothing but the memory of it: the
//! state accepted before keeps running, also when it has expired meanwhile. What was refused for its time or
//! its place in the order stays refused, whatever the clock says later.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use decnet_pki::order::SignedDecommission;
use decnet_pki::policy::SignedPolicy;
use decnet_plan::policy::Policy;
use decnet_trace::Tracer;
use decnet_wire::bundle::{Bundle, Stack};
use decnet_wire::ids::{Digest, Timestamp};
use tokio::sync::watch;

use crate::clock::{SharedClock, later};
use crate::error::{error_chain, one_line};
use crate::ledger::{
    Acceptance, AcceptedRecord, Ledger, LedgerError, OrderRecord, PolicyRecord, RefusalRecord, digest_of,
};
use crate::policy::{self, Held};
use crate::traces::Traced;
use crate::trust::wire_digest;

mod examine;
#[cfg(any(feature = "fuzzing", test))]
pub(crate) mod fuzzing;
mod refusal;
mod wishes;

pub(crate) use examine::{Audience, restore, stored_desired};
use examine::{Examined, Memory, examine};
pub(crate) use refusal::{Code, Refusal};
pub(crate) use wishes::wishes;

/// A bundle that passed every check and is in the ledger.
#[derive(Debug)]
pub(crate) struct AdmittedBundle {
    bundle: Bundle,
    digest: Digest,
    policy: Policy,
}

impl AdmittedBundle {
    pub(crate) fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// SHA-256 of the payload.
    pub(crate) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// What it was held to when it came.
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }
}

/// What became of an envelope.
#[derive(Debug)]
pub(crate) enum Verdict {
    Accepted,
    /// It is the bundle that is accepted already.
    NoNews,
    Refused,
}

/// Where the order to leave is published. None until there is one.
pub(crate) type Orders = watch::Sender<Option<Arc<SignedDecommission>>>;

/// Where bundles are published. None until one has ever been accepted.
pub(crate) type Bundles = watch::Sender<Option<Arc<AdmittedBundle>>>;

/// The gate: everything that admission needs.
#[derive(Debug)]
pub(crate) struct Admission {
    audience: watch::Receiver<Arc<Audience>>,
    ledger: Arc<Ledger>,
    clock: SharedClock,
    bundles: Bundles,
    orders: Orders,
    /// As the ledger has it.
    held: Mutex<Option<Arc<Held>>>,
    tracer: Tracer,
}

impl Admission {
    pub(crate) fn new(
        audience: watch::Receiver<Arc<Audience>>,
        ledger: Arc<Ledger>,
        clock: SharedClock,
        bundles: Bundles,
    ) -> Self {
        Self {
            audience,
            ledger,
            clock,
            bundles,
            orders: watch::channel(None).0,
            held: Mutex::default(),
            tracer: Tracer::off(),
        }
    }

    /// The same, and it tells `tracer` what it admits.
    pub(crate) fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// The same, and it tells of the order to leave there.
    pub(crate) fn ordering(self, orders: Orders) -> Self {
        Self { orders, ..self }
    }

    /// Publishes what the ledger holds from before. It was checked when it came in; only that it is still
    /// the same document, and readable by this version, is looked at again.
    pub(crate) fn restore(&self) -> Result<(), LedgerError> {
        let audience = Arc::clone(&self.audience.borrow());
        *self.held() = Held::load(&self.ledger, audience.fleet, audience.host)?.map(Arc::new);
        if let Some(record) = self.ledger.order()? {
            match SignedDecommission::stored(record.envelope.as_bytes()) {
                Ok(order) => {
                    self.orders.send_replace(Some(Arc::new(order)));
                    return Ok(());
                }
                Err(error) => tracing::error!(
                    "the stored order cannot be used any more: {}; the master sends it again",
                    error_chain(&error)
                ),
            }
        }
        let (Some(accepted), Some(envelope)) = (self.ledger.accepted()?, self.ledger.envelope()?) else {
            return Ok(());
        };
        let rules = policy::of_bundle(&self.ledger)?;
        match restore(audience.host, &accepted.digest, &envelope, rules) {
            Ok(admitted) => {
                self.bundles.send_replace(Some(Arc::new(admitted)));
            }
            Err(refusal) => tracing::error!(
                code = refusal.code.as_str(),
                "the stored bundle cannot be used any more: {}; nothing is changed until the next one",
                refusal.detail
            ),
        }
        Ok(())
    }

    /// The generation accepted last; zero before the first.
    pub(crate) fn generation(&self) -> u64 {
        self.bundles
            .borrow()
            .as_ref()
            .map_or(0, |admitted| admitted.bundle().generation)
    }

    /// Decides about an envelope and acts on it.
    pub(crate) async fn admit(&self, envelope: Vec<u8>) -> Result<Verdict, LedgerError> {
        let now = self.clock.now();
        let memory = Memory {
            accepted: self.ledger.accepted()?,
            refusals: self.ledger.refusals()?,
            policy: self.held().clone(),
        };
        let record = memory.policy.as_ref().map(|held| held.record.clone());
        let signed_before = memory.accepted.as_ref().map(|accepted| accepted.signed_at);
        let audience = Arc::clone(&self.audience.borrow());
        // A large bundle takes a while to hash, parse and normalise.
        let outcome = tokio::task::spawn_blocking(move || {
            let outcome = examine(&audience, &memory, &envelope, now);
            (outcome, envelope)
        })
        .await;
        let Ok((outcome, envelope)) = outcome else {
            return Err(LedgerError::Closed);
        };
        match outcome {
            Ok(Examined::NoNews) => Ok(Verdict::NoNews),
            Ok(Examined::News(admitted)) => {
                self.accept(*admitted, envelope, now, signed_before, record).await
            }
            Ok(Examined::Leave(order)) => self.obey(*order, now).await,
            Err(refusal) => {
                self.refuse(&refusal, now).await?;
                Ok(Verdict::Refused)
            }
        }
    }

    /// Decides about an order that came by itself, from a master that lets this host in no more.
    pub(crate) async fn admit_order(&self, envelope: &[u8]) -> Result<Verdict, LedgerError> {
        let now = self.clock.now();
        let audience = Arc::clone(&self.audience.borrow());
        match SignedDecommission::admit(envelope, &audience.root, audience.host) {
            Ok(order) => self.obey(order, now).await,
            Err(error) => {
                let refusal = Refusal {
                    code: Code::Order,
                    detail: one_line(&error_chain(&error)),
                    digest: digest_of(envelope),
                    generation: None,
                };
                self.refuse(&refusal, now).await?;
                Ok(Verdict::Refused)
            }
        }
    }

    async fn obey(&self, order: SignedDecommission, now: Timestamp) -> Result<Verdict, LedgerError> {
        let record = OrderRecord {
            envelope: String::from_utf8_lossy(&order.envelope().to_json()).into_owned(),
            accepted_at: now,
        };
        self.ledger.write(move |tx| tx.obey(&record)).await?;
        tracing::warn!(nonce = %order.document().nonce, "ordered to leave the fleet");
        self.orders.send_replace(Some(Arc::new(order)));
        Ok(Verdict::Accepted)
    }

    async fn accept(
        &self,
        admitted: AdmittedBundle,
        envelope: Vec<u8>,
        now: Timestamp,
        signed_before: Option<Timestamp>,
        policy: Option<PolicyRecord>,
    ) -> Result<Verdict, LedgerError> {
        let bundle = admitted.bundle();
        let generation = bundle.generation;
        let acceptance = Acceptance {
            envelope,
            record: AcceptedRecord {
                epoch: bundle.epoch,
                generation,
                digest: admitted.digest.clone(),
                signed_at: later(bundle.issued_at, signed_before),
                expires_at: bundle.expires_at,
                accepted_at: now,
            },
            stacks: bundle.stacks.clone(),
            policy,
            wishes: wishes(bundle),
        };
        let opened = self.opened(bundle)?;
        self.ledger.write(move |tx| tx.accept(&acceptance)).await?;
        for traced in opened {
            self.tracer
                .record(traced.admission(generation, now, self.clock.now()));
        }
        tracing::info!(generation, stacks = bundle.stacks.len(), digest = %admitted.digest, "bundle accepted");
        self.bundles.send_replace(Some(Arc::new(admitted)));
        Ok(Verdict::Accepted)
    }

    /// The operations that a bundle opens and that belong to a trace.
    fn opened(&self, bundle: &Bundle) -> Result<Vec<Traced>, LedgerError> {
        if !self.tracer.is_on() {
            return Ok(Vec::new());
        }
        let known = self.ledger.operations()?;
        let opens = |stack: &&Stack| {
            let operation = stack.operation.as_ref();
            operation.is_some_and(|operation| !known.contains_key(&operation.id))
        };
        let opened = bundle.stacks.iter().filter(opens);
        Ok(opened
            .filter_map(|stack| Traced::new(bundle.host, stack))
            .collect())
    }

    /// The version of the policy that is held; zero without one.
    pub(crate) fn policy_version(&self) -> u64 {
        self.held().as_ref().map_or(0, |held| held.signed.version())
    }

    /// Decides about a policy. One that is believed is in the ledger before any bundle is held to it; one that is
    /// refused leaves the one before in force.
    pub(crate) async fn admit_policy(&self, envelope: &[u8]) -> Result<(), LedgerError> {
        let now = self.clock.now();
        let signed_before = self.ledger.accepted()?.map(|accepted| accepted.signed_at);
        let audience = Arc::clone(&self.audience.borrow());
        let held = self.held().clone();
        let admitted = SignedPolicy::admit(
            envelope,
            &audience.root,
            Some(audience.host),
            held.as_ref().map(|held| &held.signed),
            later(now, signed_before),
        );
        let found = match admitted {
            Ok(found) => Held::new(found, now),
            Err(error) => {
                let refusal = Refusal {
                    code: policy::code(&error),
                    detail: one_line(&error_chain(&error)),
                    digest: digest_of(envelope),
                    generation: None,
                };
                return self.refuse(&refusal, now).await;
            }
        };
        if held.is_some_and(|held| held.signed.version() == found.signed.version()) {
            return Ok(());
        }
        let record = found.record.clone();
        self.ledger.write(move |tx| tx.hold(&record)).await?;
        let (version, digest) = (found.signed.version(), wire_digest(&found.signed.digest()));
        *self.held() = Some(Arc::new(found));
        tracing::info!(version, %digest, "policy accepted");
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, Option<Arc<Held>>> {
        // Replaced as a whole: a panic elsewhere leaves nothing half-done.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of a trust root that does not follow the one that is believed.
    pub(crate) async fn refuse_root(&self, digest: &Digest, detail: &str) -> Result<(), LedgerError> {
        let refusal = Refusal {
            code: Code::TrustRoot,
            detail: detail.to_owned(),
            digest: digest.clone(),
            generation: None,
        };
        self.refuse(&refusal, self.clock.now()).await
    }

    /// Tells of an answer that is longer than any bundle, and was not read to its end. However many come, they are one:
    /// none of them has a digest.
    pub(crate) async fn refuse_endless(&self, detail: &str) -> Result<(), LedgerError> {
        let refusal = Refusal {
            code: Code::TooLarge,
            detail: detail.to_owned(),
            digest: digest_of(b""),
            generation: None,
        };
        self.refuse(&refusal, self.clock.now()).await
    }

    async fn refuse(&self, refusal: &Refusal, now: Timestamp) -> Result<(), LedgerError> {
        let Refusal {
            code,
            detail,
            digest,
            generation,
            ..
        } = refusal;
        let alarm = matches!(
            code,
            Code::Equivocation | Code::TrustRoot | Code::PolicyDocument | Code::PolicyEquivocation
        );
        if alarm {
            tracing::error!(code = code.as_str(), %digest, generation, "ALARM, refused: {detail}");
        } else {
            tracing::warn!(code = code.as_str(), %digest, generation, "bundle refused: {detail}");
        }
        let record = RefusalRecord {
            digest: digest.clone(),
            code: code.as_str().to_owned(),
            stands: refusal.stands(),
        };
        let (detail, generation) = (detail.clone(), *generation);
        self.ledger
            .write(move |tx| tx.refuse(now, &record, &detail, generation))
            .await
    }
}

#[cfg(test)]
mod tests;
