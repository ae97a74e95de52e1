//! Finds out what a command is, and runs those about the connection and the server.

use super::keyspace::DATABASES;
use super::reply::{Protocol, Reply};
use super::server::{self, Server};
use super::{Client, keys};
use crate::serve::Session;

/// Words that an unknown command's answer repeats are cut here, as in Redis.
const ECHO_CAP: usize = 128;

/// Every command and its arity, the command's own name included; negative means "at least".
const COMMANDS: &[(&str, i64)] = &[
    ("acl", -2),
    ("append", 3),
    ("auth", -2),
    ("bgrewriteaof", 1),
    ("bgsave", -1),
    ("client", -2),
    ("cluster", -2),
    ("command", -1),
    ("config", -2),
    ("dbsize", 1),
    ("debug", -2),
    ("decr", 2),
    ("decrby", 3),
    ("del", -2),
    ("echo", 2),
    ("eval", -3),
    ("evalsha", -3),
    ("exists", -2),
    ("expire", -3),
    ("flushall", -1),
    ("flushdb", -1),
    ("get", 2),
    ("getdel", 2),
    ("getset", 3),
    ("hello", -1),
    ("hget", 3),
    ("hgetall", 2),
    ("hkeys", 2),
    ("hlen", 2),
    ("hmset", -4),
    ("hset", -4),
    ("hvals", 2),
    ("incr", 2),
    ("incrby", 3),
    ("info", -1),
    ("keys", 2),
    ("lastsave", 1),
    ("latency", -2),
    ("llen", 2),
    ("lpop", 2),
    ("lpush", -3),
    ("lrange", 4),
    ("memory", -2),
    ("mget", -2),
    ("module", -2),
    ("monitor", 1),
    ("mset", -3),
    ("persist", 2),
    ("pexpire", -3),
    ("ping", -1),
    ("psetex", 4),
    ("psync", -3),
    ("pttl", 2),
    ("quit", -1),
    ("randomkey", 1),
    ("rename", 3),
    ("replconf", -1),
    ("replicaof", 3),
    ("reset", 1),
    ("role", 1),
    ("rpop", 2),
    ("rpush", -3),
    ("sadd", -3),
    ("save", 1),
    ("scan", -2),
    ("scard", 2),
    ("script", -2),
    ("select", 2),
    ("set", -3),
    ("setex", 4),
    ("setnx", 3),
    ("shutdown", -1),
    ("slaveof", 3),
    ("slowlog", -2),
    ("smembers", 2),
    ("strlen", 2),
    ("time", 1),
    ("touch", -2),
    ("ttl", 2),
    ("type", 2),
    ("unlink", -2),
];

/// Runs one command. `words` is never empty.
pub(super) fn execute(
    server: &mut Server,
    client: &mut Client,
    session: &Session,
    words: &[Vec<u8>],
) -> Reply {
    server.count_command();
    let Some((first, args)) = words.split_first() else {
        return Reply::OK;
    };
    let name = String::from_utf8_lossy(first).to_ascii_lowercase();
    let major = server.release.major;
    let newer = matches!(name.as_str(), "hello" | "acl" | "reset" | "getdel") && major < 6;
    let Some((_, arity)) = COMMANDS.iter().find(|(known, _)| *known == name && !newer) else {
        return unknown(major, first, args);
    };
    let count = i64::try_from(words.len()).unwrap_or(i64::MAX);
    if (*arity >= 0 && count != *arity) || count < -*arity {
        return Reply::error(format!("ERR wrong number of arguments for '{name}' command"));
    }
    if keys::writes(&name) && server.keyspace.full() {
        return Reply::error("OOM command not allowed when used memory > 'maxmemory'.");
    }
    if let Some(database) = server.keyspace.databases.get_mut(client.database)
        && let Some(reply) = keys::execute(database, &name, args)
    {
        return reply;
    }
    connection(server, client, session, &name, args).unwrap_or_else(|| administration(server, &name, args))
}

fn unknown(major: u32, name: &[u8], args: &[Vec<u8>]) -> Reply {
    let shown = |word: &[u8]| String::from_utf8_lossy(&word[..word.len().min(ECHO_CAP)]).into_owned();
    let name = shown(name);
    if major < 5 {
        return Reply::error(format!("ERR unknown command '{name}'"));
    }
    let (open, after) = if major < 7 { ('`', "`, ") } else { ('\'', "' ") };
    let close = if major < 7 { '`' } else { '\'' };
    let mut text = format!("ERR unknown command {open}{name}{close}, with args beginning with: ");
    for arg in args {
        if text.len() > ECHO_CAP {
            break;
        }
        text.push(open);
        text.push_str(&shown(arg));
        text.push_str(after);
    }
    Reply::Error(text)
}

/// Commands about the visitor's own connection.
fn connection(
    server: &Server,
    client: &mut Client,
    session: &Session,
    name: &str,
    args: &[Vec<u8>],
) -> Option<Reply> {
    Some(match (name, args) {
        ("ping", []) => Reply::Status("PONG"),
        ("ping" | "echo", [text, ..]) => Reply::bulk(text),
        ("quit", _) => {
            client.leaving = true;
            Reply::OK
        }
        ("reset", _) => {
            client.database = 0;
            client.protocol = Protocol::Resp2;
            Reply::Status("RESET")
        }
        ("select", [number]) => {
            let number = std::str::from_utf8(number)
                .ok()
                .and_then(|number| number.parse::<usize>().ok());
            match number {
                Some(number) if number < DATABASES => {
                    client.database = number;
                    Reply::OK
                }
                Some(_) => Reply::error("ERR DB index is out of range"),
                None => Reply::error("ERR invalid DB index"),
            }
        }
        ("auth", _) => authenticate(server.release.major, session, args),
        ("hello", _) => hello(server, client, session, args),
        ("client", [sub, rest @ ..]) => client_command(client, sub, rest),
        _ => return None,
    })
}

/// No password is set, so AUTH is either an error or, for the default user, always right.
fn authenticate(major: u32, session: &Session, args: &[Vec<u8>]) -> Reply {
    match args {
        [password] => {
            session.login("default", password, false);
            Reply::error(if major < 6 {
                "ERR Client sent AUTH, but no password is set"
            } else {
                "ERR AUTH <password> called without any password configured for the default user. \
                 Are you sure your configuration is correct?"
            })
        }
        [user, password] if major >= 6 => {
            let admitted = user == b"default";
            session.login(user, password, admitted);
            if admitted {
                Reply::OK
            } else {
                Reply::error("WRONGPASS invalid username-password pair or user is disabled.")
            }
        }
        _ => Reply::error("ERR wrong number of arguments for 'auth' command"),
    }
}

fn hello(server: &Server, client: &mut Client, session: &Session, args: &[Vec<u8>]) -> Reply {
    let mut protocol = client.protocol;
    let mut rest = args;
    if let [version, more @ ..] = args {
        protocol = match version.as_slice() {
            b"2" => Protocol::Resp2,
            b"3" => Protocol::Resp3,
            _ => return Reply::error("NOPROTO unsupported protocol version"),
        };
        rest = more;
    }
    while let [option, more @ ..] = rest {
        rest = match (option.to_ascii_lowercase().as_slice(), more) {
            (b"auth", [user, password, more @ ..]) => {
                let reply = authenticate(server.release.major, session, &[user.clone(), password.clone()]);
                if reply != Reply::OK {
                    return reply;
                }
                more
            }
            (b"setname", [name, more @ ..]) => {
                client.name.clone_from(name);
                more
            }
            _ => {
                let option = String::from_utf8_lossy(&option[..option.len().min(ECHO_CAP)]).into_owned();
                return Reply::error(format!("ERR Syntax error in HELLO option '{option}'"));
            }
        };
    }
    client.protocol = protocol;
    let text = |key: &str, value: &str| (Reply::bulk(key), Reply::bulk(value));
    let role = if server.master.is_some() {
        "replica"
    } else {
        "master"
    };
    Reply::Map(vec![
        text("server", "redis"),
        text("version", &server.release.version),
        (
            Reply::bulk("proto"),
            Reply::Integer(if protocol == Protocol::Resp3 { 3 } else { 2 }),
        ),
        (
            Reply::bulk("id"),
            Reply::Integer(i64::try_from(client.id).unwrap_or(0)),
        ),
        text("mode", "standalone"),
        text("role", role),
        (Reply::bulk("modules"), Reply::Array(vec![])),
    ])
}

fn client_command(client: &mut Client, sub: &[u8], rest: &[Vec<u8>]) -> Reply {
    match (sub.to_ascii_lowercase().as_slice(), rest) {
        (b"setname", [name]) => {
            client.name.clone_from(name);
            Reply::OK
        }
        (b"getname", []) if client.name.is_empty() => Reply::Null,
        (b"getname", []) => Reply::bulk(&client.name),
        (b"id", []) => Reply::Integer(i64::try_from(client.id).unwrap_or(0)),
        (b"list" | b"info", _) => Reply::Verbatim(format!(
            "id={} addr={} laddr={} fd=8 name={} age=0 idle=0 flags=N db={} sub=0 psub=0 multi=-1 cmd=client user=default\n",
            client.id,
            client.address,
            client.local,
            String::from_utf8_lossy(&client.name),
            client.database,
        )),
        (b"setinfo", [_, _]) | (b"reply" | b"no-evict" | b"no-touch" | b"tracking", _) => Reply::OK,
        (b"kill", _) => Reply::error("ERR No such client"),
        _ => unknown_sub("CLIENT", sub),
    }
}

fn unknown_sub(command: &str, sub: &[u8]) -> Reply {
    let sub = String::from_utf8_lossy(&sub[..sub.len().min(ECHO_CAP)]).into_owned();
    Reply::error(format!("ERR unknown subcommand '{sub}'. Try {command} HELP."))
}

/// Commands about the server. What would touch the machine only says that it did.
fn administration(server: &mut Server, name: &str, args: &[Vec<u8>]) -> Reply {
    let sub = args
        .first()
        .map(|sub| sub.to_ascii_lowercase())
        .unwrap_or_default();
    match (name, sub.as_slice()) {
        ("info", section) => {
            let role = if server.master.is_some() {
                "slave"
            } else {
                "master"
            };
            Reply::Verbatim(server.info(&String::from_utf8_lossy(section), role, 1))
        }
        ("config", _) => config(server, &sub, args),
        ("command", b"count") => Reply::count(COMMANDS.len()),
        ("command", b"docs") => Reply::Map(vec![]),
        ("command", _) => Reply::Array(vec![]),
        ("flushall", _) => {
            server.keyspace.databases.fill_with(Default::default);
            Reply::OK
        }
        ("save", _) => {
            server.saved();
            Reply::OK
        }
        ("bgsave", _) => {
            server.saved();
            Reply::Status("Background saving started")
        }
        ("bgrewriteaof", _) => Reply::Status("Background append only file rewriting started"),
        ("lastsave", _) => Reply::Integer(i64::try_from(server.last_save()).unwrap_or(0)),
        ("time", _) => {
            let now = server::now();
            Reply::bulks([now.as_secs().to_string(), now.subsec_micros().to_string()])
        }
        ("slaveof" | "replicaof", _) => replicate(server, args),
        ("role", _) => role(server),
        ("module", b"list") => Reply::Array(vec![]),
        ("module", b"load") => Reply::error("ERR Error loading the extension. Please check the server logs."),
        ("module", _) => unknown_sub("MODULE", &sub),
        ("eval" | "evalsha", _) => Reply::Null,
        ("script", b"load") => Reply::bulk("e0e1f9fabfc9d4800c877a703b823ac0578ff8db"),
        ("script", _) | ("latency" | "slowlog", b"reset") => Reply::OK,
        ("slowlog" | "latency", _) => Reply::Array(vec![]),
        ("acl", b"whoami") => Reply::bulk("default"),
        ("acl", b"list") => Reply::bulks(["user default on nopass sanitize-payload ~* &* +@all"]),
        ("acl", b"users") => Reply::bulks(["default"]),
        ("cluster", _) => Reply::error("ERR This instance has cluster support disabled"),
        ("memory", b"usage") => Reply::Integer(72),
        ("debug", _) => Reply::error("ERR DEBUG command not allowed."),
        ("shutdown", _) => Reply::error("ERR Errors trying to SHUTDOWN. Check logs."),
        ("psync", _) => Reply::error("ERR Can't SYNC while not connected with my master"),
        _ => Reply::OK,
    }
}

fn config(server: &mut Server, sub: &[u8], args: &[Vec<u8>]) -> Reply {
    match (sub, args.get(1..).unwrap_or_default()) {
        (b"get", patterns @ [_, ..]) => {
            let found = patterns.iter().flat_map(|pattern| server.config_get(pattern));
            let mut pairs: Vec<_> = found
                .map(|(name, value)| (Reply::bulk(name), Reply::bulk(value)))
                .collect();
            // Many patterns may name one parameter; nobody needs more than there are.
            pairs.truncate(64);
            Reply::Map(pairs)
        }
        (b"set", pairs @ [_, _, ..]) => {
            for pair in pairs.chunks(2) {
                let [name, value] = pair else {
                    return Reply::error("ERR syntax error");
                };
                if !server.config_set(name, value) {
                    let name = String::from_utf8_lossy(&name[..name.len().min(ECHO_CAP)]).into_owned();
                    return Reply::error(if server.release.major < 7 {
                        format!("ERR Unsupported CONFIG parameter: {name}")
                    } else {
                        format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'")
                    });
                }
            }
            Reply::OK
        }
        (b"resetstat" | b"rewrite", []) => Reply::OK,
        (b"get" | b"set", _) => Reply::error("ERR wrong number of arguments for 'config' command"),
        _ => unknown_sub("CONFIG", sub),
    }
}

fn replicate(server: &mut Server, args: &[Vec<u8>]) -> Reply {
    let [host, port] = args else {
        return Reply::error("ERR syntax error");
    };
    let shown = |word: &[u8]| String::from_utf8_lossy(&word[..word.len().min(ECHO_CAP)]).into_owned();
    if host.eq_ignore_ascii_case(b"no") && port.eq_ignore_ascii_case(b"one") {
        server.master = None;
        return Reply::OK;
    }
    if shown(port).parse::<u16>().is_err() {
        return Reply::error("ERR Invalid master port");
    }
    // Line breaks would let a visitor write lines of INFO.
    server.master = Some((shown(host).replace(|c: char| c.is_control(), ""), shown(port)));
    Reply::OK
}

fn role(server: &Server) -> Reply {
    match &server.master {
        None => Reply::Array(vec![
            Reply::bulk("master"),
            Reply::Integer(0),
            Reply::Array(vec![]),
        ]),
        Some((host, port)) => Reply::Array(vec![
            Reply::bulk("slave"),
            Reply::bulk(host),
            Reply::Integer(port.parse().unwrap_or(0)),
            Reply::bulk("connect"),
            Reply::Integer(-1),
        ]),
    }
}
