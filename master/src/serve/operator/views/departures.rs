//! Hosts that leave the fleet.

use decnet_wire::ids::{DeckyName, HostId, HostName, OperationId, Timestamp};
use decnet_wire::order::{Nonce, Tombstone};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::control::decommission::Begun;
use crate::records::Departure;

/// Body of a host's decommission.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DecommissionBody {
    /// The order, signed by the operators: a DSSE envelope.
    #[schema(value_type = Object)]
    pub order: Value,
    /// Forget the host at once.
    #[serde(default)]
    pub force: bool,
}

/// Body of a host's teardown.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TeardownBody {
    /// One decky of the host; null: all of them.
    #[serde(default)]
    pub decky_id: Option<String>,
}

/// A host's teardown, begun.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TeardownView {
    #[schema(value_type = String, format = "uuid")]
    pub host_uuid: HostId,
    #[schema(value_type = Vec<String>)]
    pub decky_names: Vec<DeckyName>,
    /// A row each.
    #[schema(value_type = Vec<String>)]
    pub lifecycle_ids: Vec<OperationId>,
}

/// A host's decommission, begun.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DecommissionView {
    pub departure: DepartureView,
    /// The teardown of each of its deckies.
    #[schema(value_type = Vec<String>)]
    pub lifecycle_ids: Vec<OperationId>,
}

/// A host that was ordered to leave the fleet.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DepartureView {
    #[schema(value_type = String, format = "uuid")]
    pub host_uuid: HostId,
    #[schema(value_type = String)]
    pub host_name: HostName,
    /// `decommissioning`; `forgotten`: it is not believed any more and has not said that it is wiped; `decommissioned`.
    pub status: String,
    #[schema(value_type = String)]
    pub nonce: Nonce,
    #[schema(value_type = String, format = "date-time")]
    pub ordered_at: Timestamp,
    #[schema(value_type = Option<String>, format = "date-time")]
    pub tombstone_at: Option<Timestamp>,
    /// What the host says that it removed, each as `kind name`.
    #[serde(default)]
    pub removed: Vec<String>,
    /// What it says that it could not remove.
    #[serde(default)]
    pub left: Vec<String>,
    /// The tombstone as it was signed: a DSSE envelope.
    #[schema(value_type = Option<Object>)]
    pub tombstone: Option<Value>,
    /// The key that it is signed with: the base64 of its SubjectPublicKeyInfo.
    pub host_key: Option<String>,
}

impl From<Departure> for DepartureView {
    fn from(departure: Departure) -> Self {
        let receipt = departure.tombstone.as_ref();
        let said: Option<Tombstone> =
            receipt.and_then(|receipt| serde_json::from_slice(&payload(&receipt.envelope)?).ok());
        let status = match (receipt, departure.forced) {
            (Some(_), _) => "decommissioned",
            (None, true) => "forgotten",
            (None, false) => "decommissioning",
        };
        let (removed, left) = said.map_or_else(Default::default, |said| (said.removed, said.left));
        Self {
            status: status.to_owned(),
            tombstone_at: receipt.map(|receipt| receipt.received_at),
            tombstone: receipt.and_then(|receipt| serde_json::from_str(&receipt.envelope).ok()),
            host_key: receipt.map(|receipt| receipt.key.clone()),
            removed,
            left,
            host_uuid: departure.host,
            host_name: departure.name,
            nonce: departure.nonce,
            ordered_at: departure.ordered_at,
        }
    }
}

/// It was verified when it came.
fn payload(envelope: &str) -> Option<Vec<u8>> {
    let envelope = decnet_pki::envelope::Envelope::parse(envelope.as_bytes(), decnet_wire::limits::TOMBSTONE);
    Some(envelope.ok()?.unverified_payload().to_vec())
}

impl From<Begun> for DecommissionView {
    fn from(begun: Begun) -> Self {
        Self {
            departure: begun.departure.into(),
            lifecycle_ids: begun.operations.into_iter().map(|(_, id)| id).collect(),
        }
    }
}
