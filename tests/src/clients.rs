//! One visit by its ordinary client for each service: what an intruder on the LAN would do first.
//!
//! Every visit leaves a mark that cannot be there by accident, and says where in the container's log it must be found.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::command::{Finished, run, run_with};
use crate::dialogue::Dialogue;
use crate::engine;
use crate::lan::Lan;
use crate::wait::{Seen, until};

/// Services that have a visit.
pub const SERVICES: &[&str] = &[
    "ssh",
    "telnet",
    "ftp",
    "http",
    "https",
    "smtp",
    "smtp_relay",
    "pop3",
    "imap",
    "mysql",
    "postgres",
    "redis",
    "mqtt",
    "vnc",
    "snmp",
];

/// How long a client may take. Decoys that refuse logins take their time, as the real ones do.
const LIMIT: Duration = Duration::from_secs(45);

/// What a visit brings.
#[derive(Debug, Clone)]
pub struct Visitor {
    /// The user name, path or topic that is tried: a word of letters.
    pub mark: String,
    /// A login that the service accepts, where the caller knows one.
    pub login: Option<(String, String)>,
}

impl Visitor {
    /// A stranger who guesses.
    #[must_use]
    pub fn stranger(mark: impl Into<String>) -> Self {
        Self {
            mark: mark.into(),
            login: None,
        }
    }

    fn password(&self) -> String {
        format!("{}-Pass1", self.mark)
    }
}

/// How a visit went.
#[derive(Debug, Clone)]
pub struct Visit {
    /// The client that was used.
    pub client: &'static str,
    /// The first line that shows the service's answer.
    pub answer: String,
    /// What one line of the container's log must hold, all of it.
    pub evidence: Vec<String>,
}

/// Visits a service at `address` from the LAN's namespace.
///
/// # Errors
///
/// When the client is not installed, gets no answer, or one that the real service would not give.
pub fn visit(lan: &Lan, service: &str, address: &str, visitor: &Visitor) -> Result<Visit> {
    let visit = match service {
        "ssh" => ssh(lan, address, visitor),
        "telnet" => telnet(lan, address, visitor),
        "ftp" => ftp(lan, address, visitor),
        "http" | "https" => web(lan, service, address, visitor),
        "smtp" | "smtp_relay" => smtp(lan, service, address, visitor),
        "pop3" | "imap" => mailbox(lan, service, address, visitor),
        "mysql" => mysql(lan, address, visitor),
        "postgres" => postgres(lan, address, visitor),
        "redis" => redis(lan, address, visitor),
        "mqtt" => mqtt(lan, address, visitor),
        "vnc" => vnc(lan, address),
        "snmp" => snmp(lan, address, visitor),
        _ => bail!(
            "no client for it here; there is one for each of: {}",
            SERVICES.join(", ")
        ),
    };
    visit.with_context(|| format!("{service} at {address}"))
}

/// Waits until the visit is in the container's log, and gives that line.
///
/// # Errors
///
/// When it does not come.
pub fn captured(container: &str, visit: &Visit, lan: &Lan) -> Result<Value> {
    let what = format!("one line with {:?} in the log of {container}", visit.evidence);
    until(&what, Duration::from_secs(10), || {
        let log = engine::logs(container)?;
        for line in log
            .lines()
            .filter(|line| visit.evidence.iter().all(|word| line.contains(word.as_str())))
        {
            let event: Value = serde_json::from_str(line)
                .with_context(|| format!("{container} logs a line that is no JSON: {line}"))?;
            if event.pointer("/source/ip").and_then(Value::as_str) == Some(lan.gateway().as_str()) {
                return Ok(Seen::Done(event));
            }
        }
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        Ok(Seen::not_yet(last.join("\n")))
    })
}

fn ssh(lan: &Lan, address: &str, visitor: &Visitor) -> Result<Visit> {
    let (user, password) = visitor
        .login
        .clone()
        .unwrap_or_else(|| (visitor.mark.clone(), visitor.password()));
    let target = format!("{user}@{address}");
    let wish = format!("uname -s; cat /tmp/{}", visitor.mark);
    let said = run(
        &mut lan.inside(&[
            "sshpass",
            "-p",
            &password,
            "ssh",
            "-F",
            "/dev/null",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "GlobalKnownHostsFile=/dev/null",
            "-o",
            "PreferredAuthentications=password",
            "-o",
            "PubkeyAuthentication=no",
            "-o",
            "NumberOfPasswordPrompts=1",
            "-o",
            "ConnectTimeout=20",
            "-o",
            "LogLevel=ERROR",
            &target,
            &wish,
        ]),
        LIMIT,
    )?;
    if visitor.login.is_some() {
        let answer = answer(
            &said,
            &[
                "Linux",
                "Darwin",
                "FreeBSD",
                "Windows",
                "not found",
                "not recognized",
            ],
        )?;
        return Ok(Visit {
            client: "ssh",
            answer,
            evidence: vec![visitor.mark.clone()],
        });
    }
    let answer = answer(&said, &["Permission denied"])?;
    Ok(Visit {
        client: "ssh",
        answer,
        evidence: vec![visitor.mark.clone(), visitor.password()],
    })
}

fn telnet(lan: &Lan, address: &str, visitor: &Visitor) -> Result<Visit> {
    let (user, password) = visitor
        .login
        .clone()
        .unwrap_or_else(|| (visitor.mark.clone(), visitor.password()));
    let mut dialogue = Dialogue::start(&mut lan.inside(&["telnet", address]))?;
    dialogue.expect(&["ogin:", "sername:"], LIMIT)?;
    dialogue.say(&user)?;
    dialogue.expect(&["assword:"], LIMIT)?;
    dialogue.say(&password)?;
    if visitor.login.is_some() {
        dialogue.expect(&["$ ", "# ", "> "], LIMIT)?;
        dialogue.say(&format!("cat /tmp/{}", visitor.mark))?;
        // The echo of the command, then what it says, then the next prompt.
        dialogue.expect(&["$ ", "# ", "> "], LIMIT)?;
        let answer = last_words(dialogue.heard());
        return Ok(Visit {
            client: "telnet",
            answer,
            evidence: vec![visitor.mark.clone()],
        });
    }
    let refusal = dialogue.expect(
        &["incorrect", "failed", "ogin:", "sername:", "denied", "invalid"],
        LIMIT,
    )?;
    let answer = dialogue
        .heard()
        .lines()
        .rev()
        .find(|line| line.contains(refusal))
        .map_or_else(|| refusal.to_owned(), |line| line.trim().to_owned());
    Ok(Visit {
        client: "telnet",
        answer,
        evidence: vec![visitor.mark.clone(), visitor.password()],
    })
}

fn ftp(lan: &Lan, address: &str, visitor: &Visitor) -> Result<Visit> {
    let (user, password) = visitor
        .login
        .clone()
        .unwrap_or_else(|| (visitor.mark.clone(), visitor.password()));
    let script = format!("user {user} {password}\npwd\nquit\n");
    let said = run_with(
        &mut lan.inside(&["ftp", "-n", "-v", "-p", address]),
        script.as_bytes(),
        LIMIT,
    )?;
    let answer = answer(&said, &["230 ", "530 "])?;
    Ok(Visit {
        client: "ftp",
        answer,
        evidence: vec![user, password],
    })
}

fn web(lan: &Lan, scheme: &str, address: &str, visitor: &Visitor) -> Result<Visit> {
    let url = format!("{scheme}://{address}/{}?id=1", visitor.mark);
    let agent = format!("Mozilla/5.0 ({})", visitor.mark);
    let said = run(
        &mut lan.inside(&["curl", "-sS", "-k", "-i", "--max-time", "20", "-A", &agent, &url]),
        LIMIT,
    )?;
    let answer = answer(&said, &["HTTP/1.1 ", "HTTP/1.0 ", "HTTP/2 "])?;
    Ok(Visit {
        client: "curl",
        answer,
        evidence: vec![visitor.mark.clone()],
    })
}

fn smtp(lan: &Lan, service: &str, address: &str, visitor: &Visitor) -> Result<Visit> {
    let url = format!("smtp://{address}/visitor.example");
    let from = format!("{}@visitor.example", visitor.mark);
    let letter = format!(
        "From: {from}\r\nTo: office@example.org\r\nSubject: {}\r\n\r\nHello.\r\n",
        visitor.mark
    );
    let said = run_with(
        &mut lan.inside(&[
            "curl",
            "-sS",
            "-v",
            "--max-time",
            "30",
            &url,
            "--mail-from",
            &from,
            "--mail-rcpt",
            "office@example.org",
            "-T",
            "-",
        ]),
        letter.as_bytes(),
        LIMIT,
    )?;
    // Only a relay takes mail from one stranger to another.
    let answer = match service {
        "smtp_relay" => answer(&said, &["queued as", "id=", "Message accepted", "Queued mail"])?,
        _ => answer(&said, &["< 550", "< 554"])?,
    };
    Ok(Visit {
        client: "curl",
        answer,
        evidence: vec![from],
    })
}

fn mailbox(lan: &Lan, scheme: &str, address: &str, visitor: &Visitor) -> Result<Visit> {
    let (user, password) = visitor
        .login
        .clone()
        .unwrap_or_else(|| (visitor.mark.clone(), visitor.password()));
    let url = format!("{scheme}://{address}/");
    let login = format!("{user}:{password}");
    let said = run(
        &mut lan.inside(&["curl", "-sS", "-v", "--max-time", "30", "-u", &login, &url]),
        LIMIT,
    )?;
    let answer = answer(&said, &["< +OK", "< -ERR", "< * OK", "< * PREAUTH"])?;
    Ok(Visit {
        client: "curl",
        answer,
        evidence: vec![user],
    })
}

fn mysql(lan: &Lan, address: &str, visitor: &Visitor) -> Result<Visit> {
    let (user, password) = (format!("-u{}", visitor.mark), format!("-p{}", visitor.password()));
    let said = run(
        &mut lan.inside(&[
            "mysql",
            "--no-defaults",
            "--protocol=TCP",
            "--skip-ssl",
            "--connect-timeout=20",
            "-h",
            address,
            &user,
            &password,
            "-e",
            "select version()",
        ]),
        LIMIT,
    )?;
    let answer = answer(&said, &["Access denied for user", "version()"])?;
    Ok(Visit {
        client: "mysql",
        answer,
        evidence: vec![visitor.mark.clone()],
    })
}

fn postgres(lan: &Lan, address: &str, visitor: &Visitor) -> Result<Visit> {
    let mut command = lan.inside(&[
        "psql",
        "-X",
        "-w",
        "-h",
        address,
        "-U",
        &visitor.mark,
        "-d",
        "postgres",
        "-c",
        "select version()",
    ]);
    command
        .env("PGPASSWORD", visitor.password())
        .env("PGCONNECT_TIMEOUT", "20")
        .env("HOME", "/nonexistent");
    let said = run(&mut command, LIMIT)?;
    let answer = answer(&said, &["authentication failed", "PostgreSQL"])?;
    Ok(Visit {
        client: "psql",
        answer,
        evidence: vec![visitor.mark.clone()],
    })
}

fn redis(lan: &Lan, address: &str, visitor: &Visitor) -> Result<Visit> {
    let said = run(
        &mut lan.inside(&["redis-cli", "-h", address, "SET", &visitor.mark, "1"]),
        LIMIT,
    )?;
    let answer = answer(&said, &["OK", "NOAUTH", "ERR", "DENIED"])?;
    Ok(Visit {
        client: "redis-cli",
        answer,
        evidence: vec![visitor.mark.clone()],
    })
}

fn mqtt(lan: &Lan, address: &str, visitor: &Visitor) -> Result<Visit> {
    let topic = format!("plant/{}", visitor.mark);
    let said = run(
        &mut lan.inside(&[
            "mosquitto_pub",
            "-d",
            "-h",
            address,
            "-u",
            &visitor.mark,
            "-P",
            &visitor.password(),
            "-t",
            &topic,
            "-m",
            "1",
        ]),
        LIMIT,
    )?;
    let answer = answer(
        &said,
        &[
            "received CONNACK",
            "Connection error",
            "not authorised",
            "Not authorized",
        ],
    )?;
    Ok(Visit {
        client: "mosquitto_pub",
        answer,
        evidence: vec![visitor.mark.clone()],
    })
}

fn vnc(lan: &Lan, address: &str) -> Result<Visit> {
    let folder = tempfile::tempdir().context("no folder for the password file")?;
    let (password, picture) = (folder.path().join("password"), folder.path().join("screen.jpg"));
    // The client takes a file of eight bytes, obfuscated with a key that everybody knows. Any eight bytes are some
    // password.
    std::fs::write(&password, [0x17, 0x52, 0x6b, 0x06, 0x23, 0x4e, 0x58, 0x07])?;
    let (password, picture) = (password.display().to_string(), picture.display().to_string());
    let said = run(
        &mut lan.inside(&["vncsnapshot", "-passwd", &password, address, &picture]),
        LIMIT,
    )?;
    let answer = answer(
        &said,
        &[
            "VNC authentication failed",
            "Authentication fail",
            "password check failed",
        ],
    )?;
    Ok(Visit {
        client: "vncsnapshot",
        answer,
        evidence: vec!["\"login\"".to_owned(), "challenge".to_owned()],
    })
}

fn snmp(lan: &Lan, address: &str, visitor: &Visitor) -> Result<Visit> {
    // A wrong community is not answered, as by a real device; the right one is everybody's first guess.
    let guess = run(
        &mut lan.inside(&[
            "snmpget",
            "-v2c",
            "-c",
            &visitor.mark,
            "-t",
            "1",
            "-r",
            "0",
            address,
            "1.3.6.1.2.1.1.1.0",
        ]),
        LIMIT,
    )?;
    let said = run(
        &mut lan.inside(&[
            "snmpget",
            "-v2c",
            "-c",
            "public",
            "-t",
            "5",
            "-r",
            "2",
            address,
            "1.3.6.1.2.1.1.1.0",
        ]),
        LIMIT,
    )?;
    let answer = answer(&said, &["STRING:"]).with_context(|| format!("the first guess: {}", guess.said()))?;
    Ok(Visit {
        client: "snmpget",
        answer,
        evidence: vec![visitor.mark.clone()],
    })
}

/// The first line that has one of `words`.
fn answer(said: &Finished, words: &[&str]) -> Result<String> {
    let text = format!("{}\n{}", said.stdout, said.stderr);
    let line = text
        .lines()
        .find(|line| words.iter().any(|word| line.contains(word)));
    match line {
        Some(line) => Ok(line.trim().trim_start_matches("< ").to_owned()),
        None => bail!(
            "expected one of {words:?}, `{}` ({}) said: {}",
            said.what,
            said.status,
            said.said()
        ),
    }
}

fn last_words(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .rfind(|line| line.len() > 2)
        .unwrap_or_default()
        .to_owned()
}
