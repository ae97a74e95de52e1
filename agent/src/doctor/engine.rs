//! The Docker Engine.

use std::path::Path;

use decnet_docker::{Engine, EngineError, Facts};

use super::{Finding, host};
use crate::error::error_chain;

const CHECK: &str = "engine";

pub(super) async fn examine(socket: &Path) -> Vec<Finding> {
    match ask(socket).await {
        Ok(facts) => {
            let mut findings = vec![suits(&facts, socket)];
            findings.extend(limits(&facts));
            // A folder that is not seen from here is the business of another machine or namespace.
            let root = facts.root.as_deref().map(Path::new).filter(|root| root.exists());
            findings.extend(
                root.map(|root| host::space("images", root, "images and containers cannot be written")),
            );
            findings
        }
        Err(error) => {
            let advice =
                "install or start the Docker Engine, 20.10 or newer, and let this user reach its socket";
            vec![Finding::fail(CHECK, error_chain(&error), advice)]
        }
    }
}

async fn ask(socket: &Path) -> Result<Facts, EngineError> {
    Engine::connect(socket).await?.facts().await
}

fn suits(facts: &Facts, socket: &Path) -> Finding {
    let Facts { version, api, .. } = facts;
    let says = format!(
        "Docker Engine {version} (API {api}) answers on {}",
        socket.display()
    );
    if facts.is_too_old {
        Finding::fail(CHECK, says, "it is too old: install 20.10 (API 1.41) or newer")
    } else if facts.is_rootless {
        Finding::fail(
            CHECK,
            format!("{says}, and is rootless"),
            "use an engine that root runs: a rootless one cannot put containers on the LAN",
        )
    } else {
        Finding::ok(CHECK, says)
    }
}

/// What it would leave out without a word.
fn limits(facts: &Facts) -> Option<Finding> {
    let lacks: Vec<&str> = [
        (facts.limits_memory, "memory"),
        (facts.limits_processes, "processes"),
    ]
    .into_iter()
    .filter_map(|(kept, what)| (!kept).then_some(what))
    .collect();
    (!lacks.is_empty()).then(|| {
        Finding::warn(
            CHECK,
            format!("the engine does not limit a container's {}", lacks.join(" and ")),
            "see what it says about control groups at its start: `docker info` warns of them",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn facts() -> Facts {
        Facts {
            version: "20.10.24".to_owned(),
            api: "1.41".to_owned(),
            is_too_old: false,
            root: None,
            is_rootless: false,
            limits_memory: true,
            limits_processes: true,
        }
    }

    #[test]
    fn an_engine_that_is_too_old_or_rootless_does_not_do() {
        let socket = Path::new("/run/docker.sock");
        assert_eq!(suits(&facts(), socket).level, Level::Ok);
        let old = Facts {
            is_too_old: true,
            ..facts()
        };
        assert_eq!(suits(&old, socket).level, Level::Fail);
        let rootless = Facts {
            is_rootless: true,
            ..facts()
        };
        assert_eq!(suits(&rootless, socket).level, Level::Fail);
    }

    #[test]
    fn limits_that_are_not_kept_are_named() {
        assert_eq!(limits(&facts()), None);
        let none = Facts {
            limits_memory: false,
            limits_processes: false,
            ..facts()
        };
        let found = limits(&none).unwrap();
        assert!(found.says.ends_with("memory and processes"), "{found:?}");
    }
}
