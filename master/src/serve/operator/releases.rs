//! Releases of the agent, their packages, and how far one is rolled out.

use std::io;

use axum::Json;
use axum::extract::{Path, Request, State};
use decnet_wire::ids::Digest;
use decnet_wire::limits;
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use tokio::io::AsyncWriteExt as _;

use super::App;
use super::access::Admin;
use super::answer::{Problem, ask};
use super::body::Fields;
use super::views::{ErrorView, ReleaseView, ReleasesView, RolloutBody, RolloutHostView, RolloutView};
use crate::control::releases::{RolloutChange, RolloutStatus};
use crate::control::{Control, ControlError};
use crate::serve::blobs;
use crate::serve::listen::limits::BODY;
use crate::text::chain;

/// Under what packages are handed in: the only requests whose body is no JSON.
pub(super) const PACKAGES: &str = "/api/v1/swarm/packages/";

/// Show the releases, and how far the newest rollout is
#[utoipa::path(
    get, path = "/swarm/releases", tag = "swarm",
    responses((status = 200, description = "The releases, the newest first", body = ReleasesView))
)]
pub(super) async fn list(_: Admin, State(app): State<App>) -> Result<Json<ReleasesView>, Problem> {
    ask(&app, |control| view(control).map(Json)).await
}

/// Take a signed release
///
/// It is checked as an agent checks it. Its packages have to be here already. Nothing is installed by that.
#[utoipa::path(
    post, path = "/swarm/releases", tag = "swarm", request_body = Object,
    responses(
        (status = 200, description = "It can be rolled out", body = ReleasesView),
        (status = 422, description = "No host would believe it, or a package is missing", body = ErrorView),
    )
)]
pub(super) async fn take(
    Admin(by): Admin,
    State(app): State<App>,
    fields: Fields,
) -> Result<Json<ReleasesView>, Problem> {
    let envelope = fields.whole().to_string();
    ask(&app, move |control| {
        control.take_release(&by, envelope.as_bytes())?;
        view(control).map(Json)
    })
    .await
}

/// Change how far a release is rolled out
#[utoipa::path(
    put, path = "/swarm/rollout", tag = "swarm", request_body = RolloutBody,
    responses(
        (status = 200, description = "It counts from now on", body = ReleasesView),
        (status = 404, description = "No such release", body = ErrorView),
        (status = 409, description = "The rollout is not at a point where that could be", body = ErrorView),
        (status = 422, description = "A value outside its range, or no such host", body = ErrorView),
    )
)]
pub(super) async fn roll_out(
    Admin(by): Admin,
    State(app): State<App>,
    fields: Fields,
) -> Result<Json<ReleasesView>, Problem> {
    let body: RolloutBody = serde_json::from_value(fields.whole())
        .map_err(|error| Problem::invalid(format!("the body is not a rollout: {error}")))?;
    let change = match body {
        RolloutBody::Advance {
            sequence,
            per_mille,
            hosts,
        } => RolloutChange::Advance {
            sequence,
            per_mille,
            hosts: hosts.map(|hosts| hosts.into_iter().collect()),
        },
        RolloutBody::Pause {} => RolloutChange::Pause,
        RolloutBody::Resume {} => RolloutChange::Resume,
        RolloutBody::Abort {} => RolloutChange::Abort,
    };
    ask(&app, move |control| {
        control.roll_out(&by, &change)?;
        view(control).map(Json)
    })
    .await
}

/// Hand in a package of a release
///
/// The body is the file itself, `application/octet-stream`; the path names its SHA-256. A package alone is installed nowhere.
#[utoipa::path(
    put, path = "/swarm/packages/{digest}", tag = "swarm",
    params(("digest" = String, Path, description = "`sha256:` and 64 hexadecimal digits")),
    request_body(content = String, content_type = "application/octet-stream"),
    responses(
        (status = 204, description = "It is here"),
        (status = 413, description = "It is larger than a package may be", body = ErrorView),
        (status = 422, description = "The file has another digest", body = ErrorView),
    )
)]
pub(super) async fn put_package(
    _: Admin,
    State(app): State<App>,
    Path(digest): Path<String>,
    request: Request,
) -> Result<StatusCode, Problem> {
    let digest: Digest = digest
        .parse()
        .map_err(|_| Problem::invalid("the path does not end with the digest of a package, as sha256:…"))?;
    // One at a time: who hands in the same one twice would write over it.
    let _place = app.uploads.lock().await;
    let folder = app.control.blobs().to_owned();
    let partial = folder.join(format!("{}.upload", digest.hex()));
    let received = receive(request, &folder, &partial).await;
    let kept = match received {
        Ok(()) => {
            let (from, folder) = (partial.clone(), folder.clone());
            let put = tokio::task::spawn_blocking(move || blobs::put(&folder, &from, &digest)).await;
            match put {
                Ok(Ok(_)) => Ok(StatusCode::NO_CONTENT),
                Ok(Err(error @ blobs::PutError::Digest { .. })) => Err(Problem::invalid(chain(&error))),
                Ok(Err(error)) => Err(Problem::internal(&chain(&error))),
                Err(error) => Err(Problem::internal(&error.to_string())),
            }
        }
        Err(problem) => Err(problem),
    };
    // A rest takes room; the next try begins anew.
    let _ = tokio::fs::remove_file(&partial).await;
    kept
}

async fn receive(request: Request, folder: &std::path::Path, to: &std::path::Path) -> Result<(), Problem> {
    let failed = |error: io::Error| Problem::internal(&format!("a package cannot be kept: {error}"));
    decnet_pki::files::create_private_dir(folder).map_err(|error| Problem::internal(&chain(&error)))?;
    let mut file = tokio::fs::File::create(to).await.map_err(failed)?;
    let mut body = request.into_body();
    let mut size = 0_u64;
    loop {
        let frame = match tokio::time::timeout(BODY, body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => return Err(Problem::malformed("the package did not arrive whole")),
            Err(_) => {
                let detail = format!("the package stood still for {} s", BODY.as_secs());
                return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail));
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        size += data.len() as u64;
        if size > limits::PACKAGE {
            let detail = format!("the package is larger than {} bytes", limits::PACKAGE);
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
        }
        file.write_all(&data).await.map_err(failed)?;
    }
    file.sync_all().await.map_err(failed)
}

fn view(control: &Control) -> Result<ReleasesView, ControlError> {
    let releases = control.releases()?;
    Ok(ReleasesView {
        fleet: control.fleet_id(),
        newest: releases.keys().next_back().copied().unwrap_or(0),
        releases: releases
            .into_values()
            .rev()
            .map(|known| {
                let document = known.release.document();
                ReleaseView {
                    sequence: document.sequence,
                    version: document.version.clone(),
                    downgrade: document.downgrade,
                    issued_at: document.issued_at,
                    taken_at: known.taken_at,
                    proven: known.proven,
                    packages: document.packages.clone(),
                }
            })
            .collect(),
        rollout: control.rollout()?.map(rollout),
    })
}

fn rollout(status: RolloutStatus) -> RolloutView {
    let failures = status.failures();
    let RolloutStatus {
        record,
        release,
        hosts,
    } = status;
    RolloutView {
        sequence: record.sequence,
        version: release.document().version.clone(),
        per_mille: record.per_mille,
        state: record.state,
        reason: record.reason,
        every_host: record.hosts.is_none(),
        begun_at: record.begun_at,
        failures,
        hosts: hosts
            .into_iter()
            .map(|(name, progress)| RolloutHostView {
                name,
                state: progress.as_ref().map(|progress| progress.state),
                detail: progress.and_then(|progress| progress.detail),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use decnet_pki::digest::Sha256Digest;
    use hyper::Method;
    use hyper::header::CONTENT_TYPE;

    use crate::serve::operator::Peer;
    use crate::serve::operator::testing::Master;

    async fn put(master: &Master, digest: &str, bytes: &'static [u8]) -> u16 {
        let request = axum::extract::Request::builder()
            .method(Method::PUT)
            .uri(format!("/api/v1/swarm/packages/{digest}"))
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(Body::from(bytes));
        let answer = master.send(request.unwrap(), Peer::Unix { uid: 0 }).await;
        answer.status.as_u16()
    }

    #[tokio::test]
    async fn a_package_is_kept_that_has_its_digest_and_nothing_of_another() {
        let master = Master::new();
        let digest = Sha256Digest::of(b"a package").to_string();
        assert_eq!(put(&master, &digest, b"another package").await, 422);
        assert_eq!(put(&master, "sha256:x", b"a package").await, 422);
        let kept = || std::fs::read_dir(master.control.blobs()).unwrap().count();
        assert_eq!(kept(), 0, "something of it is left");
        for _ in 0..2 {
            assert_eq!(put(&master, &digest, b"a package").await, 204);
        }
        assert_eq!(kept(), 1);
    }
}
