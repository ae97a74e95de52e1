//! The trust root: which keys may sign what. Signed by the operator's own keys in a DSSE envelope of type
//! [`PAYLOAD_TYPE`].

use serde::{Deserialize, Serialize};

use crate::ids::{FleetId, Timestamp};

/// The DSSE payload type of a trust root.
pub const PAYLOAD_TYPE: &str = "application/vnd.decnet.trust-root+json";
/// The header of the agent API's answers with the version of the newest trust root.
pub const VERSION_HEADER: &str = "decnet-trust-root";
/// The version of this document's form.
pub const SCHEMA: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRoot {
    pub schema: u32,
    pub fleet: FleetId,
    /// Strictly increasing; a host never goes back.
    pub version: u64,
    /// Bundles of another epoch are refused.
    pub epoch: u64,
    /// How many of the operator's keys must sign the next trust root.
    pub threshold: u32,
    /// The operator's Ed25519 keys, as `decnet_pki::key::PublicKey` writes them.
    pub operator_keys: Vec<String>,
    /// The master's online Ed25519 key: it signs bundles.
    pub online_key: String,
    /// After this moment the online key signs nothing that is accepted.
    pub online_key_expires_at: Timestamp,
    /// CA certificates in PEM that may stand behind the master's listeners.
    pub ca_certificates: Vec<String>,
    /// The least version of the policy that a host must hold to take any bundle; none asks for no policy. It answers
    /// a master that keeps the policy from a host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<u64>,
}
