//! Where the collector is.

use std::fmt;
use std::str::FromStr;

use http::Uri;

/// What is added to an endpoint's path for traces (OTLP 1, "OTLP/HTTP Request").
const TRACES: &str = "/v1/traces";

/// `http://host:port`, with or without a path before `/v1/traces`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Without brackets.
    host: String,
    port: u16,
    authority: String,
    /// That of the requests.
    path: String,
}

/// A text that is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not http://host:port, such as http://127.0.0.1:4318{why}")]
pub struct EndpointError {
    text: String,
    why: &'static str,
}

impl Endpoint {
    pub(crate) fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;
    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let error = |why| EndpointError {
            text: text.chars().take(80).collect(),
            why,
        };
        let uri: Uri = text.parse().map_err(|_| error(""))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(error("; for TLS, run a collector on this machine that sends on")),
            _ => return Err(error("")),
        }
        let authority = uri.authority().ok_or_else(|| error(""))?;
        let port = authority.port_u16().filter(|port| *port != 0);
        let port = port.ok_or_else(|| error("; the port is missing"))?;
        if authority.as_str().contains('@') || uri.query().is_some() || text.contains('#') {
            return Err(error("; there are no users, parameters or fragments in it"));
        }
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        Ok(Self {
            host: bare.unwrap_or(host).to_owned(),
            port,
            authority: authority.to_string(),
            path: format!("{}{TRACES}", uri.path().trim_end_matches('/')),
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_names_host_port_and_perhaps_a_path() {
        for (text, address, posts_to) in [
            (
                "http://127.0.0.1:4318",
                ("127.0.0.1", 4318),
                "http://127.0.0.1:4318/v1/traces",
            ),
            (
                "http://collector.example:80/",
                ("collector.example", 80),
                "http://collector.example:80/v1/traces",
            ),
            (
                "http://[::1]:4318/otlp/",
                ("::1", 4318),
                "http://[::1]:4318/otlp/v1/traces",
            ),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.address(), address);
            assert_eq!(endpoint.to_string(), posts_to);
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_reason() {
        for (text, says) in [
            ("", "is not http://host:port"),
            ("127.0.0.1:4318", "is not http://host:port"),
            ("ftp://a:1", "is not http://host:port"),
            (
                "https://collector.example:4318",
                "run a collector on this machine",
            ),
            ("http://collector.example", "the port is missing"),
            ("http://collector.example:0", "the port is missing"),
            ("http://me:word@collector.example:4318", "no users"),
            ("http://collector.example:4318/?a=b", "parameters"),
            ("http://collector.example:4318/#a", "fragments"),
            ("http://a b:4318", "is not http://host:port"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
