//! What a service runs, and when.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Condition, Dependency};
use crate::compose::read::{Node, Problems};
use crate::compose::{units, words};
use crate::step::{Healthcheck, RestartPolicy};

pub(super) fn command_line(node: Node<'_>, problems: &mut Problems) -> Option<Vec<String>> {
    if node.value.is_array() {
        node.texts(problems)
    } else {
        node.parsed(problems, words::split)
    }
}

pub(super) fn depends_on(node: Node<'_>, problems: &mut Problems) -> Option<BTreeMap<String, Dependency>> {
    let started = Dependency {
        condition: Condition::Started,
        restart: false,
        required: true,
    };
    if node.value.is_array() {
        return Some(
            node.texts(problems)?
                .into_iter()
                .map(|name| (name, started))
                .collect(),
        );
    }
    let mut all = BTreeMap::new();
    for (name, node) in node.entries(problems)? {
        let Some(mut map) = node.mapping(problems) else {
            continue;
        };
        let condition = map.parsed("condition", problems, |text| match text {
            "service_started" => Ok(Condition::Started),
            "service_healthy" => Ok(Condition::Healthy),
            "service_completed_successfully" => Ok(Condition::Completed),
            _ => Err("must be service_started, service_healthy or service_completed_successfully"),
        });
        let dependency = Dependency {
            condition: condition.unwrap_or(Condition::Started),
            restart: map.flag("restart", problems).unwrap_or(false),
            required: map.flag("required", problems).unwrap_or(true),
        };
        map.finish(problems);
        all.insert(name, dependency);
    }
    Some(all)
}

/// Compose Specification, "restart".
pub(super) fn restart(text: &str) -> Result<RestartPolicy, &'static str> {
    const RULE: &str = "must be no, always, unless-stopped, on-failure or on-failure:N";
    match text.split_once(':') {
        None => match text {
            "no" => Ok(RestartPolicy::No),
            "always" => Ok(RestartPolicy::Always),
            "unless-stopped" => Ok(RestartPolicy::UnlessStopped),
            "on-failure" => Ok(RestartPolicy::OnFailure { retries: 0 }),
            _ => Err(RULE),
        },
        Some(("on-failure", retries)) => retries
            .parse()
            .map(|retries| RestartPolicy::OnFailure { retries })
            .map_err(|_| RULE),
        Some(_) => Err(RULE),
    }
}

/// Compose Specification, "healthcheck": a test in one text is a shell's line.
pub(super) fn healthcheck(node: Node<'_>, problems: &mut Problems) -> Option<Healthcheck> {
    const RULE: &str = "a list starts with NONE, CMD or CMD-SHELL";
    let mut map = node.mapping(problems)?;
    let mut test = None;
    if let Some(node) = map.take("test") {
        let path = node.path.clone();
        test = match node.value {
            Value::String(_) => node.text(problems).map(|line| vec!["CMD-SHELL".to_owned(), line]),
            _ => node.texts(problems),
        };
        if let Some(words) = &test
            && !matches!(
                words.first().map(String::as_str),
                None | Some("NONE" | "CMD" | "CMD-SHELL")
            )
        {
            problems.add(&path, RULE);
        }
    }
    let disabled = map.flag("disable", problems).unwrap_or_default();
    let check = Healthcheck {
        test: if disabled {
            Some(vec!["NONE".to_owned()])
        } else {
            test
        },
        interval_ms: map.parsed("interval", problems, units::duration_ms),
        timeout_ms: map.parsed("timeout", problems, units::duration_ms),
        start_period_ms: map.parsed("start_period", problems, units::duration_ms),
        start_interval_ms: map.parsed("start_interval", problems, units::duration_ms),
        retries: map.number("retries", problems),
    };
    map.finish(problems);
    Some(check)
}

pub(super) fn absolute(text: &str) -> Result<String, &'static str> {
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err("must be an absolute path")
    }
}

/// RFC 1123 §2.1, and 63 bytes at most, as Linux has it (`HOST_NAME_MAX` is 64 with its NUL). An underscore is no
/// letter of a host name and common in Compose files.
pub(super) fn hostname(text: &str) -> Result<String, &'static str> {
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() <= 63 && text.split('.').all(label) {
        Ok(text.to_owned())
    } else {
        Err("must be a host name of at most 63 letters, digits, '-' and '.'")
    }
}

pub(super) fn stop_signal(text: &str) -> Result<String, &'static str> {
    let known = text.len() <= 16 && !text.is_empty();
    if known
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-'))
    {
        Ok(text.to_owned())
    } else {
        Err("must be a signal such as SIGTERM")
    }
}
