//! The master.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::net::TcpStream;

use super::Finding;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, HostPort};
use crate::error::error_chain;
use crate::identity::Identity;
use crate::link::{self, Link, LinkError};

const CHECK: &str = "master";
const UNREACHED: &str = "check the address, the network and the master; nothing has to reach this host";
/// A clock that is further off than this makes bundles look expired before their time.
const CLOCK_OFF: Duration = Duration::from_secs(30);
/// A certificate that ends sooner should have been renewed.
const CERTIFICATE_SOON: time::Duration = time::Duration::days(7);
const ANSWER: Duration = Duration::from_secs(10);

pub(super) fn certificate(identity: &Identity, now: OffsetDateTime) -> Finding {
    const CHECK: &str = "certificate";
    let ends = identity.leaf.not_after();
    let says = format!("host {} ({}), until {ends}", identity.name, identity.host);
    if ends <= now {
        Finding::fail(CHECK, says, "it has expired: enrol again with --force")
    } else if identity.leaf.not_before() > now {
        Finding::fail(CHECK, says, "it is not valid yet: set this host's clock")
    } else if ends - now < CERTIFICATE_SOON {
        Finding::warn(CHECK, says, "it ends soon: enrol again with --force")
    } else {
        Finding::ok(CHECK, says)
    }
}

/// Whether a host without a certificate gets through to where it will enrol.
pub(super) async fn of_the_stranger(to: Option<&HostPort>) -> Finding {
    let Some(to) = to else {
        return Finding::ok(
            CHECK,
            "not tried: say where its enrolment listener is with `--master HOST:PORT`",
        );
    };
    let connected = tokio::time::timeout(ANSWER, TcpStream::connect((to.host(), to.port()))).await;
    match connected {
        Ok(Ok(_)) => Finding::ok(CHECK, format!("{to} takes connections")),
        Ok(Err(error)) => Finding::fail(CHECK, format!("cannot connect to {to}: {error}"), UNREACHED),
        Err(_) => Finding::fail(
            CHECK,
            format!("{to} does not answer within {} s", ANSWER.as_secs()),
            UNREACHED,
        ),
    }
}

/// Whether the master answers this host, and whether the clocks agree.
pub(super) async fn of_the_enrolled(config: &Config, identity: &Identity) -> Vec<Finding> {
    let to = config.master.as_ref().unwrap_or(&identity.agent_api);
    let (answer, ours) = match ask(to, identity).await {
        Ok(answer) => answer,
        Err(error) => {
            return vec![Finding::fail(CHECK, error, UNREACHED)];
        }
    };
    let mut findings = vec![match answer.status() {
        StatusCode::OK | StatusCode::NO_CONTENT => Finding::ok(CHECK, format!("{to} answers this host")),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Finding::fail(
            CHECK,
            format!("{to} does not let this host in ({})", answer.status()),
            "the host was removed at the master; enrol it again",
        ),
        status => Finding::warn(
            CHECK,
            format!("{to} answers {status}"),
            "look at the master's log",
        ),
    }];
    let theirs = answer
        .headers()
        .get(header::DATE)
        .and_then(|value| value.to_str().ok())
        .and_then(parse_http_date);
    findings.push(match theirs {
        None => Finding::warn(
            "clock",
            "the master's answer tells no time",
            "compare the clocks by hand",
        ),
        Some(theirs) => {
            let off = (ours - theirs).unsigned_abs();
            let says = format!("{} s away from the master's", off.as_secs());
            if off > CLOCK_OFF {
                let advice = "let both follow a time server: bundles and certificates expire by the clock";
                Finding::fail("clock", says, advice)
            } else {
                Finding::ok("clock", says)
            }
        }
    });
    findings
}

async fn ask(
    to: &HostPort,
    identity: &Identity,
) -> Result<(http::Response<hyper::body::Incoming>, OffsetDateTime), String> {
    let tls = identity.client_config().map_err(|error| error_chain(&error))?;
    // A generation that is never reached: nothing newer, no wait.
    let request = Request::builder()
        .uri(format!("/agent/v1/bundle?after={}&wait=0", i64::MAX))
        .body(Bytes::new())
        .map_err(|error| error_chain(&LinkError::Request(error)))?;
    let mut link = Link::new(to.clone(), link::fixed(tls)).map_err(|error| error_chain(&error))?;
    let answer = link
        .send(&request, ANSWER)
        .await
        .map_err(|error| error_chain(&error))?;
    Ok((answer, SystemClock.now().get()))
}

/// The one form that servers send today (RFC 9110 section 5.6.7, IMF-fixdate).
fn parse_http_date(text: &str) -> Option<OffsetDateTime> {
    let form = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    time::PrimitiveDateTime::parse(text, form)
        .ok()
        .map(time::PrimitiveDateTime::assume_utc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_http_date_of_the_specification_is_read() {
        let date = parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(date, time::macros::datetime!(1994-11-06 08:49:37 UTC));
        assert!(parse_http_date("Sunday, 06-Nov-94 08:49:37 GMT").is_none());
    }
}
