//! What the agent is told at start: flags, environment and `/etc/decnet/decnet.ini`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use decnet_trace::{Endpoint, EndpointError};

pub mod edit;
mod ini;

/// Where the agent keeps its identity and its ledger, unless told otherwise.
pub const STATE_DIR: &str = "/var/lib/decnet/agent";
/// The engine's socket, unless told otherwise.
pub const DOCKER_SOCKET: &str = "/var/run/docker.sock";
/// The settings file that packages install. A missing one is fine.
pub const CONFIG_FILE: &str = "/etc/decnet/decnet.ini";

/// How often everything on the engine is looked at, unless told otherwise.
const RELIST: Duration = Duration::from_secs(60);
/// What that may be set to, in seconds.
const RELIST_RANGE: std::ops::RangeInclusive<u64> = 1..=86_400;

/// Everything that an agent must be told. There is no global state: one process may run several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Folder of the identity, the ledger, the blobs and the control socket. Made with mode 0700.
    pub state_dir: PathBuf,
    /// The Docker Engine's Unix socket.
    pub docker_socket: PathBuf,
    /// Where the master's agent API is, in place of what enrolment said.
    pub master: Option<HostPort>,
    /// Where the master's enrolment listener is, in place of what the token said.
    pub enrolment: Option<HostPort>,
    /// Whether this host's LAN wants ipvlan; only `doctor` looks at it. The master decides per bundle.
    pub ipvlan: Option<bool>,
    /// Whether releases that the operators have signed may replace this host's package.
    pub updater: bool,
    /// How long an event of the engine's that was lost goes unnoticed: the longest time between two looks at all that it
    /// has.
    pub relist: Duration,
    /// The OpenTelemetry collector that gets a trace of every operation that the master traces; none gets none.
    pub otlp_endpoint: Option<Endpoint>,
}

impl Config {
    /// The defaults around one state folder.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            docker_socket: PathBuf::from(DOCKER_SOCKET),
            master: None,
            enrolment: None,
            ipvlan: None,
            updater: false,
            relist: RELIST,
            otlp_endpoint: None,
        }
    }

    /// Adds what the `[agent]` section of a settings file says. A file that does not exist says nothing.
    ///
    /// # Errors
    /// When the file cannot be read, or a line of its `[agent]` section is not understood.
    pub fn with_file(mut self, path: &Path) -> Result<Self, ConfigError> {
        let Some(settings) = ini::read(path)? else {
            return Ok(self);
        };
        for entry in settings.section("agent") {
            let invalid = |why: String| ConfigError::Setting {
                path: path.to_owned(),
                line: entry.line,
                key: entry.key.clone(),
                why,
            };
            match entry.key.as_str() {
                "master" => {
                    self.master = Some(
                        entry
                            .value
                            .parse()
                            .map_err(|error: HostPortError| invalid(error.to_string()))?,
                    );
                }
                "ipvlan" => self.ipvlan = Some(truth(&entry.value).map_err(invalid)?),
                "updater" => self.updater = truth(&entry.value).map_err(invalid)?,
                "relist" => {
                    let seconds = entry.value.parse().ok();
                    self.relist = seconds
                        .filter(|seconds| RELIST_RANGE.contains(seconds))
                        .map(Duration::from_secs)
                        .ok_or_else(|| {
                            let (least, most) = (RELIST_RANGE.start(), RELIST_RANGE.end());
                            invalid(format!(
                                "{:?} is no number of seconds from {least} to {most}",
                                entry.value
                            ))
                        })?;
                }
                "otlp_endpoint" => {
                    let endpoint = entry.value.parse();
                    self.otlp_endpoint =
                        Some(endpoint.map_err(|error: EndpointError| invalid(error.to_string()))?);
                }
                _ => {
                    return Err(invalid(
                        "there is no such setting; known are: master, ipvlan, updater, relist, otlp_endpoint"
                            .to_owned(),
                    ));
                }
            }
        }
        Ok(self)
    }

    /// Folder of the updater, which only it writes into: beside the agent's own.
    pub(crate) fn updater_dir(&self) -> PathBuf {
        self.state_dir.with_file_name("updater")
    }

    pub(crate) fn ledger_path(&self) -> PathBuf {
        self.state_dir.join("ledger.redb")
    }

    pub(crate) fn blobs_dir(&self) -> PathBuf {
        self.state_dir.join("blobs")
    }

    pub(crate) fn socket_path(&self) -> PathBuf {
        self.state_dir.join("agent.sock")
    }
}

fn truth(value: &str) -> Result<bool, String> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(format!("{other:?} is neither true nor false")),
    }
}

/// A settings file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is longer than {most} bytes")]
    TooLarge { path: PathBuf, most: usize },
    #[error("{path}, line {line}: {why}")]
    Syntax {
        path: PathBuf,
        line: usize,
        why: &'static str,
    },
    #[error("{path}, line {line}: [agent] {key}: {why}")]
    Setting {
        path: PathBuf,
        line: usize,
        key: String,
        why: String,
    },
}

/// `host:port`, where the host is a DNS name, an IPv4 address or an IPv6 address in brackets.
#[derive(Clone, PartialEq, Eq)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// The host without brackets: what a certificate names.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The same host at another port.
    pub(crate) fn with_port(&self, port: u16) -> Self {
        Self {
            host: self.host.clone(),
            port,
        }
    }
}

/// A text that is not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not host:port, such as master.example.org:8770 or [2001:db8::1]:8770")]
pub struct HostPortError(String);

impl FromStr for HostPort {
    type Err = HostPortError;
    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let error = || HostPortError(text.chars().take(80).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(error)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().map_err(|_| error())?.to_string(),
            None if is_host_name(host) => host.to_owned(),
            None => return Err(error()),
        };
        Ok(Self { host, port })
    }
}

fn is_host_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_text(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("decnet.ini");
        std::fs::write(&path, text).unwrap();
        Config::new("/nowhere").with_file(&path)
    }

    #[test]
    fn a_missing_file_says_nothing() {
        let config = Config::new("/nowhere")
            .with_file(Path::new("/nowhere/decnet.ini"))
            .unwrap();
        assert_eq!(config, Config::new("/nowhere"));
    }

    #[test]
    fn the_agent_section_is_read_and_other_sections_are_not_ours() {
        let config =
            from_text("; note\n[master]\nwhatever = 1\n\n[agent]\nmaster = m.example:8770\nipvlan=true\n")
                .unwrap();
        assert_eq!(config.master.unwrap().to_string(), "m.example:8770");
        assert_eq!(config.ipvlan, Some(true));
        assert_eq!(config.relist, RELIST);
        assert!(
            !config.updater,
            "a host does not update itself unless it is told to"
        );
        assert!(from_text("[agent]\nupdater = true\n").unwrap().updater);
        let config = from_text("[agent]\nrelist = 300\n").unwrap();
        assert_eq!(config.relist, Duration::from_secs(300));
        assert_eq!(config.otlp_endpoint, None);
        let config = from_text("[agent]\notlp_endpoint = http://127.0.0.1:4318\n").unwrap();
        assert_eq!(config.otlp_endpoint, "http://127.0.0.1:4318".parse().ok());
    }

    #[test]
    fn a_setting_that_is_not_understood_is_named_with_its_line() {
        for (text, says) in [
            (
                "[agent]\nmaster = nowhere\n",
                "line 2: [agent] master: \"nowhere\" is not host:port",
            ),
            (
                "[agent]\nipvlan = yes\n",
                "line 2: [agent] ipvlan: \"yes\" is neither true nor false",
            ),
            (
                "[agent]\nrelist = 0\n",
                "line 2: [agent] relist: \"0\" is no number",
            ),
            ("[agent]\nrelist = 1m\n", "from 1 to 86400"),
            (
                "[agent]\notlp_endpoint = collector:4318\n",
                "line 2: [agent] otlp_endpoint: \"collector:4318\" is not http://host:port",
            ),
            (
                "[agent]\n\nmaser = a:1\n",
                "line 3: [agent] maser: there is no such setting",
            ),
            ("[agent\n", "line 1: a section's name"),
            ("[agent]\nmaster\n", "line 2: expected"),
            ("[agent]\nipvlan=true\nipvlan=false\n", "line 3: the same setting"),
        ] {
            let error = from_text(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn host_and_port_read_back() {
        for good in ["a:1", "10.0.0.1:8770", "[::1]:8771", "master.example.org:65535"] {
            assert_eq!(good.parse::<HostPort>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:65536",
            "::1:80",
            "http://a:1",
            "a b:1",
            "[a]:1",
        ] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
    }
}
