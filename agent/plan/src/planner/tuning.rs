//! What people may change of a container without making it anew (`docker update`), and what of it is not as desired.

use decnet_wire::observed::Tuning;

use crate::step::{ContainerSpec, RestartPolicy};

/// What the specification comes to.
pub(crate) fn of_spec(spec: &ContainerSpec) -> Tuning {
    let limits = &spec.limits;
    let signed = |value: Option<u64>| value.map_or(0, |value| i64::try_from(value).unwrap_or(i64::MAX));
    let (restart, retries) = match spec.restart {
        RestartPolicy::No => ("", 0),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
        RestartPolicy::OnFailure { retries } => ("on-failure", i64::from(retries)),
    };
    Tuning {
        memory: signed(spec.memory),
        memory_reservation: signed(limits.memory_reservation),
        memory_swap: limits.memory_swap.unwrap_or_default(),
        nano_cpus: spec.nano_cpus.unwrap_or_default(),
        cpu_shares: limits.cpu_shares.unwrap_or_default(),
        cpu_period: limits.cpu_period.unwrap_or_default(),
        cpu_quota: limits.cpu_quota.unwrap_or_default(),
        cpuset: limits.cpuset.clone().unwrap_or_default(),
        pids: spec.pids.unwrap_or_default(),
        blkio_weight: limits.blkio.weight.map_or(0, i64::from),
        restart: restart.to_owned(),
        retries,
    }
}

/// Whether somebody has changed what the specification says. A limit that the engine does not tell is no difference:
/// it leaves out, with a warning, what its kernel cannot do.
pub(super) fn differs(spec: &ContainerSpec, seen: &Tuning) -> bool {
    let wanted = of_spec(spec);
    let limits = [
        (wanted.memory, seen.memory),
        (wanted.memory_reservation, seen.memory_reservation),
        (wanted.nano_cpus, seen.nano_cpus),
        (wanted.cpu_shares, seen.cpu_shares),
        (wanted.cpu_period, seen.cpu_period),
        (wanted.cpu_quota, seen.cpu_quota),
        (wanted.pids, seen.pids),
        (wanted.blkio_weight, seen.blkio_weight),
        // Where nothing is said the engine makes one up from the limit of memory.
        (
            wanted.memory_swap,
            if wanted.memory_swap == 0 {
                0
            } else {
                seen.memory_swap
            },
        ),
    ];
    // Below 0 there is no limit, like with none.
    let changed = |(wanted, seen): (i64, i64)| seen != 0 && seen != wanted && (seen > 0 || wanted > 0);
    limits.into_iter().any(changed)
        || (!seen.cpuset.is_empty() && seen.cpuset != wanted.cpuset)
        || (&seen.restart, seen.retries) != (&wanted.restart, wanted.retries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ContainerSpec {
        ContainerSpec {
            memory: Some(64 << 20),
            pids: Some(32),
            restart: RestartPolicy::UnlessStopped,
            ..ContainerSpec::default()
        }
    }

    #[test]
    fn what_was_made_from_the_specification_does_not_differ_from_it() {
        let seen = of_spec(&spec());
        assert!(!differs(&spec(), &seen));
        // What the engine adds by itself, and what it leaves out.
        let made_up = Tuning {
            memory_swap: 128 << 20,
            ..seen.clone()
        };
        assert!(!differs(&spec(), &made_up));
        let left_out = Tuning {
            memory: 0,
            pids: 0,
            memory_swap: -1,
            ..seen
        };
        assert!(!differs(&spec(), &left_out));
    }

    #[test]
    fn every_change_by_hand_is_a_difference() {
        let changes: [fn(&mut Tuning); 8] = [
            |seen| seen.memory = 128 << 20,
            |seen| seen.memory = -1,
            |seen| seen.nano_cpus = 1,
            |seen| seen.pids = -1,
            |seen| seen.cpu_shares = 2,
            |seen| seen.cpuset = "0".to_owned(),
            |seen| seen.restart = "always".to_owned(),
            |seen| seen.restart.clear(),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut seen = of_spec(&spec());
            change(&mut seen);
            assert!(differs(&spec(), &seen), "change {number}");
        }
    }
}
