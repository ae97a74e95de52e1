//! OpenMetrics 1.0 read by the letter of its text format; whatever departs from it is a panic.

use std::collections::{BTreeMap, BTreeSet};

/// Label names with their values, in order.
type Labels = BTreeMap<String, String>;

#[derive(Debug, Default)]
pub(super) struct Exposition {
    families: BTreeMap<String, Family>,
    samples: BTreeMap<(String, Labels), f64>,
}

#[derive(Debug, Default)]
struct Family {
    kind: Option<String>,
    help: Option<String>,
    unit: Option<String>,
    samples: usize,
}

impl Exposition {
    pub(super) fn read(text: &str) -> Self {
        let mut read = Self::default();
        let mut current: Option<String> = None;
        let lines = text.strip_suffix("# EOF\n").expect("the end is marked");
        assert!(lines.is_empty() || lines.ends_with('\n'));
        for line in lines.lines() {
            assert!(!line.is_empty(), "an empty line");
            if let Some(rest) = line.strip_prefix("# ") {
                let (what, rest) = rest.split_once(' ').expect("what it is about");
                let (name, said) = rest.split_once(' ').unwrap_or((rest, ""));
                assert!(is_name(name), "{line}");
                if current.as_deref() != Some(name) {
                    assert!(
                        !read.families.contains_key(name),
                        "{name} is told of in two places"
                    );
                    current = Some(name.to_owned());
                }
                let family = read.families.entry(name.to_owned()).or_default();
                assert_eq!(family.samples, 0, "{line} comes after samples");
                let place = match what {
                    "HELP" => &mut family.help,
                    "TYPE" => &mut family.kind,
                    "UNIT" => &mut family.unit,
                    _ => panic!("{line}"),
                };
                assert_eq!(place.replace(said.to_owned()), None, "{line} comes twice");
                continue;
            }
            let name = current
                .as_deref()
                .unwrap_or_else(|| panic!("{line} is of no family"));
            read.sample(name, line);
        }
        read.check();
        read
    }

    fn sample(&mut self, family: &str, line: &str) {
        let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("{line}"));
        let name = &line[..end];
        assert!(is_name(name), "{line}");
        let (labels, value) = match line[end..].strip_prefix('{') {
            Some(rest) => labels(rest),
            None => (Labels::new(), &line[end..]),
        };
        let value = value.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        let known = self.families.get_mut(family).unwrap();
        known.samples += 1;
        let suffix = name
            .strip_prefix(family)
            .unwrap_or_else(|| panic!("{line} is not of {family}"));
        let kind = known
            .kind
            .as_deref()
            .unwrap_or_else(|| panic!("{family} has no type"));
        let allowed: &[&str] = match kind {
            "counter" => &["_total"],
            "gauge" => &[""],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => panic!("{family} is a {kind}"),
        };
        assert!(allowed.contains(&suffix), "{line} of a {kind}");
        assert_eq!(suffix == "_bucket", labels.contains_key("le"), "{line}");
        assert!(kind == "gauge" || value >= 0.0, "{line}");
        let before = self.samples.insert((name.to_owned(), labels), value);
        assert_eq!(before, None, "{line} comes twice");
    }

    fn check(&self) {
        for (name, family) in &self.families {
            assert!(family.help.as_ref().is_some_and(|help| help.len() > 10), "{name}");
            if let Some(unit) = &family.unit {
                assert!(name.ends_with(&format!("_{unit}")), "{name} in {unit}");
            }
            if family.kind.as_deref() == Some("histogram") {
                self.check_histogram(name);
            }
        }
    }

    fn check_histogram(&self, name: &str) {
        let mut rows: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
        let bucket = format!("{name}_bucket");
        for ((sample, labels), value) in &self.samples {
            if *sample == bucket {
                let mut labels = labels.clone();
                let le = labels.remove("le").unwrap();
                let le = if le == "+Inf" {
                    f64::INFINITY
                } else {
                    le.parse().unwrap()
                };
                rows.entry(labels).or_default().push((le, *value));
            }
        }
        let of =
            |suffix: &str, labels: &Labels| self.samples.get(&(format!("{name}{suffix}"), labels.clone()));
        for (labels, mut buckets) in rows {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(
                buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1),
                "{name} {buckets:?}"
            );
            let (last, all) = *buckets.last().unwrap();
            assert_eq!(last, f64::INFINITY, "{name}");
            assert_eq!(Some(&all), of("_count", &labels), "{name}");
            assert!(of("_sum", &labels).is_some(), "{name}");
        }
    }

    pub(super) fn kind(&self, family: &str) -> Option<&str> {
        self.families.get(family)?.kind.as_deref()
    }

    /// A sample's value; 0 for one that is not there yet, of a family that is.
    pub(super) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let known = self
            .families
            .keys()
            .any(|family| name.starts_with(family.as_str()));
        assert!(known, "{name} is of no family");
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let key = (name.to_owned(), labels.iter().map(own).collect());
        self.samples.get(&key).copied().unwrap_or(0.0)
    }
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> (Labels, &str) {
    let mut labels = Labels::new();
    let mut names = BTreeSet::new();
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return (labels, rest);
        }
        let (name, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{rest}"));
        assert!(is_name(name) && !name.contains(':'), "{name}");
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next() {
                Some((at, '"')) => break at + 1,
                Some((_, '\\')) => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, plain @ ('\\' | '"'))) => value.push(plain),
                    other => panic!("{other:?} after a backslash"),
                },
                Some((_, plain)) => value.push(plain),
                None => panic!("{rest} does not end"),
            }
        };
        assert!(names.insert(name.to_owned()), "{name} comes twice");
        labels.insert(name.to_owned(), value);
        rest = &after[end..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => assert!(rest.starts_with('}'), "{rest}"),
        }
    }
}

fn is_name(name: &str) -> bool {
    let mut letters = name.bytes();
    letters
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && letters.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
}

/// What a broken page looks like, so that the reader is known to see it.
#[test]
fn departures_from_the_format_are_seen() {
    let family = "# HELP a what it counts\n# TYPE a counter\n";
    let histogram = "# HELP h what it counts\n# TYPE h histogram\nh_sum 1\nh_count 2\n";
    Exposition::read(&format!("{family}a_total 1\na_total{{x=\"\\\"\"}} 2\n# EOF\n"));
    Exposition::read(&format!(
        "{histogram}h_bucket{{le=\"1\"}} 1\nh_bucket{{le=\"+Inf\"}} 2\n# EOF\n"
    ));
    for bad in [
        format!("{family}a_total 1\n"),
        format!("{family}a 1\n# EOF\n"),
        format!("{family}a_total 1\na_total 1\n# EOF\n"),
        format!("{family}a_total -1\n# EOF\n"),
        format!("{family}a_total{{x=\"}} 1\n# EOF\n"),
        format!("{family}a_total x\n# EOF\n"),
        format!("{family}b_total 1\n# EOF\n"),
        format!("{family}a_total 1\n{family}# EOF\n"),
        "# TYPE a counter\na_total 1\n# EOF\n".to_owned(),
        "# HELP a_s what it counts\n# TYPE a_s gauge\n# UNIT a_s seconds\na_s 1\n# EOF\n".to_owned(),
        format!("{histogram}h_bucket{{le=\"1\"}} 3\nh_bucket{{le=\"+Inf\"}} 2\n# EOF\n"),
        format!("{histogram}h_bucket{{le=\"1\"}} 1\n# EOF\n"),
    ] {
        assert!(
            std::panic::catch_unwind(|| Exposition::read(&bad)).is_err(),
            "{bad}"
        );
    }
}
