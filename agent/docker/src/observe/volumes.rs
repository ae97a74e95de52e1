//! The engine's named volumes.

use bollard::query_parameters::ListVolumesOptions;
use decnet_plan::labels;
use decnet_wire::ids::HostId;
use decnet_wire::observed::ObservedVolume;

use crate::engine::LOOK;
use crate::{Engine, EngineError};

impl Engine {
    /// Volumes with a name that somebody chose; the engine names the others with 64 hexadecimal digits.
    pub(super) async fn volumes(&self, host: HostId) -> Result<Vec<ObservedVolume>, EngineError> {
        let what = || "list volumes".to_owned();
        let call = self.docker.list_volumes(None::<ListVolumesOptions>);
        let list = self.call(LOOK, what, call).await?;
        let anonymous = |name: &str| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        let host = host.to_string();
        let mut volumes: Vec<_> = list
            .volumes
            .unwrap_or_default()
            .into_iter()
            .filter(|volume| !anonymous(&volume.name))
            .map(|mut volume| {
                let ours = volume.labels.get(labels::HOST) == Some(&host);
                let hash = volume.labels.remove(labels::HASH).filter(|_| ours);
                ObservedVolume {
                    name: volume.name,
                    hash,
                }
            })
            .collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(volumes)
    }
}
