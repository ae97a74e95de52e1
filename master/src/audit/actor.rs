//! Who did it.

use std::fmt;
use std::net::IpAddr;

use decnet_wire::ids::{HostId, HostName};
use decnet_wire::trace::Traceparent;
use serde::{Deserialize, Serialize};

use crate::records::Role;

/// Who asks for a change, and from where. Every method that changes something takes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    who: Who,
    from: Option<IpAddr>,
    /// The span of the request.
    trace: Option<Traceparent>,
}

/// Who, as an entry has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Who {
    /// An operator, by the token that was shown.
    Token { name: String, role: Role },
    /// A process on the master's machine: the socket, or `decnet init`.
    Local { name: String, uid: u32 },
    /// A host, by its key.
    Host { name: HostName, id: HostId },
    /// The master itself, by its timers.
    Master {},
    /// Somebody who has not shown who it is.
    Stranger {},
}

impl Actor {
    /// An operator with a token.
    #[must_use]
    pub fn token(name: &str, role: Role, from: Option<IpAddr>) -> Self {
        let name = name.to_owned();
        Self {
            who: Who::Token { name, role },
            from,
            trace: None,
        }
    }

    /// A process of this user on the master's machine.
    #[must_use]
    pub fn local(uid: u32) -> Self {
        let name = match uid {
            0 => "root".to_owned(),
            uid => format!("uid {uid}"),
        };
        Self {
            who: Who::Local { name, uid },
            from: None,
            trace: None,
        }
    }

    /// A host that has proved to be this one.
    #[must_use]
    pub const fn host(id: HostId, name: HostName, from: Option<IpAddr>) -> Self {
        Self {
            who: Who::Host { name, id },
            from,
            trace: None,
        }
    }

    /// The master itself.
    #[must_use]
    pub const fn master() -> Self {
        Self {
            who: Who::Master {},
            from: None,
            trace: None,
        }
    }

    /// Somebody on the network, before anything is known.
    #[must_use]
    pub const fn stranger(from: Option<IpAddr>) -> Self {
        Self {
            who: Who::Stranger {},
            from,
            trace: None,
        }
    }

    /// The same caller, once it has proved to be this host.
    #[must_use]
    pub const fn proved(&self, id: HostId, name: HostName) -> Self {
        Self::host(id, name, self.from)
    }

    /// The same caller, whose request belongs to a trace.
    #[must_use]
    pub fn traced(self, request: Traceparent) -> Self {
        Self {
            trace: Some(request),
            ..self
        }
    }

    /// The span of the request that it asks by, if that belongs to a trace.
    #[must_use]
    pub const fn trace(&self) -> Option<Traceparent> {
        self.trace
    }

    #[must_use]
    pub const fn who(&self) -> &Who {
        &self.who
    }

    #[must_use]
    pub const fn from(&self) -> Option<IpAddr> {
        self.from
    }
}

impl Who {
    /// What people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Token { name, .. } | Self::Local { name, .. } => name,
            Self::Host { name, .. } => name.as_str(),
            Self::Master {} => "master",
            Self::Stranger {} => "stranger",
        }
    }

    /// Whether people would mean this one by that word: its name, its id or its kind.
    #[must_use]
    pub fn is_called(&self, word: &str) -> bool {
        let kind = match self {
            Self::Token { .. } => "token",
            Self::Local { .. } => "local",
            Self::Host { id, .. } if id.to_string() == word => return true,
            Self::Host { .. } => "host",
            Self::Master {} => "master",
            Self::Stranger {} => "stranger",
        };
        self.name() == word || kind == word
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token { name, role } => write!(f, "{name} ({})", role.as_str()),
            Self::Local { name, .. } => f.write_str(name),
            Self::Host { name, .. } => write!(f, "host {name}"),
            Self::Master {} => f.write_str("master"),
            Self::Stranger {} => f.write_str("stranger"),
        }
    }
}
