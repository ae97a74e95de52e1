//! Why a bundle was refused.

use decnet_wire::ids::Digest;

/// A reason with a stable name. Names are only ever added: dashboards and rules are written against them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// Longer than any bundle, or with more in it.
    TooLarge,
    /// Not an envelope, or a payload that is no bundle.
    Malformed,
    /// A document of another kind, though perhaps well signed.
    PayloadType,
    /// Not signed by the master's online key.
    Signature,
    /// The trust root allows the online key no longer.
    KeyExpired,
    /// A version that this agent does not know.
    Schema,
    /// For another fleet, host or key.
    Audience,
    /// Issued in what is the future here. It may come: this refusal does not stand.
    Early,
    /// Past its end.
    Expired,
    /// Of another epoch than the trust root's.
    Epoch,
    /// Older than what was accepted.
    Rollback,
    /// The same generation with other content: somebody signs two truths.
    Equivocation,
    /// A generation so far ahead that no more could follow.
    FastForward,
    /// The next generation, but not of the history that was accepted.
    Fork,
    /// A trust root, not a bundle: it does not follow the one that is believed.
    TrustRoot,
    /// Something in it has no meaning.
    Document,
    /// It asks for what no bundle may ask.
    Policy,
    /// A policy, not a bundle: it is not believed.
    PolicyDocument,
    /// A policy of the version that is held, with other content: the operators signed two truths.
    PolicyEquivocation,
    /// An order that is not believed.
    Order,
    /// The policy has ended. Another one may come: this refusal does not stand.
    PolicyExpired,
    /// The trust root asks for a policy that this host does not have. It may come: this refusal does not stand.
    PolicyMissing,
    /// A release, not a bundle: it is not believed.
    Release,
}

impl Code {
    /// The name in events, logs and the status.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too-large",
            Self::Malformed => "malformed",
            Self::PayloadType => "payload-type",
            Self::Signature => "signature",
            Self::KeyExpired => "key-expired",
            Self::Schema => "schema",
            Self::Audience => "audience",
            Self::Early => "early",
            Self::Expired => "expired",
            Self::Epoch => "epoch",
            Self::Rollback => "rollback",
            Self::Equivocation => "equivocation",
            Self::FastForward => "fast-forward",
            Self::Fork => "fork",
            Self::TrustRoot => "trust-root",
            Self::Document => "document",
            Self::Policy => "policy",
            Self::PolicyDocument => "policy-document",
            Self::PolicyEquivocation => "policy-equivocation",
            Self::Order => "order",
            Self::PolicyExpired => "policy-expired",
            Self::PolicyMissing => "policy-missing",
            Self::Release => "release",
        }
    }

    /// Whether a later look at the same bytes could come out differently without this agent having changed:
    /// the clock may be set back, or another generation be accepted in between.
    const fn depends_on_time_or_order(self) -> bool {
        matches!(
            self,
            Self::Expired | Self::Rollback | Self::Equivocation | Self::FastForward | Self::Fork
        )
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [
            Self::Expired,
            Self::Rollback,
            Self::Equivocation,
            Self::FastForward,
            Self::Fork,
        ]
        .into_iter()
        .find(|code| code.as_str() == name)
    }
}

/// A bundle that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    /// One line: what, why.
    pub(crate) detail: String,
    /// Of the payload, or of everything received when there was no payload to be found.
    pub(crate) digest: Digest,
    pub(crate) generation: Option<u64>,
}

impl Refusal {
    /// Whether the same bundle is to stay refused.
    pub(crate) fn stands(&self) -> bool {
        self.code.depends_on_time_or_order()
    }
}
