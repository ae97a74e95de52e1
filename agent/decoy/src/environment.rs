//! Reads a service container's environment once, at start.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `DECNET_NODE` | the decky's name |
//! | `HOSTNAME` | the decky's host name |
//! | `DECNET_SEED` | 64 hexadecimal characters, secret, one a decky |
//! | `DECNET_OS_FAMILY`, `DECNET_DISTRO` | what the machine pretends to be |
//! | `DECNET_PERSONA` | JSON object of the service's persona keys; absent means none set |
//! | `DECNET_PORT` | port instead of the service's own; for tests |

use std::ffi::OsString;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::event::EventLog;
use crate::host::Host;
use crate::identity::Identity;
use crate::services::Service;

/// Everything a service is given.
#[derive(Debug, Clone)]
pub struct Context {
    /// The service's slug.
    pub slug: &'static str,
    /// The port to listen on.
    pub port: u16,
    /// The source of everything chosen.
    pub identity: Identity,
    /// The machine pretended.
    pub host: Host,
    /// Where events go.
    pub log: EventLog,
    persona: Map<String, Value>,
}

/// A variable that is missing or cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// A required variable is not set, or empty.
    #[error("{name} is not set; the agent sets it on every service container")]
    Missing {
        /// The variable.
        name: &'static str,
    },
    /// A variable has a value of the wrong form. The value is left out: it may be a secret.
    #[error("{name} is not {expected}")]
    Malformed {
        /// The variable.
        name: &'static str,
        /// What it should have been.
        expected: &'static str,
    },
    /// The persona is not one JSON object with the service's keys and types.
    #[error("DECNET_PERSONA does not fit the service {slug}")]
    Persona {
        /// The service.
        slug: &'static str,
        /// What does not fit.
        #[source]
        source: serde_json::Error,
    },
    /// A persona key has the right type but a value this service cannot show.
    #[error("DECNET_PERSONA: {key} {problem}")]
    PersonaValue {
        /// The persona key.
        key: &'static str,
        /// What is wrong with it, and what to do.
        problem: String,
    },
}

impl Context {
    /// Reads the process's own environment for `service`.
    ///
    /// # Errors
    ///
    /// When a variable is missing or malformed.
    pub fn from_process(service: &Service) -> Result<Self, EnvironmentError> {
        Self::from_lookup(service, |name| std::env::var_os(name))
    }

    /// As [`Context::from_process`], from any source of variables.
    ///
    /// # Errors
    ///
    /// When a variable is missing or malformed.
    pub fn from_lookup(
        service: &Service,
        lookup: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, EnvironmentError> {
        let text = |name: &'static str| match lookup(name).filter(|value| !value.is_empty()) {
            None => Ok(None),
            Some(value) => value
                .into_string()
                .map(Some)
                .map_err(|_| EnvironmentError::Malformed {
                    name,
                    expected: "UTF-8",
                }),
        };
        let required = |name| text(name)?.ok_or(EnvironmentError::Missing { name });

        let mut seed = [0; 32];
        hex::decode_to_slice(required("DECNET_SEED")?, &mut seed).map_err(|_| {
            EnvironmentError::Malformed {
                name: "DECNET_SEED",
                expected: "64 hexadecimal characters",
            }
        })?;
        let host = Host {
            node: required("DECNET_NODE")?,
            hostname: required("HOSTNAME")?,
            family: parse("DECNET_OS_FAMILY", &required("DECNET_OS_FAMILY")?)?,
            distro: parse("DECNET_DISTRO", &required("DECNET_DISTRO")?)?,
        };
        let mut persona: Map<String, Value> = match text("DECNET_PERSONA")? {
            None => Map::new(),
            Some(json) => serde_json::from_str(&json).map_err(|source| EnvironmentError::Persona {
                slug: service.slug,
                source,
            })?,
        };
        // The table is the whole truth of what a service reads.
        persona.retain(|key, _| service.persona.contains(&key.as_str()));
        let port = match text("DECNET_PORT")? {
            None => service.port,
            Some(number) => number.parse().map_err(|_| EnvironmentError::Malformed {
                name: "DECNET_PORT",
                expected: "a port number",
            })?,
        };
        let log = EventLog::to_stdout(service.slug, &host);
        Ok(Self {
            slug: service.slug,
            port,
            identity: Identity::from_seed(&seed),
            host,
            log,
            persona,
        })
    }

    /// The persona as the service's own type; keys it does not name are ignored.
    ///
    /// # Errors
    ///
    /// When a key has the wrong type.
    pub fn persona<T: DeserializeOwned>(&self) -> Result<T, EnvironmentError> {
        serde_json::from_value(Value::Object(self.persona.clone())).map_err(|source| {
            EnvironmentError::Persona {
                slug: self.slug,
                source,
            }
        })
    }
}

fn parse<T: std::str::FromStr<Err = &'static str>>(
    name: &'static str,
    text: &str,
) -> Result<T, EnvironmentError> {
    text.parse()
        .map_err(|expected| EnvironmentError::Malformed { name, expected })
}
