//! Volumes.

use bollard::models::VolumeCreateRequest;
use bollard::query_parameters::RemoveVolumeOptions;
use decnet_plan::labels;
use decnet_plan::step::VolumeSpec;

use super::{absent_is_fine, why_not_ours};
use crate::engine::{CHANGE, LOOK};
use crate::error::is_absent;
use crate::{Engine, EngineError};

impl Engine {
    pub(super) async fn create_volume(&self, spec: &VolumeSpec) -> Result<(), EngineError> {
        let what = || format!("create volume {}", spec.name);
        // A creation under a name that is taken succeeds and changes nothing, so it is looked up first.
        if let Some(found) = self.volume_labels(&spec.name).await? {
            return match why_not_ours(&spec.labels, |label| found.get(label).map(String::as_str)) {
                None => Ok(()),
                Some(why) => Err(foreign(what(), &spec.name, why)),
            };
        }
        let request = VolumeCreateRequest {
            name: Some(spec.name.clone()),
            driver: spec.driver.clone(),
            driver_opts: (!spec.driver_opts.is_empty())
                .then(|| spec.driver_opts.clone().into_iter().collect()),
            labels: Some(spec.labels.clone().into_iter().collect()),
            cluster_volume_spec: None,
        };
        self.call(CHANGE, what, self.docker.create_volume(request))
            .await
            .map(drop)
    }

    /// Without force: the engine refuses while a container has it.
    pub(super) async fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        let what = || format!("remove volume {name}");
        let Some(found) = self.volume_labels(name).await? else {
            return Ok(());
        };
        if !found.contains_key(labels::HOST) {
            return Err(foreign(what(), name, "carries no host's label"));
        }
        let call = self.docker.remove_volume(name, None::<RemoveVolumeOptions>);
        absent_is_fine(self.call(CHANGE, what, call).await)
    }

    /// None where there is no such volume.
    async fn volume_labels(
        &self,
        name: &str,
    ) -> Result<Option<std::collections::HashMap<String, String>>, EngineError> {
        let what = || format!("inspect volume {name}");
        match self.call(LOOK, what, self.docker.inspect_volume(name)).await {
            Ok(volume) => Ok(Some(volume.labels)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn foreign(what: String, name: &str, why: &'static str) -> EngineError {
    EngineError::Foreign {
        what,
        object: format!("volume {name}"),
        id: name.to_owned(),
        why,
    }
}
