//! Enrolment: the one-shot token an operator carries to a host, the host's request and the master's response.

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, FleetId, HostId, HostName, InterfaceName, Timestamp};

/// The version of these documents.
pub const SCHEMA: u32 = 1;

/// What the token says. It travels as `decnet1.` and the base64url of this document's JSON.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    pub schema: u32,
    pub host: HostId,
    pub name: HostName,
    /// Where to enrol: `host:port`.
    pub enrol_at: String,
    /// SHA-256 of the CA certificate (DER) that the enrolment listener must show.
    pub ca_pin: Digest,
    /// SHA-256 of the payload of the trust root that the response must carry.
    pub root_pin: Digest,
    /// 256 random bits, base64url without padding.
    pub secret: String,
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("host", &self.host)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Body of `POST /enroll/v1`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    pub schema: u32,
    pub host: HostId,
    /// The token's secret.
    pub secret: String,
    /// PKCS #10 in PEM, P-256. Only its public key is used.
    pub csr: String,
    pub agent_version: String,
}

impl std::fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolRequest")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// Answer to an enrolment request that was granted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolResponse {
    pub schema: u32,
    pub fleet: FleetId,
    pub host: HostId,
    pub name: HostName,
    /// The host's certificate in PEM.
    pub certificate: String,
    /// The signed trust root: a DSSE envelope.
    pub trust_root: serde_json::Value,
    /// Where the agent API listens: `host:port`.
    pub agent_api: String,
    /// What the operator fixed for this host at enrolment.
    pub network: HostNetwork,
}

/// Answer to an enrolment request that waits for an operator's approval, with status 202. The same request is asked
/// again until it is granted or refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolWaiting {
    pub schema: u32,
    /// SHA-256 of the SubjectPublicKeyInfo of the key that waits: what the operator compares with what the host says.
    pub key: Digest,
}

/// Body of `POST /agent/v1/renew`: an enrolled host asks for a certificate for a new key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    pub schema: u32,
    /// PKCS #10 in PEM, P-256. Only its public key is used.
    pub csr: String,
}

/// Body of `POST /enroll/v1/rejoin`: an enrolled host whose certificate is not believed any more asks for another one
/// for the key that the master knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RejoinRequest {
    pub schema: u32,
    pub host: HostId,
    /// PKCS #10 in PEM, P-256: its signature proves that the host holds the key.
    pub csr: String,
}

/// Answer to a renewal or a return that was granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeafResponse {
    pub schema: u32,
    /// The host's certificate in PEM, followed by its issuer's.
    pub certificate: String,
}

/// What the operator fixed about a host's LAN. An absent value means: as the fleet has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostNetwork {
    /// ipvlan in place of the fleet's driver.
    pub ipvlan: bool,
    /// The parent interface on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<InterfaceName>,
}
