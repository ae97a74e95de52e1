//! The engine's events, as a hint to look again.

use std::collections::HashMap;

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures_util::{Stream, StreamExt};

use crate::{Engine, EngineError};

/// What changes an observation. A health check's `exec_*` events, one every few seconds, are none of them.
const ACTIONS: [&str; 18] = [
    "create",
    "start",
    "die",
    "destroy",
    "pause",
    "unpause",
    "rename",
    "update",
    "health_status",
    "connect",
    "disconnect",
    // Of images. `remove` is what some versions say for `destroy` of a network.
    "pull",
    "load",
    "import",
    "tag",
    "untag",
    "delete",
    "remove",
];

impl Engine {
    /// What happens to containers, networks, volumes and images. The stream ends, with or without an error, when the connection
    /// is lost; events in between are lost as well.
    pub(crate) fn events(&self) -> impl Stream<Item = Result<EventMessage, EngineError>> + Send + use<> {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        let filters = HashMap::from([
            (
                "type".to_owned(),
                list(&["container", "network", "volume", "image"]),
            ),
            ("event".to_owned(), list(&ACTIONS)),
        ]);
        let options = EventsOptions {
            filters: Some(filters),
            ..EventsOptions::default()
        };
        self.docker.events(Some(options)).map(|event| {
            event.map_err(|source| EngineError::Call {
                what: "follow the engine's events".to_owned(),
                source,
            })
        })
    }
}
