//! Steps in words.

use crate::step::Step;

/// One line for people: `create container decnet-web-ssh-1`. The form is no interface.
#[must_use]
pub fn describe(step: &Step) -> String {
    match step {
        Step::LoadImage { reference, .. } => format!("load image {reference}"),
        Step::PullImage { reference } => format!("pull image {reference}"),
        Step::CreateNetwork { network } => {
            let driver = network.driver.as_str();
            match &network.parent {
                Some(parent) => {
                    format!(
                        "create {driver} network {} ({} on {parent})",
                        network.name, network.subnet
                    )
                }
                None => format!("create {driver} network {} ({})", network.name, network.subnet),
            }
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
        Step::CreateContainer { container } => format!("create container {}", container.name),
        Step::StartContainer { name, .. } => format!("start container {name}"),
        Step::UnpauseContainer { name, .. } => format!("unpause container {name}"),
        Step::StopContainer { name, .. } => format!("stop container {name}"),
        Step::RemoveContainer { name, .. } => format!("remove container {name}"),
    }
}
