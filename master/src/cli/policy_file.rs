//! The policy as an operator writes it: TOML, with comments and units for people.

use std::collections::BTreeSet;
use std::path::Path;

use decnet_plan::compose::bytes;
use decnet_plan::policy::Rule;
use decnet_wire::egress::Destination;
use decnet_wire::ids::Timestamp;
use decnet_wire::policy::{
    Capability, HostDevice, HostMount, Images, Networks, Resources, Rules, SecurityOption, SysctlPattern,
};
use serde::Deserialize;
use toml::de::{DeTable, DeValue};

/// How long a policy holds that does not say it.
const LIFETIME: time::Duration = time::Duration::days(365);
/// The longest that one may hold.
const LIFETIME_MAX_DAYS: u32 = 3650;

/// A file that reads.
#[derive(Debug)]
pub(super) struct PolicyFile {
    text: String,
    fields: Fields,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// By name or id.
    #[serde(default)]
    hosts: Option<Vec<String>>,
    #[serde(default)]
    expires: Option<Timestamp>,
    #[serde(default)]
    days: Option<u32>,
    #[serde(default)]
    capabilities: BTreeSet<Capability>,
    #[serde(default)]
    sysctls: Option<BTreeSet<SysctlPattern>>,
    #[serde(default)]
    security_options: BTreeSet<SecurityOption>,
    #[serde(default)]
    egress: BTreeSet<Destination>,
    #[serde(default)]
    images: Images,
    #[serde(default)]
    mounts: Vec<HostMount>,
    #[serde(default)]
    devices: Vec<HostDevice>,
    #[serde(default)]
    networks: Networks,
    #[serde(default)]
    resources: Ceilings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Ceilings {
    memory: Option<Size>,
    cpus: Option<Cores>,
    pids: Option<u64>,
    containers: Option<u64>,
    deckies: Option<u64>,
}

/// Bytes: a number, or a text such as `256m`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "Number")]
struct Size(u64);

/// Billionths of a core, written as a number of cores.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "Number")]
struct Cores(u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Whole(u64),
    Decimal(f64),
    Text(String),
}

impl TryFrom<Number> for Size {
    type Error = &'static str;
    fn try_from(number: Number) -> Result<Self, &'static str> {
        match number {
            Number::Whole(bytes) => Ok(Self(bytes)),
            Number::Text(text) => bytes(&text).map(Self),
            Number::Decimal(_) => Err("must be a size such as 134217728 or \"64m\""),
        }
    }
}

impl TryFrom<Number> for Cores {
    type Error = &'static str;
    fn try_from(number: Number) -> Result<Self, &'static str> {
        const RULE: &str = "must be a number of cores such as 0.5, 10000 at most";
        let cores = match number {
            // Far below what a float has no room for.
            #[allow(clippy::cast_precision_loss)]
            Number::Whole(cores) => cores as f64,
            Number::Decimal(cores) => cores,
            Number::Text(_) => return Err(RULE),
        };
        if !(0.0..=10_000.0).contains(&cores) {
            return Err(RULE);
        }
        // Within bounds, and never negative.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Ok(Self((cores * 1e9).round() as u64))
    }
}

impl PolicyFile {
    /// Reads the text. An error names the line.
    ///
    /// # Errors
    /// One line: where, what, why.
    pub(super) fn parse(path: &Path, text: String) -> Result<Self, String> {
        let path = path.display();
        let fields: Fields = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_at(&text, span.start));
            format!("{path}:{line}: {}", error.message().replace('\n', " "))
        })?;
        let file = Self { text, fields };
        let fields = &file.fields;
        let at = |key: &str| file.line(&[key]).map_or(1, |(line, _)| line);
        if fields.expires.is_some() && fields.days.is_some() {
            return Err(format!(
                "{path}:{}: expires and days say the same: keep one",
                at("days")
            ));
        }
        if fields
            .days
            .is_some_and(|days| days == 0 || days > LIFETIME_MAX_DAYS)
        {
            return Err(format!(
                "{path}:{}: days must be 1 to {LIFETIME_MAX_DAYS}",
                at("days")
            ));
        }
        if fields.hosts.as_ref().is_some_and(Vec::is_empty) {
            return Err(format!(
                "{path}:{}: hosts names none: leave it out for every host",
                at("hosts")
            ));
        }
        if let Err(error) = file.rules().check() {
            return Err(format!("{path}:{}: {error}", at("mounts")));
        }
        Ok(file)
    }

    /// The hosts that it names; none for every host.
    pub(super) fn hosts(&self) -> Option<&[String]> {
        self.fields.hosts.as_deref()
    }

    /// Until when it holds.
    pub(super) fn expires_at(&self, now: Timestamp) -> Timestamp {
        let lifetime = self
            .fields
            .days
            .map_or(LIFETIME, |days| time::Duration::days(days.into()));
        self.fields
            .expires
            .unwrap_or_else(|| Timestamp::new(now.get() + lifetime))
    }

    pub(super) fn rules(&self) -> Rules {
        let fields = &self.fields;
        let Ceilings {
            memory,
            cpus,
            pids,
            containers,
            deckies,
        } = fields.resources;
        Rules {
            images: fields.images.clone(),
            capabilities: fields.capabilities.clone(),
            sysctls: fields.sysctls.clone(),
            mounts: fields.mounts.clone(),
            devices: fields.devices.clone(),
            security_options: fields.security_options.clone(),
            networks: fields.networks.clone(),
            resources: Resources {
                memory: memory.map(|Size(bytes)| bytes),
                nano_cpus: cpus.map(|Cores(nano)| nano),
                pids,
                containers,
                deckies,
            },
            egress: fields.egress.clone(),
        }
    }

    /// The line of a rule's key, and its text; none when the file does not have it, so that nothing allows the thing.
    pub(super) fn line_of(&self, rule: Rule) -> Option<(usize, &str)> {
        let path: Vec<&str> = rule.as_str().split('.').collect();
        self.line(&path)
    }

    fn line(&self, path: &[&str]) -> Option<(usize, &str)> {
        let table = DeTable::parse(&self.text).ok()?;
        let at = find(table.get_ref(), path)?;
        let line = line_at(&self.text, at);
        Some((line, self.text.lines().nth(line - 1).unwrap_or_default().trim()))
    }
}

/// Where the last key of a path begins.
fn find(table: &DeTable<'_>, path: &[&str]) -> Option<usize> {
    let (first, rest) = path.split_first()?;
    let (key, value) = table.iter().find(|(key, _)| key.get_ref().as_ref() == *first)?;
    match (rest, value.get_ref()) {
        ([], _) => Some(key.span().start),
        (_, DeValue::Table(inner)) => find(inner, rest),
        _ => None,
    }
}

/// The number of the line that a byte is in, from 1.
fn line_at(text: &str, at: usize) -> usize {
    let before = text.as_bytes().iter().take(at);
    1 + before.filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PolicyFile, String> {
        PolicyFile::parse(Path::new("policy.toml"), text.to_owned())
    }

    /// The example of the documentation is a policy, and has every key.
    #[test]
    fn the_documented_example_reads() {
        let page = include_str!("../../../docs/policy.md");
        let example = page
            .split("```toml\n")
            .nth(1)
            .unwrap()
            .split("```")
            .next()
            .unwrap();
        let file = parse(example).unwrap();
        let rules = file.rules();
        for rule in [
            Rule::ImageDigests,
            Rule::ImageRepositories,
            Rule::ImageBuilds,
            Rule::ImageArchives,
            Rule::Capabilities,
            Rule::Sysctls,
            Rule::Mounts,
            Rule::Devices,
            Rule::SecurityOptions,
            Rule::NetworkDrivers,
            Rule::NetworkParents,
            Rule::NetworkRanges,
            Rule::Memory,
            Rule::Cpus,
            Rule::Pids,
            Rule::Containers,
            Rule::Deckies,
            Rule::Egress,
        ] {
            assert!(
                file.line_of(rule).is_some(),
                "the example lacks {}",
                rule.as_str()
            );
            let key = rule.as_str();
            assert!(
                page.contains(&format!("`{key}`")),
                "the page does not explain {key}"
            );
        }
        assert_eq!(rules.resources.memory, Some(256 << 20));
        assert_eq!(rules.resources.nano_cpus, Some(500_000_000));
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        for (text, expected) in [
            (
                "capabilities = [\"CAP_NET_ADMIN\"]",
                "policy.toml:1: capability \"CAP_NET_ADMIN\" is not valid",
            ),
            (
                "\n\ncapabilites = []",
                "policy.toml:3: unknown field `capabilites`",
            ),
            ("[networks]\n\nranges = [\"192.0.2.0/33\"]", "policy.toml:3: "),
            (
                "days = 1\nexpires = \"2030-01-01T00:00:00Z\"",
                "policy.toml:1: expires and days",
            ),
            ("\nhosts = []", "policy.toml:2: hosts names none"),
            (
                "[[mounts]]\npath = \"/a\"\n[[mounts]]\npath = \"/a/b\"",
                "policy.toml:1: mounts: /a/b lies within /a",
            ),
            ("[resources]\nmemory = \"lots\"", "policy.toml:2: "),
            ("[resources]\ncpus = -1", "policy.toml:2: "),
            (
                "egress = [\"sctp/192.0.2.1:1\"]",
                "policy.toml:1: must be a destination",
            ),
            ("a = ", "policy.toml:1: "),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn the_line_of_a_rule_is_the_line_of_its_key() {
        let text = "# may be added\ncapabilities = [\n  \"NET_RAW\",\n]\n\n[[mounts]]\npath = \"/srv\"\n\n[networks]\n# not more\nranges = [\"192.0.2.0/24\"]\n";
        let file = parse(text).unwrap();
        assert_eq!(file.line_of(Rule::Capabilities), Some((2, "capabilities = [")));
        assert_eq!(
            file.line_of(Rule::NetworkRanges),
            Some((11, "ranges = [\"192.0.2.0/24\"]"))
        );
        assert_eq!(file.line_of(Rule::Mounts).map(|(line, _)| line), Some(6));
        assert_eq!(file.line_of(Rule::NetworkDrivers), None);
        assert_eq!(file.line_of(Rule::Always), None);
    }
}
