//! What is secret is on the disk for its owner alone, and nowhere else.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use decnet_tests::command::{SHORT, run};
use decnet_tests::fleet::Operator;
use decnet_tests::processes::{Agent, Master};
use decnet_tests::wait::{Seen, until};
use serde_json::Value;
use tempfile::TempDir;

/// Everything that anything says.
const ALL: &str = "trace";
const SOON: Duration = Duration::from_secs(30);

/// A master and an agent that has polled and reported, without an engine.
struct Pair {
    folder: TempDir,
    master: Master,
    agent: Agent,
    operator: Operator,
    /// Texts that were shown once: operator tokens, enrolment tokens.
    tokens: Vec<String>,
    /// What programs said that should not show any.
    said: String,
}

impl Pair {
    fn meet() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("decnet-").tempdir_in("/tmp")?;
        let mut master = Master::init(folder.path())?.without_worker();
        master.logs = Some(ALL);
        master.start()?;
        let operator = Operator::on(&master.socket);
        let (_, token) = operator.enroll("edge", None, &[])?;
        let mut agent = Agent::new(folder.path(), "edge").with_engine(&folder.path().join("no-engine.sock"));
        agent.logs = Some(ALL);
        let mut tokens = vec![master.token.clone(), token.clone()];
        let mut said = String::new();

        // What is wrong is told, and not shown.
        let wrong = with_another_secret(&token)?;
        for refused in [&wrong[..], &token[..token.len() - 7], &format!("{token}~")] {
            let finished = agent.command(&["enroll", refused])?;
            ensure!(!finished.status.success(), "{refused} was taken");
            said += &finished.said();
        }
        tokens.push(wrong);
        said += &agent.command(&["enroll", &token])?.ok()?;
        said += &agent.command(&["enroll", &token])?.said();
        agent.start()?;
        let viewer = operator.json(&["token", "create", "watcher", "--role", "viewer"])?;
        let viewer = viewer["token"].as_str().context("no token")?.to_owned();
        for (token, status) in [
            (&master.token, "200"),
            (&viewer, "200"),
            (&"decnet_wrong".to_owned(), "401"),
        ] {
            let mut curl = std::process::Command::new("curl");
            curl.args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "-H"])
                .arg(format!("Authorization: Bearer {token}"))
                .arg(format!("https://127.0.0.1:{}/api/v1/health", master.api_port));
            let answer = run(&mut curl, SHORT)?.ok()?;
            ensure!(answer == status, "{answer} instead of {status}");
        }
        tokens.push(viewer);
        until("the host is active", SOON, || {
            let hosts = operator.hosts()?;
            Ok(Seen::when(
                hosts["edge"].status == "active",
                &hosts["edge"].status,
            ))
        })?;
        Ok(Self {
            folder,
            master,
            agent,
            operator,
            tokens,
            said,
        })
    }

    fn state(&self) -> Result<Vec<PathBuf>> {
        let mut all = entries(&self.master.state_dir)?;
        all.extend(entries(&self.agent.state_dir)?);
        Ok(all)
    }
}

/// The same token, with a secret that is not the one.
fn with_another_secret(token: &str) -> Result<String> {
    let body = token.strip_prefix("decnet1.").context("another kind of token")?;
    let mut document: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body)?)?;
    document["secret"] = URL_SAFE_NO_PAD.encode([7; 32]).into();
    Ok(format!(
        "decnet1.{}",
        URL_SAFE_NO_PAD.encode(document.to_string())
    ))
}

/// Everything below a folder, and the folder itself.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut all = vec![folder.to_owned()];
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            all.extend(entries(&entry.path())?);
        } else {
            all.push(entry.path());
        }
    }
    Ok(all)
}

#[test]
fn what_master_and_agent_keep_is_for_their_own_user_alone() -> Result<()> {
    let pair = Pair::meet()?;
    let (mut files, mut wrong) = (0, Vec::new());
    for path in pair.state()? {
        let found = fs::symlink_metadata(&path)?;
        let mode = found.permissions().mode() & 0o7777;
        let most = if found.is_dir() { 0o700 } else { 0o600 };
        files += usize::from(found.is_file());
        if mode & !most != 0 {
            let kind = if found.file_type().is_socket() {
                "socket"
            } else {
                "file or folder"
            };
            wrong.push(format!("{mode:o} {kind} {}", path.display()));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(files > 8, "only {files} files were looked at");
    let socket = fs::metadata(&pair.master.socket)?.permissions().mode() & 0o777;
    ensure!(socket == 0o600, "the master's socket has the mode {socket:o}");
    Ok(())
}

#[test]
fn a_crash_leaves_no_core_dump() -> Result<()> {
    let mut pair = Pair::meet()?;
    let master = pair.master.process().context("no master")?.id();
    for id in [master, pair.agent.id().context("no agent")?] {
        let limits = fs::read_to_string(format!("/proc/{id}/limits"))?;
        let line = limits.lines().find(|line| line.starts_with("Max core file size"));
        let words: Vec<_> = line.context("no such limit")?.split_whitespace().collect();
        ensure!(words[4..6] == ["0", "0"], "{words:?}");
    }
    Ok(())
}

#[test]
fn nothing_that_is_secret_is_logged_or_said_however_talkative_the_programs_are() -> Result<()> {
    let mut pair = Pair::meet()?;
    pair.operator.json(&["token", "revoke", "watcher"])?;
    pair.agent.stop()?;
    pair.master.stop()?;
    let mut secrets = BTreeSet::new();
    for path in pair.state()? {
        if path.is_file() {
            private_keys(&String::from_utf8_lossy(&fs::read(&path)?), &mut secrets);
        }
    }
    // Online, operator, CA, host.
    ensure!(
        secrets.len() >= 4,
        "only {} private keys were found",
        secrets.len()
    );
    for token in &pair.tokens {
        secrets.insert(token.clone());
        if let Some(body) = token.strip_prefix("decnet1.") {
            let document: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body)?)?;
            secrets.insert(document["secret"].as_str().context("no secret")?.to_owned());
            // A good part of it would do as well.
            secrets.insert(body[body.len() / 2..].to_owned());
        }
    }
    for log in [&pair.master.log, &pair.agent.log] {
        let text = fs::read_to_string(log)?;
        // That they were heard at all: the wrong token was refused there, this agent began here.
        let heard = text.contains("refused a stranger's request") || text.contains("INFO decnet_agent");
        ensure!(heard, "{} is silent: {text}", log.display());
        absent(&secrets, &text, &log.display().to_string())?;
    }
    absent(&secrets, &pair.said, "what the programs said")?;
    // Tokens are stored hashed only.
    for path in pair.state()? {
        if path.is_file() {
            let content = fs::read(&path)?;
            for token in &pair.tokens {
                let there = content
                    .windows(token.len())
                    .any(|window| window == token.as_bytes());
                ensure!(!there, "{} holds a token", path.display());
            }
        }
    }
    drop(pair.folder);
    Ok(())
}

/// What of the private keys in a text would give them away: their base64, its lines, and the key's own bytes.
fn private_keys(text: &str, secrets: &mut BTreeSet<String>) {
    // In JSON the ends of lines are written out.
    let text = text.replace("\\n", "\n");
    for block in text.split("-----BEGIN PRIVATE KEY-----").skip(1) {
        let body = block.split("-----END").next().unwrap_or_default();
        let lines: Vec<_> = body
            .lines()
            .map(str::trim)
            .filter(|line| line.len() >= 16)
            .collect();
        secrets.extend(lines.iter().map(|line| (*line).to_owned()));
        if let Ok(der) = STANDARD.decode(lines.concat()) {
            // RFC 8410 §7, RFC 5915 §3: the octet string of 32 bytes.
            if let Some(at) = der.windows(2).position(|window| window == [4, 32])
                && let Some(key) = der.get(at + 2..at + 34)
            {
                secrets.insert(key.iter().map(|byte| format!("{byte:02x}")).collect());
                secrets.insert(format!("{key:?}"));
                secrets.insert(STANDARD.encode(key));
            }
        }
    }
}

fn absent(secrets: &BTreeSet<String>, text: &str, place: &str) -> Result<()> {
    for secret in secrets {
        if let Some(at) = text.find(secret.as_str()) {
            let begin = text[..at].rfind('\n').map_or(0, |end| end + 1);
            let line: String = text[begin..at].chars().take(300).collect();
            anyhow::bail!(
                "{place} holds a secret of {} characters after {line:?}",
                secret.len()
            );
        }
    }
    Ok(())
}
