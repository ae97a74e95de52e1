//! The last form of every value of a merged document: numbers as numbers, sizes in bytes, durations and modes in one
//! notation, commands as lists. What stands in quotes or came from a variable is read as what the attribute needs.

use super::sink::Sink;
use super::tree::{Kind, Map, Trail, Tree};
use super::{command, quantity};

/// What an attribute's value is.
#[derive(Debug, Clone, Copy)]
enum Form {
    Bool,
    Int,
    Float,
    Text,
    /// Text; a number becomes one.
    Word,
    Bytes,
    Duration,
    /// How many devices; `all` becomes -1.
    Count,
    /// File permissions in octal, with a leading zero.
    Mode,
    Command,
    /// `healthcheck.test`: a text is for the container's shell.
    Test,
    Texts,
    /// A mapping to texts.
    Options,
    Ulimits,
    Map(&'static [(&'static str, Form)]),
    /// A mapping from names to mappings; what has nothing to say stays null.
    Named(&'static [(&'static str, Form)]),
    List(&'static [(&'static str, Form)]),
}

use Form::{
    Bool, Bytes, Command, Count, Duration, Float, Int, List, Mode, Named, Options, Test, Text, Texts,
    Ulimits, Word,
};

const FILE_REFERENCE: &[(&str, Form)] = &[
    ("source", Text),
    ("target", Text),
    ("uid", Word),
    ("gid", Word),
    ("mode", Mode),
];

const DEVICE_REQUEST: &[(&str, Form)] = &[
    ("capabilities", Texts),
    ("count", Count),
    ("device_ids", Texts),
    ("driver", Text),
    ("options", Options),
];

const RATE: &[(&str, Form)] = &[("path", Text), ("rate", Bytes)];

const BUILD: &[(&str, Form)] = &[
    ("context", Text),
    ("dockerfile", Text),
    ("dockerfile_inline", Text),
    ("network", Text),
    ("target", Text),
    ("no_cache", Bool),
    ("pull", Bool),
    ("shm_size", Bytes),
    ("ulimits", Ulimits),
];

const HEALTHCHECK: &[(&str, Form)] = &[
    ("test", Test),
    ("interval", Duration),
    ("timeout", Duration),
    ("start_period", Duration),
    ("start_interval", Duration),
    ("retries", Int),
    ("disable", Bool),
];

const MOUNT: &[(&str, Form)] = &[
    ("type", Text),
    ("source", Text),
    ("target", Text),
    ("read_only", Bool),
    ("consistency", Text),
    (
        "bind",
        Form::Map(&[
            ("propagation", Text),
            ("create_host_path", Bool),
            ("recursive", Text),
            ("selinux", Text),
        ]),
    ),
    (
        "volume",
        Form::Map(&[("labels", Options), ("nocopy", Bool), ("subpath", Text)]),
    ),
    ("image", Form::Map(&[("subpath", Text)])),
    ("tmpfs", Form::Map(&[("size", Bytes), ("mode", Int)])),
];

const DEPLOY: &[(&str, Form)] = &[
    ("mode", Text),
    ("replicas", Int),
    (
        "resources",
        Form::Map(&[
            (
                "limits",
                Form::Map(&[("cpus", Float), ("memory", Bytes), ("pids", Int)]),
            ),
            (
                "reservations",
                Form::Map(&[
                    ("cpus", Float),
                    ("memory", Bytes),
                    ("devices", List(DEVICE_REQUEST)),
                ]),
            ),
        ]),
    ),
    (
        "restart_policy",
        Form::Map(&[
            ("condition", Text),
            ("delay", Duration),
            ("max_attempts", Int),
            ("window", Duration),
        ]),
    ),
];

const SERVICE: &[(&str, Form)] = &[
    ("annotations", Options),
    ("attach", Bool),
    (
        "blkio_config",
        Form::Map(&[
            ("weight", Int),
            ("weight_device", List(&[("path", Text), ("weight", Int)])),
            ("device_read_bps", List(RATE)),
            ("device_read_iops", List(RATE)),
            ("device_write_bps", List(RATE)),
            ("device_write_iops", List(RATE)),
        ]),
    ),
    ("build", Form::Map(BUILD)),
    ("cgroup", Text),
    ("cgroup_parent", Text),
    ("command", Command),
    ("configs", List(FILE_REFERENCE)),
    ("container_name", Text),
    ("cpu_period", Int),
    ("cpu_quota", Int),
    ("cpu_rt_period", Int),
    ("cpu_rt_runtime", Int),
    ("cpu_shares", Int),
    ("cpus", Float),
    ("cpuset", Text),
    (
        "depends_on",
        Named(&[("condition", Text), ("restart", Bool), ("required", Bool)]),
    ),
    ("deploy", Form::Map(DEPLOY)),
    ("device_cgroup_rules", Texts),
    (
        "devices",
        List(&[("source", Text), ("target", Text), ("permissions", Text)]),
    ),
    ("domainname", Text),
    ("entrypoint", Command),
    (
        "env_file",
        List(&[("path", Text), ("required", Bool), ("format", Text)]),
    ),
    ("external_links", Texts),
    ("gpus", List(DEVICE_REQUEST)),
    ("healthcheck", Form::Map(HEALTHCHECK)),
    ("hostname", Text),
    ("image", Text),
    ("init", Bool),
    ("ipc", Text),
    ("links", Texts),
    ("logging", Form::Map(&[("driver", Text), ("options", Options)])),
    ("mac_address", Text),
    ("mem_limit", Bytes),
    ("mem_reservation", Bytes),
    ("mem_swappiness", Bytes),
    ("memswap_limit", Bytes),
    ("network_mode", Text),
    (
        "networks",
        Named(&[
            ("aliases", Texts),
            ("ipv4_address", Text),
            ("ipv6_address", Text),
            ("link_local_ips", Texts),
            ("mac_address", Text),
            ("driver_opts", Options),
            ("priority", Int),
            ("gw_priority", Int),
            ("interface_name", Text),
        ]),
    ),
    ("oom_kill_disable", Bool),
    ("oom_score_adj", Int),
    ("pid", Text),
    ("pids_limit", Int),
    ("platform", Text),
    (
        "ports",
        List(&[
            ("target", Int),
            ("published", Word),
            ("host_ip", Text),
            ("protocol", Text),
            ("mode", Text),
            ("name", Text),
            ("app_protocol", Text),
        ]),
    ),
    ("privileged", Bool),
    ("pull_policy", Text),
    ("read_only", Bool),
    ("restart", Text),
    ("runtime", Text),
    ("scale", Int),
    ("secrets", List(FILE_REFERENCE)),
    ("security_opt", Texts),
    ("shm_size", Bytes),
    ("stdin_open", Bool),
    ("stop_grace_period", Duration),
    ("stop_signal", Text),
    ("storage_opt", Options),
    ("tty", Bool),
    ("ulimits", Ulimits),
    ("user", Text),
    ("userns_mode", Text),
    ("uts", Text),
    ("volumes", List(MOUNT)),
    ("volumes_from", Texts),
    ("working_dir", Text),
];

const FILE_OBJECT: &[(&str, Form)] = &[
    ("name", Text),
    ("external", Bool),
    ("file", Text),
    ("environment", Text),
    ("content", Text),
];

const DOCUMENT: &[(&str, Form)] = &[
    ("services", Named(SERVICE)),
    (
        "networks",
        Named(&[
            ("name", Text),
            ("driver", Text),
            ("driver_opts", Options),
            ("external", Bool),
            ("internal", Bool),
            ("attachable", Bool),
            ("enable_ipv4", Bool),
            ("enable_ipv6", Bool),
            (
                "ipam",
                Form::Map(&[
                    ("driver", Text),
                    (
                        "config",
                        List(&[
                            ("subnet", Text),
                            ("ip_range", Text),
                            ("gateway", Text),
                            ("aux_addresses", Options),
                        ]),
                    ),
                    ("options", Options),
                ]),
            ),
        ]),
    ),
    (
        "volumes",
        Named(&[
            ("name", Text),
            ("driver", Text),
            ("driver_opts", Options),
            ("external", Bool),
        ]),
    ),
    ("configs", Named(FILE_OBJECT)),
    ("secrets", Named(FILE_OBJECT)),
];

/// A whole document, canonical and merged.
pub(super) fn document(tree: &mut Tree, sink: &mut Sink) {
    forms(tree, &Trail::Root, DOCUMENT, sink);
    for (_, service) in tree.entries_mut("services") {
        if let Some(build) = service.get_mut("build") {
            drop_empty(build, BUILD);
        }
        drop_empty(service, SERVICE);
    }
    for section in ["networks", "volumes"] {
        for (_, resource) in tree.entries_mut(section) {
            drop_empty(resource, &[("name", Text), ("driver", Text)]);
        }
    }
}

/// To Compose an empty text is none, as `image: $IMAGE` has it where the variable is not set.
fn drop_empty(tree: &mut Tree, forms: &[(&str, Form)]) {
    let Some(map) = tree.as_map_mut() else { return };
    for (key, _) in forms.iter().filter(|(_, form)| matches!(form, Text)) {
        if map.get(*key).and_then(Tree::as_text) == Some("") {
            map.remove(*key);
        }
    }
}

fn forms(tree: &mut Tree, trail: &Trail<'_>, forms: &[(&str, Form)], sink: &mut Sink) {
    for (key, form) in forms {
        if let Some(value) = tree.get_mut(key) {
            apply(value, &trail.key(key), *form, sink);
        }
    }
}

fn apply(tree: &mut Tree, trail: &Trail<'_>, form: Form, sink: &mut Sink) {
    let wanted = match form {
        Form::Map(inner) => match tree.kind {
            Kind::Map(_) => return forms(tree, trail, inner, sink),
            _ => "a mapping",
        },
        Named(inner) => match &mut tree.kind {
            Kind::Map(map) => {
                for (name, value) in map.iter_mut().filter(|(_, value)| !value.is_null()) {
                    apply(value, &trail.key(name), Form::Map(inner), sink);
                }
                return;
            }
            _ => "a mapping",
        },
        List(inner) => match &mut tree.kind {
            Kind::List(list) => {
                for (i, item) in list.iter_mut().enumerate() {
                    apply(item, &trail.item(i), Form::Map(inner), sink);
                }
                return;
            }
            _ => "a list",
        },
        Options | Ulimits => match &mut tree.kind {
            Kind::Map(map) => return entries(map, trail, form, sink),
            _ => "a mapping",
        },
        Texts => match &mut tree.kind {
            Kind::List(list) => {
                for (i, item) in list.iter_mut().enumerate() {
                    apply(item, &trail.item(i), Text, sink);
                }
                return;
            }
            _ => "a list of texts",
        },
        Command | Test => match &tree.kind {
            Kind::List(_) => return apply(tree, trail, Texts, sink),
            Kind::Text(line) => {
                let words = match form {
                    Test => Ok(vec!["CMD-SHELL".to_owned(), line.clone()]),
                    _ => command::split(line).map(|split| {
                        if let Some(operator) = split.cut_at {
                            sink.warn(format!(
                                "{trail}: no shell runs here, so Compose drops {operator} and all behind it: use sh -c '…'"
                            ));
                        }
                        split.words
                    }),
                };
                match words {
                    Ok(words) => {
                        tree.kind =
                            Kind::List(words.into_iter().map(|word| Tree::text(tree.at, word)).collect());
                    }
                    Err(problem) => sink.fail(tree.at, trail, problem),
                }
                return;
            }
            _ => "text or a list of texts",
        },
        Bool | Int | Float | Text | Word | Bytes | Count | Duration | Mode => {
            match scalar(&tree.kind, form) {
                Ok(kind) => {
                    tree.kind = kind;
                    return;
                }
                Err(wanted) => wanted,
            }
        }
    };
    let given = match tree.as_text() {
        Some(text) => format!("{text:?}"),
        None => tree.what().to_owned(),
    };
    let hint = match (wanted, tree.scalar()) {
        ("text", Some(_)) => ": put it in quotes",
        _ => "",
    };
    sink.fail(tree.at, trail, format!("must be {wanted}, not {given}{hint}"));
    tree.kind = Kind::Null;
}

fn entries(map: &mut Map, trail: &Trail<'_>, form: Form, sink: &mut Sink) {
    for (key, value) in map {
        let trail = trail.key(key);
        match form {
            Ulimits if value.as_map().is_some() => {
                forms(value, &trail, &[("soft", Int), ("hard", Int)], sink);
                if value.get("soft").is_none() || value.get("hard").is_none() {
                    sink.fail(value.at, &trail, "needs both soft and hard");
                }
            }
            Ulimits => apply(value, &trail, Int, sink),
            _ if value.is_null() => value.kind = Kind::Text(String::new()),
            _ => apply(value, &trail, Word, sink),
        }
    }
}

fn scalar(kind: &Kind, form: Form) -> Result<Kind, &'static str> {
    let text = match kind {
        Kind::Text(text) => Some(text.as_str()),
        _ => None,
    };
    match form {
        Bool => match (kind, text.map(str::to_ascii_lowercase).as_deref()) {
            (Kind::Bool(value), _) => Ok(Kind::Bool(*value)),
            (_, Some("true" | "yes" | "y" | "on")) => Ok(Kind::Bool(true)),
            (_, Some("false" | "no" | "n" | "off")) => Ok(Kind::Bool(false)),
            _ => Err("true or false"),
        },
        Int => match (kind, text.map(str::parse::<i64>)) {
            (Kind::Int(value), _) => Ok(Kind::Int(*value)),
            #[allow(clippy::cast_possible_truncation)] // whole, and small enough
            (Kind::Float(value), _) if value.fract() == 0.0 && value.abs() < 9e15 => {
                Ok(Kind::Int(*value as i128))
            }
            (_, Some(Ok(value))) => Ok(Kind::Int(value.into())),
            _ => Err("a whole number"),
        },
        Count if text == Some("all") => Ok(Kind::Int(-1)),
        Count => scalar(kind, Int).map_err(|_| "all or a whole number"),
        Float => match (kind, text.map(str::parse::<f64>)) {
            (Kind::Int(_) | Kind::Float(_), _) => Ok(kind.clone()),
            (_, Some(Ok(value))) if value.is_finite() => {
                Ok(match super::scalar::number(text.unwrap_or_default()) {
                    Ok(Some(Kind::Int(value))) => Kind::Int(value),
                    _ => Kind::Float(value),
                })
            }
            _ => Err("a number"),
        },
        Text => match text {
            Some(_) => Ok(kind.clone()),
            None => Err("text"),
        },
        Word => match kind {
            Kind::Text(_) => Ok(kind.clone()),
            Kind::Bool(_) | Kind::Int(_) | Kind::Float(_) => {
                let scalar = Tree::new(super::tree::At::default(), kind.clone()).scalar();
                Ok(Kind::Text(scalar.unwrap_or_default()))
            }
            _ => Err("text or a number"),
        },
        Bytes => match (kind, text.map(quantity::bytes)) {
            (Kind::Int(value), _) => Ok(Kind::Text(value.to_string())),
            (_, Some(Some(value))) => Ok(Kind::Text(value.to_string())),
            (_, Some(None)) if text == Some("-1") => Ok(kind.clone()),
            _ => Err("a size such as 64m or 1.5g"),
        },
        Duration => match text.and_then(quantity::nanoseconds) {
            Some(value) => Ok(Kind::Text(quantity::show_duration(value))),
            None => Err("a duration such as 10s or 1m30s"),
        },
        Mode => {
            let value = match (kind, text) {
                (Kind::Int(value), _) => Some(*value),
                (_, Some(text)) => i128::from_str_radix(text, 8).ok(),
                _ => None,
            };
            match value.filter(|value| (0..=0o7777).contains(value)) {
                Some(value) => Ok(Kind::Text(format!("0{value:o}"))),
                None => Err("file permissions in octal, such as 0440"),
            }
        }
        _ => Err("something else"),
    }
}
