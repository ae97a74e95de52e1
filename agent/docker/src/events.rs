//! The engine's events, as a hint to look again.

use std::collections::HashMap;

use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::EventsOptions;
use decnet_plan::labels;
use decnet_wire::ids::HostId;
use futures_util::{Stream, StreamExt, future};

use crate::{Engine, EngineError};

/// What changes an observation. A health check's `exec_*` events, one every few seconds, are none of them.
const ACTIONS: [&str; 10] = [
    "create",
    "start",
    "die",
    "destroy",
    "pause",
    "unpause",
    "rename",
    "update",
    "health_status",
    "disconnect",
];

impl Engine {
    /// One item for each event that may concern this host's containers or networks. The stream ends, with or without
    /// an error, when the connection is lost; events in between are lost as well, so observe after every reconnect.
    pub fn events(&self, host: HostId) -> impl Stream<Item = Result<(), EngineError>> + Send + use<> {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        let filters = HashMap::from([
            ("type".to_owned(), list(&["container", "network"])),
            ("event".to_owned(), list(&ACTIONS)),
        ]);
        let options = EventsOptions {
            filters: Some(filters),
            ..EventsOptions::default()
        };
        let host = host.to_string();
        self.docker.events(Some(options)).filter_map(move |event| {
            future::ready(match event {
                Ok(event) => concerns(&event, &host).then_some(Ok(())),
                Err(source) => Some(Err(EngineError::Call {
                    what: "follow the engine's events".to_owned(),
                    source,
                })),
            })
        })
    }
}

/// A container's event carries its labels. A network's does not, and is rare: every one counts.
fn concerns(event: &EventMessage, host: &str) -> bool {
    if event.typ != Some(EventMessageTypeEnum::CONTAINER) {
        return true;
    }
    let attributes = event.actor.as_ref().and_then(|actor| actor.attributes.as_ref());
    attributes
        .and_then(|attributes| attributes.get(labels::HOST))
        .is_some_and(|value| value == host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::EventActor;

    fn event(typ: EventMessageTypeEnum, host: &str) -> EventMessage {
        let attributes = HashMap::from([(labels::HOST.to_owned(), host.to_owned())]);
        let actor = EventActor {
            id: None,
            attributes: Some(attributes),
        };
        EventMessage {
            typ: Some(typ),
            actor: Some(actor),
            ..EventMessage::default()
        }
    }

    #[test]
    fn another_hosts_containers_wake_nobody_here() {
        assert!(concerns(&event(EventMessageTypeEnum::CONTAINER, "a"), "a"));
        assert!(!concerns(&event(EventMessageTypeEnum::CONTAINER, "b"), "a"));
        let bare = EventMessage {
            typ: Some(EventMessageTypeEnum::CONTAINER),
            ..EventMessage::default()
        };
        assert!(!concerns(&bare, "a"));
        assert!(concerns(&event(EventMessageTypeEnum::NETWORK, ""), "a"));
    }
}
