//! Whether an operation has ended by itself, and why. A pure function of what is known.

use std::time::Duration;

use decnet_wire::bundle::OperationKind;
use decnet_wire::limits;

use crate::control::liveness::SILENCE;
use crate::records::{Cause, End, Host, HostStatus, Row, RowStatus};

/// How long an operation may take until it has failed, whatever comes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    pub deploy: Duration,
    pub mutate: Duration,
    pub teardown: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let usual = Duration::from_secs(15 * 60);
        Self {
            deploy: usual,
            mutate: usual,
            teardown: usual,
        }
    }
}

impl Deadlines {
    const fn of(&self, kind: OperationKind) -> Duration {
        match kind {
            OperationKind::Deploy => self.deploy,
            OperationKind::Mutate => self.mutate,
            OperationKind::Teardown => self.teardown,
        }
    }
}

/// What is known of an open row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) row: &'a Row,
    /// How long it has been open, as far as this master runs.
    pub(super) open_for: Duration,
    /// The name of the host that is to let go of the decky first.
    pub(super) waits_for: Option<&'a str>,
    pub(super) host: Option<&'a Host>,
    pub(super) status: Option<&'a HostStatus>,
    /// How long the host has been silent; none: since this master began.
    pub(super) silent_for: Option<Duration>,
}

/// How an open row ends now, if it does.
pub(super) fn verdict(facts: &Facts<'_>, deadlines: &Deadlines) -> Option<End> {
    let row = facts.row;
    let Some(host) = facts.host else {
        let why = "its host is not known any more";
        return Some(End::Failed(Cause::HostGone, why.to_owned()));
    };
    if host.revoked {
        let why = format!("the host {} was revoked", host.name);
        return Some(End::Failed(Cause::HostGone, why));
    }
    if let Some((cause, why)) = refused(row, host, facts.status, true) {
        return Some(End::Failed(cause, why));
    }
    let deadline = deadlines.of(row.operation);
    if facts.open_for <= deadline {
        return None;
    }
    if as_asked(facts) {
        return Some(End::Succeeded);
    }
    let (cause, why) = overdue(facts, host);
    let after = whole(deadline);
    Some(End::Failed(cause, format!("{why}; given up after {after}")))
}

/// Whether the host refused what carries the row. `content`: for what no later look at the same bundle changes.
fn refused(row: &Row, host: &Host, status: Option<&HostStatus>, content: bool) -> Option<(Cause, String)> {
    let status = status?;
    let refusal = status.refusal.as_ref()?;
    if content {
        // Another generation was refused, or a bundle that carried the row was taken before.
        let carried = row.generation?;
        let taken = status
            .accepted
            .as_ref()
            .is_some_and(|accepted| accepted.generation >= carried);
        if taken || status.refused.is_none_or(|refused| refused < carried) {
            return None;
        }
    }
    let code = refusal.split(':').next().unwrap_or_default();
    let lasts = matches!(code, "policy" | "document" | "schema" | "too-large" | "malformed");
    if content && !lasts {
        return None;
    }
    let cause = if code.starts_with("policy") {
        Cause::RefusedByPolicy
    } else {
        Cause::Refused
    };
    Some((
        cause,
        format!("the host {} refused its bundle: {refusal}", host.name),
    ))
}

/// Whether the host says that the decky is as the row asks, though it did not say how the operation ended: an older
/// copy of the store knows no more of what was said before.
fn as_asked(facts: &Facts<'_>) -> bool {
    let (Some(status), Some(carried)) = (facts.status, facts.row.generation) else {
        return false;
    };
    let taken = status
        .accepted
        .as_ref()
        .is_some_and(|accepted| accepted.generation >= carried);
    facts.waits_for.is_none()
        && facts.silent_for.is_some_and(|silent| silent <= SILENCE)
        && taken
        && status.converged
        && status.engine.is_some()
        // A list that is full may not name it.
        && status.pending.len() < limits::PENDING
        && status.pending(&facts.row.decky).is_none()
}

fn overdue(facts: &Facts<'_>, host: &Host) -> (Cause, String) {
    let name = &host.name;
    if let Some(other) = facts.waits_for {
        let why = format!("the host {other} has not said that it let go of it");
        return (Cause::WaitingForOtherHost, why);
    }
    let heard = facts
        .status
        .and_then(|status| Some((status, status.last_heartbeat?)));
    let Some((status, last)) = heard else {
        let why = format!("the host {name} was never heard of");
        return (Cause::HostUnreachable, why);
    };
    if facts.silent_for.is_none_or(|silent| silent > SILENCE) {
        let why = format!("the host {name} was not heard of since {last}");
        return (Cause::HostUnreachable, why);
    }
    if !status.converged
        && let Some(refused) = refused(facts.row, host, Some(status), false)
    {
        return refused;
    }
    if status.engine.is_none() {
        let why = format!("the Docker Engine of the host {name} does not answer");
        return (Cause::EngineDown, why);
    }
    let pending = status.pending(&facts.row.decky);
    if let Some(pending) = pending.filter(|pending| pending.quarantined) {
        let why = format!("the host {name} gave it up: {}", pending.reason);
        return (Cause::Quarantined, why);
    }
    let began_anew = status.began_anew.is_some_and(|at| at >= facts.row.updated_at);
    if began_anew && facts.row.status == RowStatus::Running {
        let why =
            format!("the agent of the host {name}, or its engine, began anew and has not ended it since");
        return (Cause::AgentRestarted, why);
    }
    let reason = pending.map(|pending| &pending.reason).or(status.reason.as_ref());
    let why = match reason {
        Some(reason) => format!("the host {name} is not done: {reason}"),
        None => format!("the host {name} did not say that it is done; its last heartbeat was at {last}"),
    };
    (Cause::Deadline, why)
}

fn whole(deadline: Duration) -> String {
    match deadline.as_secs() {
        60 => "a minute".to_owned(),
        seconds if seconds % 60 == 0 => format!("{} minutes", seconds / 60),
        seconds => format!("{seconds} seconds"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Who;
    use decnet_wire::ids::{Digest, HostId, OperationId, Timestamp};
    use decnet_wire::report::{Accepted, PendingStack};
    use time::macros::datetime;
    use uuid::Uuid;

    fn at(minute: i64) -> Timestamp {
        Timestamp::new(datetime!(2026-01-01 00:00 UTC) + time::Duration::minutes(minute))
    }

    fn host() -> Host {
        let key = Digest::from_sha256([1; 32]);
        let json = serde_json::json!({
            "id": Uuid::from_u128(1), "name": "east", "embedded": false, "key": key, "certificate": null,
            "created_at": at(0), "enrolled_at": at(0), "revoked": false, "ipvlan": false, "interface": null,
            "lan": null, "generation": 7, "notes": null,
        });
        serde_json::from_value(json).unwrap()
    }

    fn accepted(generation: u64) -> Option<Accepted> {
        Some(Accepted {
            epoch: 1,
            generation,
            digest: Digest::from_sha256([2; 32]),
        })
    }

    fn pending(quarantined: bool) -> PendingStack {
        PendingStack {
            stack: "decnet-web".parse().unwrap(),
            decky: "web".parse().unwrap(),
            reason: "no image".to_owned(),
            tries: 3,
            next_try_at: None,
            quarantined,
        }
    }

    /// A host that took generation 7, which carries the row, and is at work.
    fn busy() -> HostStatus {
        HostStatus {
            last_heartbeat: Some(at(14)),
            engine: Some("20.10".to_owned()),
            accepted: accepted(7),
            ..HostStatus::unheard(HostId::new(Uuid::from_u128(1)))
        }
    }

    struct Case {
        about: &'static str,
        minutes: u64,
        running: bool,
        waits_for: Option<&'static str>,
        host: Option<Host>,
        status: Option<HostStatus>,
        silent_s: Option<u64>,
        expected: Option<Result<(), Cause>>,
    }

    fn case(about: &'static str, status: HostStatus, expected: Option<Result<(), Cause>>) -> Case {
        Case {
            about,
            minutes: 16,
            running: true,
            waits_for: None,
            host: Some(host()),
            status: Some(status),
            silent_s: Some(20),
            expected,
        }
    }

    fn refusing(code: &str, generation: Option<u64>) -> HostStatus {
        HostStatus {
            refusal: Some(format!("{code}: no")),
            refused: generation,
            accepted: accepted(6),
            ..busy()
        }
    }

    fn cases() -> Vec<Case> {
        let early = |case| Case { minutes: 1, ..case };
        let failed = |cause| Some(Err(cause));
        vec![
            early(case("it has time", busy(), None)),
            case("it took too long", busy(), failed(Cause::Deadline)),
            Case {
                host: None,
                ..early(case("no such host", busy(), failed(Cause::HostGone)))
            },
            Case {
                host: Some(Host {
                    revoked: true,
                    ..host()
                }),
                ..early(case("revoked", busy(), failed(Cause::HostGone)))
            },
            early(case(
                "policy",
                refusing("policy", Some(7)),
                failed(Cause::RefusedByPolicy),
            )),
            early(case(
                "a newer generation, which carries it as well",
                refusing("document", Some(8)),
                failed(Cause::Refused),
            )),
            early(case("an older generation", refusing("policy", Some(6)), None)),
            early(case("no generation named", refusing("policy", None), None)),
            early(case("a refusal that may pass", refusing("early", Some(7)), None)),
            early(case(
                "it was taken before",
                HostStatus {
                    accepted: accepted(7),
                    ..refusing("policy", Some(8))
                },
                None,
            )),
            case(
                "a refusal that did not pass",
                refusing("expired", Some(7)),
                failed(Cause::Refused),
            ),
            case(
                "no policy",
                refusing("policy-missing", Some(7)),
                failed(Cause::RefusedByPolicy),
            ),
            Case {
                waits_for: Some("west"),
                ..case("moves", busy(), failed(Cause::WaitingForOtherHost))
            },
            Case {
                status: None,
                silent_s: None,
                ..case("never heard of", busy(), failed(Cause::HostUnreachable))
            },
            Case {
                silent_s: None,
                ..case(
                    "not since the master began",
                    busy(),
                    failed(Cause::HostUnreachable),
                )
            },
            Case {
                silent_s: Some(600),
                ..case("silent", busy(), failed(Cause::HostUnreachable))
            },
            case(
                "no engine",
                HostStatus {
                    engine: None,
                    began_anew: Some(at(10)),
                    ..busy()
                },
                failed(Cause::EngineDown),
            ),
            case(
                "given up",
                HostStatus {
                    pending: vec![pending(true)],
                    converged: true,
                    ..busy()
                },
                failed(Cause::Quarantined),
            ),
            case(
                "began anew",
                HostStatus {
                    began_anew: Some(at(10)),
                    ..busy()
                },
                failed(Cause::AgentRestarted),
            ),
            case(
                "began anew before it ran",
                HostStatus {
                    began_anew: Some(at(1)),
                    ..busy()
                },
                failed(Cause::Deadline),
            ),
            Case {
                running: false,
                ..case(
                    "began anew before it began",
                    HostStatus {
                        began_anew: Some(at(10)),
                        ..busy()
                    },
                    failed(Cause::Deadline),
                )
            },
            case(
                "at work",
                HostStatus {
                    pending: vec![pending(false)],
                    ..busy()
                },
                failed(Cause::Deadline),
            ),
            case(
                "as asked",
                HostStatus {
                    converged: true,
                    ..busy()
                },
                Some(Ok(())),
            ),
            case(
                "as asked, of a generation before",
                HostStatus {
                    converged: true,
                    accepted: accepted(6),
                    ..busy()
                },
                failed(Cause::Deadline),
            ),
        ]
    }

    #[test]
    fn every_end_has_its_cause() {
        for Case {
            about,
            minutes,
            running,
            waits_for,
            host,
            status,
            silent_s,
            expected,
        } in cases()
        {
            let id = OperationId::new(Uuid::from_u128(9));
            let of = HostId::new(Uuid::from_u128(1));
            let mut row = Row::begin(
                id,
                OperationKind::Deploy,
                "web".parse().unwrap(),
                of,
                &Who::Master {},
                at(0),
            );
            row.generation = Some(7);
            if running {
                row.run(&Who::Master {}, at(2));
            }
            let facts = Facts {
                row: &row,
                open_for: Duration::from_secs(minutes * 60),
                waits_for,
                host: host.as_ref(),
                status: status.as_ref(),
                silent_for: silent_s.map(Duration::from_secs),
            };
            let end = verdict(&facts, &Deadlines::default());
            let found = end.as_ref().map(|end| match end {
                End::Failed(cause, why) => {
                    assert!(!why.is_empty());
                    Err(*cause)
                }
                _ => Ok(()),
            });
            assert_eq!(found, expected, "{about}: {end:?}");
        }
    }

    #[test]
    fn each_kind_has_its_own_deadline() {
        let deadlines = Deadlines {
            mutate: Duration::from_secs(60),
            ..Deadlines::default()
        };
        for (kind, ends) in [
            (OperationKind::Deploy, false),
            (OperationKind::Mutate, true),
            (OperationKind::Teardown, false),
        ] {
            let id = OperationId::new(Uuid::from_u128(9));
            let of = HostId::new(Uuid::from_u128(1));
            let row = Row::begin(id, kind, "web".parse().unwrap(), of, &Who::Master {}, at(0));
            let (host, status) = (host(), busy());
            let facts = Facts {
                row: &row,
                open_for: Duration::from_secs(61),
                waits_for: None,
                host: Some(&host),
                status: Some(&status),
                silent_for: Some(Duration::ZERO),
            };
            assert_eq!(verdict(&facts, &deadlines).is_some(), ends, "{kind:?}");
        }
    }
}
