//! Steps in words.

use crate::step::Step;

/// One line for people: `create container decnet-web-ssh-1`. The form is no interface.
#[must_use]
pub fn describe(step: &Step) -> String {
    match step {
        Step::LoadImage { reference, .. } => format!("load image {reference}"),
        Step::PullImage { reference, .. } => format!("pull image {reference}"),
        Step::CreateNetwork { network } => {
            let subnets: Vec<String> = network.subnets().map(|subnet| subnet.to_string()).collect();
            let more = match (network.parent(), subnets.is_empty()) {
                (Some(parent), true) => format!(" (on {parent})"),
                (Some(parent), false) => format!(" ({} on {parent})", subnets.join(", ")),
                (None, true) => String::new(),
                (None, false) => format!(" ({})", subnets.join(", ")),
            };
            format!("create {} network {}{more}", network.driver, network.name)
        }
        Step::RemoveNetwork { name, .. } => format!("remove network {name}"),
        Step::CreateHostLink { link } => format!(
            "create {} link {} ({} on {}) for this host itself",
            link.driver.as_str(),
            link.name,
            link.address,
            link.parent
        ),
        Step::RemoveHostLink { name, .. } => format!("remove link {name} of this host itself"),
        Step::ProbeAddress { parent, address, .. } => {
            format!("ask on {parent} whether somebody has {address}")
        }
        Step::LockNamespace { name, .. } => format!("close the network namespace of container {name}"),
        Step::BuildImage { build } => format!("build image {}", build.tags.join(", ")),
        Step::RemoveImage { id, names } => {
            format!("remove image {}", names.first().unwrap_or(id))
        }
        Step::CreateVolume { volume } => format!("create volume {}", volume.name),
        Step::RemoveVolume { name } => format!("remove volume {name}"),
        Step::CreateContainer {
            container, staged, ..
        } => match staged {
            Some(staged) => format!("create container {} as {staged}", container.name),
            None => format!("create container {}", container.name),
        },
        Step::WaitHealthy { name, .. } => format!("wait until container {name} is healthy"),
        Step::WaitCompleted { name, .. } => format!("wait until container {name} has completed"),
        Step::RenameContainer { from, to, .. } => format!("rename container {from} to {to}"),
        Step::StartContainer { name, .. } => format!("start container {name}"),
        Step::UnpauseContainer { name, .. } => format!("unpause container {name}"),
        Step::StopContainer { name, .. } => format!("stop container {name}"),
        Step::RemoveContainer { name, .. } => format!("remove container {name}"),
    }
}
