//! The way back to a master that this host and its certificate have grown too old for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use decnet_pki::csr;
use decnet_pki::tls;
use decnet_wire::enrol::{LeafResponse, RejoinRequest, SCHEMA};
use decnet_wire::limits;
use http::StatusCode;
use tokio::time::Instant;

use super::check;
use crate::clock::SharedClock;
use crate::config::HostPort;
use crate::identity::IdentityStore;
use crate::link::{self, Link, LinkError, Wait};
use crate::trust::{self, ROOTS_AT_ONCE};

/// How long nothing is asked for after a certificate that is of another time. The next one would be like it until a clock
/// is set; and then the certificate that is there is good again.
const NOT_AGAIN: Duration = Duration::from_secs(300);
/// Under what trust roots are found, by version.
const TRUST_ROOT: &str = "/enroll/v1/trust-root/";

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What came of looking for a way back.
#[derive(Debug)]
pub(crate) enum Recovered {
    /// There was nothing to be done.
    Nothing,
    /// Something was changed, so that it is worth another try at once.
    Changed,
    /// The master answered with the signed order to leave.
    Ordered(Bytes),
}

/// What is done when the agent API cannot be reached with the present identity.
pub(crate) struct Recovery {
    pub(crate) identity: Arc<IdentityStore>,
    pub(crate) clock: SharedClock,
    /// Where the enrolment listener is; none for an identity of an older version.
    pub(crate) enrol_at: Option<HostPort>,
    /// When a certificate was given that is of another time than this host's.
    pub(crate) mistimed: Mutex<Option<Instant>>,
}

impl Recovery {
    /// Looks at what a request to the agent API failed with.
    pub(crate) async fn after(&self, failed: &LinkError) -> Result<Recovered, Error> {
        let identity = self.identity.current();
        if failed.is_unknown_server() {
            let changed = self.follow_roots().await?;
            return Ok(if changed {
                Recovered::Changed
            } else {
                Recovered::Nothing
            });
        }
        let ended =
            identity.leaf.not_after() <= self.clock.now().get() || !identity.is_of_a_known_authority();
        if ended || failed.is_alert() {
            match self.rejoin().await {
                Ok(recovered) => return Ok(recovered),
                // It may be the other key that the master knows.
                Err(_) if identity.on_trial => {}
                Err(error) => return Err(error),
            }
        } else if !(failed.is_refusal() && identity.on_trial) {
            return Ok(Recovered::Nothing);
        }
        tracing::warn!(
            "the master does not take the newest key of this host: going on with the one of before"
        );
        self.identity.fall_back()?;
        Ok(Recovered::Changed)
    }

    /// Follows trust roots over a connection that proves nothing: they prove themselves.
    async fn follow_roots(&self) -> Result<bool, Error> {
        let mut link = Link::new(self.at()?, link::fixed(tls::unverified_client_config()?))?;
        let mut changed = false;
        for _ in 0..ROOTS_AT_ONCE {
            let known = self.identity.current();
            let Some(next) = trust::fetch_next(&mut link, TRUST_ROOT, &known.root, Wait::USUAL).await? else {
                break;
            };
            self.identity.follow(&next)?;
            tracing::info!(
                version = next.version(),
                "trust root accepted from the enrolment listener"
            );
            changed = true;
        }
        Ok(changed)
    }

    /// Gets another certificate for the present key.
    async fn rejoin(&self) -> Result<Recovered, Error> {
        let identity = self.identity.current();
        let mistimed = *self.mistimed.lock().unwrap_or_else(PoisonError::into_inner);
        if mistimed.is_some_and(|at| at.elapsed() < NOT_AGAIN) {
            return Err("the certificate that the master gave last is of another time".into());
        }
        let request = RejoinRequest {
            schema: SCHEMA,
            host: identity.host,
            csr: csr::create(&identity.key)?,
        };
        let request = link::post("/enroll/v1/rejoin", serde_json::to_vec(&request)?)?;
        let config = tls::client_config_without_certificate(identity.root.authorities())?;
        let mut link = Link::new(self.at()?, link::fixed(config))?;
        let answers = [StatusCode::OK, StatusCode::GONE];
        let (status, body) = link
            .exchange(&request, &answers, limits::ENROLMENT, Wait::USUAL)
            .await?;
        if status == StatusCode::GONE {
            return Ok(Recovered::Ordered(body));
        }
        let response: LeafResponse = serde_json::from_slice(&body)?;
        let now = self.clock.now();
        let leaf = check(
            &response.certificate,
            &identity.key,
            identity.host,
            &identity.root,
            now,
        )
        .inspect_err(|error| {
            if link::is_about_time(error) {
                *self.mistimed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
        })?;
        self.identity.recertify(&leaf)?;
        tracing::info!("this host is back with a new certificate for its known key");
        Ok(Recovered::Changed)
    }

    fn at(&self) -> Result<HostPort, Error> {
        self.enrol_at
            .clone()
            .ok_or_else(|| "it is not known where the enrolment listener is; enrol again with --force".into())
    }
}
