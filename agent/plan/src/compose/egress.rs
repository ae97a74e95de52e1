//! What a decky may call: the `egress` of a service's `x-decnet` extension.
//!
//! ```yaml
//! x-decnet:
//!   egress: ["udp/192.0.2.1:53", "tcp/203.0.113.0/24:443-445", "tcp/[2001:db8::1]:25", "icmp/192.0.2.1"]
//! ```

use std::collections::BTreeSet;

use decnet_wire::egress::Destination;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::read::{Node, Problems};

/// Raised when the meaning of the rules changes: namespaces that are closed by older ones are closed anew.
const VERSION: u32 = 1;

/// What the processes in a network namespace may call; they may always answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    pub allow: BTreeSet<Destination>,
}

impl Egress {
    /// Most destinations that one service may name.
    pub const MOST: usize = 64;

    /// A name for exactly these rules: 16 hexadecimal digits.
    #[must_use]
    pub fn rules(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{VERSION}\n"));
        for destination in &self.allow {
            hash.update(format!("{destination}\n"));
        }
        let mut name = hex::encode(hash.finalize());
        name.truncate(16);
        name
    }
}

/// Reads a service's `x-decnet`. Unlike extensions of others it is closed: a misspelt word would open nothing, and
/// nobody would know why.
pub(super) fn parse(node: Node<'_>, problems: &mut Problems) -> Option<Egress> {
    let mut map = node.mapping(problems)?;
    let mut allow = BTreeSet::new();
    if let Some(node) = map.take("egress") {
        let path = node.path.clone();
        for node in node.items(problems)? {
            allow.extend(node.parsed(problems, str::parse::<Destination>));
        }
        if allow.len() > Egress::MOST {
            problems.add(
                &path,
                format_args!("names more than {} destinations", Egress::MOST),
            );
        }
    }
    map.finish(problems);
    Some(Egress { allow })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_rules_follows_what_they_allow() {
        let allow = |texts: &[&str]| Egress {
            allow: texts.iter().map(|text| text.parse().unwrap()).collect(),
        };
        let one = allow(&["udp/192.0.2.1:53", "tcp/192.0.2.1:53"]);
        assert_eq!(
            one.rules(),
            allow(&["tcp/192.0.2.1:53", "udp/192.0.2.1:53"]).rules()
        );
        assert_ne!(one.rules(), Egress::default().rules());
        assert_eq!(one.rules().len(), 16);
    }
}
