//! The command line against a master in this process, over a Unix socket and over TLS.

mod audit;
mod commands;
mod definition;
mod deploy;
mod leaving;
mod policy;
mod reach;
mod releases;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use decnet_pki::ServerName;
use decnet_pki::tls;
use decnet_wire::ids::{DeckyName, HostId, Timestamp};
use decnet_wire::report::{self, Event, EventBody, Heartbeat, Outcome, Report};
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Command, Console, parse, run};
use crate::serve::listen;
use crate::serve::operator::for_peer;
use crate::serve::operator::testing::Master;

/// A master that listens in a temporary folder.
struct Running {
    master: Master,
    socket: PathBuf,
    tls: std::net::SocketAddr,
    end: CancellationToken,
    /// The last sequence that the agent used.
    seq: AtomicU64,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Running {
    async fn start() -> Self {
        let master = Master::new();
        let socket = master.folder.path().join("master.sock");
        let end = CancellationToken::new();
        let (over_socket, over_tls) = (master.router.clone(), master.router.clone());
        let unix = listen::bind_unix(&socket).await.unwrap();
        tokio::spawn(listen::serve_unix(
            unix,
            listen::limits::LOCAL,
            end.clone(),
            move |remote| TowerToHyperService::new(for_peer(over_socket.clone(), &remote)),
        ));
        let tcp = listen::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let tls = tcp.local_addr().unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let lifetime = time::Duration::days(1);
        let keys = master.control.keys();
        let ca = keys.serving();
        let (leaf, key) = ca
            .issue_server(&[name], time::OffsetDateTime::now_utc(), lifetime)
            .unwrap();
        let config = tls::server_config(&leaf, &key).unwrap();
        tokio::spawn(listen::serve_tls(
            tcp,
            tokio::sync::watch::Sender::new(config).subscribe(),
            listen::limits::OPERATORS,
            end.clone(),
            move |remote| TowerToHyperService::new(for_peer(over_tls.clone(), &remote)),
        ));
        Self {
            master,
            socket,
            tls,
            end,
            seq: AtomicU64::new(0),
        }
    }

    /// Runs a command over the socket.
    async fn decnet(&self, args: &[&str]) -> Output {
        self.decnet_with(args, "").await
    }

    async fn decnet_with(&self, args: &[&str], input: &str) -> Output {
        let socket = self.socket.to_str().unwrap();
        decnet(&[args, &["--socket", socket]].concat(), input).await
    }

    /// Runs a command before which somebody sits, who answers so.
    async fn decnet_asking(&self, args: &[&str], answer: &str) -> Output {
        let socket = self.socket.to_str().unwrap();
        decnet_at(&[args, &["--socket", socket]].concat(), answer, true).await
    }

    /// Writes a file into the folder and gives out its path.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.master.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Speaks as an agent would: every open operation of the host ends so.
    async fn end_all(&self, host: HostId, outcome: &dyn Fn(&DeckyName) -> Outcome) {
        let filter = crate::control::rows::RowFilter {
            open: true,
            host: Some(host),
            limit: 1000,
        };
        let rows = self.master.control.list_rows(filter).unwrap();
        let at = Timestamp::new(time::OffsetDateTime::now_utc());
        let events = rows.into_iter().map(|row| {
            let seq = self.seq.fetch_add(1, Ordering::Relaxed) + 1;
            let outcome = outcome(&row.decky);
            let body = EventBody::Operation {
                id: row.id,
                decky: row.decky,
                kind: row.operation,
                outcome,
            };
            Event { seq, at, body }
        });
        let heartbeat = Heartbeat {
            update: None,
            agent_version: "test".to_owned(),
            sent_at: at,
            accepted: None,
            converged: false,
            reason: None,
            engine: Some("20.10".to_owned()),
            pending: Vec::new(),
        };
        let report = Report {
            schema: report::SCHEMA,
            heartbeat,
            observed: None,
            events: events.collect(),
        };
        let control = Arc::clone(&self.master.control);
        tokio::task::spawn_blocking(move || control.ingest(host, &report))
            .await
            .unwrap()
            .unwrap();
    }
}

/// What a command printed.
#[derive(Debug)]
struct Output {
    code: u8,
    out: String,
    err: String,
}

impl Output {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Succeeded, and printed nothing of what went wrong.
    #[track_caller]
    fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Failed with this code, with lines that say so, and nothing else on the standard output.
    #[track_caller]
    fn failed(self, code: u8) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        assert!(!self.err.is_empty(), "{self:?}");
        for line in self.err.lines() {
            assert!(line.starts_with("decnet: "), "{self:?}");
        }
        self
    }
}

async fn decnet(args: &[&str], input: &str) -> Output {
    decnet_at(args, input, false).await
}

/// `asks`: whether somebody sits there, who types the input.
async fn decnet_at(args: &[&str], input: &str, asks: bool) -> Output {
    let args = [&["decnet"], args].concat();
    let Command::Admin(command) = parse(args.iter().copied()).unwrap().command else {
        panic!("no admin command")
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut input = input.as_bytes();
    let mut console = Console {
        input: &mut input,
        out: &mut out,
        err: &mut err,
        terminal: false,
        asks,
        json: false,
    };
    let code = run(&command, &mut console).await;
    Output {
        code,
        out: String::from_utf8(out).unwrap(),
        err: String::from_utf8(err).unwrap(),
    }
}

/// Runs a command while an agent's words come in, until the command ends.
async fn while_agent(
    running: &Running,
    host: HostId,
    args: &[&str],
    input: &str,
    outcome: impl Fn(&DeckyName) -> Outcome,
) -> Output {
    let agent = async {
        loop {
            running.end_all(host, &outcome).await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        output = running.decnet_with(args, input) => output,
        () = agent => unreachable!("the agent does not end"),
    }
}
