//! The server's own state: what INFO, CONFIG and ROLE show.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::keyspace::{self, Keyspace};
use super::release::Release;
use crate::host::Host;
use crate::identity::Identity;

/// The longest value kept of a parameter that a visitor sets, in bytes.
const CONFIG_VALUE_CAP: usize = 4096;

#[derive(Debug)]
pub(super) struct Server {
    pub(super) release: Release,
    pub(super) keyspace: Keyspace,
    /// `host port` after REPLICAOF.
    pub(super) master: Option<(String, String)>,
    config: BTreeMap<String, String>,
    run_id: String,
    replication_id: String,
    port: u16,
    pid: u64,
    started: Instant,
    /// How long it seems to have run before this process began.
    ran_before: Duration,
    memory: u64,
    clients: u64,
    commands: u64,
    last_save: u64,
}

impl Server {
    pub(super) fn new(
        identity: &Identity,
        host: &Host,
        version: Option<String>,
        os: Option<String>,
        port: u16,
    ) -> Self {
        let release = Release::new(identity, host, version, os);
        let ran_before = Duration::from_secs(identity.number("redis.uptime", 86_400..=90 * 86_400));
        Self {
            config: default_config(port, release.is_windows()),
            release,
            keyspace: Keyspace::new(identity),
            master: None,
            run_id: identity.hex::<20>("redis.run"),
            replication_id: identity.hex::<20>("redis.replication"),
            port,
            pid: identity.number("redis.pid", 400..=1900),
            started: Instant::now(),
            ran_before,
            memory: identity.number("redis.memory", 900_000..=2_400_000),
            clients: identity.number("redis.clients", 20..=4000),
            commands: identity.number("redis.commands", 10_000..=4_000_000),
            last_save: now()
                .as_secs()
                .saturating_sub(identity.number("redis.saved", 60..=3600)),
        }
    }

    pub(super) fn next_client(&mut self) -> u64 {
        self.clients += 1;
        self.clients
    }

    pub(super) fn count_command(&mut self) {
        self.commands += 1;
    }

    pub(super) fn saved(&mut self) {
        self.last_save = now().as_secs();
    }

    pub(super) fn last_save(&self) -> u64 {
        self.last_save
    }

    /// Parameters whose names match the glob.
    pub(super) fn config_get(&self, pattern: &[u8]) -> Vec<(&str, &str)> {
        let pattern = pattern.to_ascii_lowercase();
        let wanted = self
            .config
            .iter()
            .filter(|(name, _)| keyspace::matches(&pattern, name.as_bytes()));
        wanted
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect()
    }

    /// Sets a parameter; false when there is none of that name.
    pub(super) fn config_set(&mut self, name: &[u8], value: &[u8]) -> bool {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let value = String::from_utf8_lossy(&value[..value.len().min(CONFIG_VALUE_CAP)]).into_owned();
        match self.config.get_mut(&name) {
            Some(current) => *current = value,
            None => return false,
        }
        true
    }

    /// INFO's text. `section` is one section's lower-case name, or `all`.
    pub(super) fn info(&self, section: &str, role: &str, connected: usize) -> String {
        let all = matches!(section, "all" | "default" | "everything" | "");
        let mut text = String::new();
        for (name, lines) in self.sections(role, connected) {
            if all || name.eq_ignore_ascii_case(section) {
                if !text.is_empty() {
                    text.push_str("\r\n");
                }
                let _ = write!(text, "# {name}\r\n");
                for (key, value) in lines {
                    let _ = write!(text, "{key}:{value}\r\n");
                }
            }
        }
        text
    }

    fn sections(&self, role: &str, connected: usize) -> Vec<(&'static str, Vec<(String, String)>)> {
        let uptime = self.ran_before + self.started.elapsed();
        let memory = self.memory + self.keyspace.size() as u64;
        let [executable, config_file, poller] = if self.release.is_windows() {
            [
                r"C:\Program Files\Redis\redis-server.exe",
                r"C:\Program Files\Redis\redis.windows-service.conf",
                "WinSock_IOCP",
            ]
        } else {
            ["/usr/bin/redis-server", "/etc/redis/redis.conf", "epoll"]
        };
        let server = vec![
            ("redis_version", self.release.version.clone()),
            ("redis_git_sha1", "00000000".into()),
            ("redis_git_dirty", "0".into()),
            ("redis_build_id", self.release.build_id.clone()),
            ("redis_mode", "standalone".into()),
            ("os", self.release.os.clone()),
            ("arch_bits", "64".into()),
            ("multiplexing_api", poller.into()),
            ("gcc_version", self.release.gcc.into()),
            ("process_id", self.pid.to_string()),
            ("run_id", self.run_id.clone()),
            ("tcp_port", self.port.to_string()),
            ("server_time_usec", now().as_micros().to_string()),
            ("uptime_in_seconds", uptime.as_secs().to_string()),
            ("uptime_in_days", (uptime.as_secs() / 86_400).to_string()),
            ("hz", "10".into()),
            ("configured_hz", "10".into()),
            ("lru_clock", (now().as_secs() & 0xff_ffff).to_string()),
            ("executable", executable.into()),
            ("config_file", config_file.into()),
        ];
        let clients = vec![
            ("connected_clients", connected.max(1).to_string()),
            ("blocked_clients", "0".into()),
        ];
        let memory = vec![
            ("used_memory", memory.to_string()),
            ("used_memory_human", human(memory)),
            ("used_memory_rss", (memory * 8).to_string()),
            ("used_memory_peak", (memory + 65_536).to_string()),
            ("maxmemory", "0".into()),
            ("maxmemory_policy", "noeviction".into()),
            ("mem_allocator", "jemalloc-5.3.0".into()),
        ];
        let persistence = vec![
            ("loading", "0".into()),
            ("rdb_changes_since_last_save", "0".into()),
            ("rdb_bgsave_in_progress", "0".into()),
            ("rdb_last_save_time", self.last_save.to_string()),
            ("rdb_last_bgsave_status", "ok".into()),
            ("aof_enabled", "0".into()),
        ];
        let stats = vec![
            ("total_connections_received", self.clients.to_string()),
            ("total_commands_processed", self.commands.to_string()),
            ("rejected_connections", "0".into()),
            ("expired_keys", (self.commands / 900).to_string()),
            ("evicted_keys", "0".into()),
        ];
        let mut replication = vec![("role", role.to_owned())];
        if let Some((host, port)) = &self.master {
            replication.push(("master_host", host.clone()));
            replication.push(("master_port", port.clone()));
            replication.push(("master_link_status", "down".into()));
        }
        replication.push(("connected_slaves", "0".into()));
        replication.push(("master_replid", self.replication_id.clone()));
        replication.push(("master_repl_offset", "0".into()));
        let cpu_seconds = uptime.as_secs() as f64 / 900.0;
        let cpu = vec![
            ("used_cpu_sys", format!("{cpu_seconds:.6}")),
            ("used_cpu_user", format!("{:.6}", cpu_seconds * 0.8)),
        ];
        let named = |lines: Vec<(&str, String)>| -> Vec<(String, String)> {
            lines
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect()
        };
        let databases = self
            .keyspace
            .databases
            .iter()
            .enumerate()
            .filter(|(_, database)| database.len() > 0);
        let keyspace = databases.map(|(number, database)| {
            let line = format!(
                "keys={},expires={},avg_ttl=0",
                database.len(),
                database.expiring()
            );
            (format!("db{number}"), line)
        });
        vec![
            ("Server", named(server)),
            ("Clients", named(clients)),
            ("Memory", named(memory)),
            ("Persistence", named(persistence)),
            ("Stats", named(stats)),
            ("Replication", named(replication)),
            ("CPU", named(cpu)),
            ("Cluster", named(vec![("cluster_enabled", "0".into())])),
            ("Keyspace", keyspace.collect()),
        ]
    }
}

fn default_config(port: u16, windows: bool) -> BTreeMap<String, String> {
    let port = port.to_string();
    let [dir, log, pid] = if windows {
        [r"C:\Program Files\Redis", "server_log.txt", ""]
    } else {
        [
            "/var/lib/redis",
            "/var/log/redis/redis-server.log",
            "/run/redis/redis-server.pid",
        ]
    };
    let parameters = [
        ("appendonly", "no"),
        ("bind", "0.0.0.0"),
        ("daemonize", "yes"),
        ("databases", "16"),
        ("dbfilename", "dump.rdb"),
        ("dir", dir),
        ("hz", "10"),
        ("logfile", log),
        ("loglevel", "notice"),
        ("maxclients", "10000"),
        ("maxmemory", "0"),
        ("maxmemory-policy", "noeviction"),
        ("pidfile", pid),
        ("port", port.as_str()),
        ("protected-mode", "no"),
        ("rdbcompression", "yes"),
        ("requirepass", ""),
        ("masterauth", ""),
        ("save", "3600 1 300 100 60 10000"),
        ("slave-read-only", "yes"),
        ("replica-read-only", "yes"),
        ("slowlog-log-slower-than", "10000"),
        ("slowlog-max-len", "128"),
        ("stop-writes-on-bgsave-error", "yes"),
        ("tcp-backlog", "511"),
        ("tcp-keepalive", "300"),
        ("timeout", "0"),
        ("unixsocket", ""),
    ];
    parameters
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn human(bytes: u64) -> String {
    format!("{:.2}M", bytes as f64 / 1_048_576.0)
}
