//! The engine's events, as a hint to look again.

use decnet_wire::ids::HostId;
use futures_util::{Stream, stream};

use crate::{Engine, EngineError};

impl Engine {
    /// One item for each event on this host's containers and networks. The stream ends with an error when the
    /// connection is lost; events in between are lost as well, so observe after every reconnect.
    pub fn events(&self, _host: HostId) -> impl Stream<Item = Result<(), EngineError>> + Send + use<> {
        stream::empty()
    }
}
