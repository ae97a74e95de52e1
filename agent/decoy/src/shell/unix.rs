//! What a POSIX shell with a handful of commands answers.

mod files;
mod words;

use super::Reply;
use crate::host::{Distro, Host, OsFamily};
use crate::identity::Identity;
use files::Files;
use words::{Link, Step};

pub use files::release_name;

/// Commands that exist, do something silent and succeed.
const SILENT: &[&str] = &[
    "alias", "chmod", "chown", "clear", "cp", "enable", "export", "kill", "killall", "mkdir", "mount", "mv",
    "nohup", "pkill", "rm", "rmdir", "set", "shell", "sleep", "stty", "sync", "system", "touch", "true",
    "ulimit", "umask", "unset",
];

/// How deep `sh -c` may nest; each level costs stack, and the visitor chooses the depth.
const MAX_DEPTH: u32 = 4;

#[derive(Debug)]
pub(super) struct Unix {
    host: Host,
    user: String,
    uid: u32,
    directory: String,
    files: Files,
    history: Vec<String>,
    minutes_up: u64,
    /// How many `sh -c` deep the current command is.
    depth: u32,
}

impl Unix {
    pub(super) fn new(host: &Host, identity: &Identity, user: &str) -> Self {
        let uid = if user == "root" { 0 } else { 1000 };
        let files = Files::new(host, identity, user);
        Self {
            directory: files.home().to_owned(),
            host: host.clone(),
            user: user.to_owned(),
            uid,
            files,
            history: Vec::new(),
            minutes_up: identity.number("shell.uptime", 3_000..=300_000),
            depth: 0,
        }
    }

    fn is_busybox(&self) -> bool {
        self.host.family == OsFamily::Embedded
            || (self.host.family == OsFamily::Linux && self.host.distro == Distro::Alpine)
    }

    pub(super) fn greeting(&self) -> String {
        self.files.greeting(&self.host)
    }

    pub(super) fn prompt(&self) -> String {
        let sign = if self.uid == 0 { '#' } else { '$' };
        let (user, host) = (&self.user, self.host.short_name());
        let home = self.files.home();
        let place = match self.directory.strip_prefix(home) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("~{rest}"),
            _ => self.directory.clone(),
        };
        let last = place
            .rsplit('/')
            .next()
            .filter(|last| !last.is_empty())
            .unwrap_or("/");
        match (self.host.family, self.host.distro) {
            (OsFamily::Embedded, _) => format!("{sign} "),
            (OsFamily::Bsd, _) => format!("{user}@{host}:{place} {sign} "),
            (_, Distro::Rocky9 | Distro::Centos7 | Distro::Fedora | Distro::Arch) => {
                format!("[{user}@{host} {last}]{sign} ")
            }
            (_, Distro::Alpine) => format!("{host}:{place}{sign} "),
            _ => format!("{user}@{host}:{place}{sign} "),
        }
    }

    pub(super) fn run(&mut self, line: &str) -> Reply {
        let line = line.trim();
        // The list of past lines is bounded: a session may send lines for half an hour.
        if !line.is_empty() && self.history.len() < 100 {
            self.history.push(line.to_owned());
        }
        let mut reply = Reply::default();
        for Step { link, words } in words::steps(line) {
            match link {
                Link::Both if reply.status != 0 => continue,
                Link::Either if reply.status == 0 => continue,
                Link::Pipe => {
                    filter(&mut reply, &words);
                    continue;
                }
                Link::Then | Link::Both | Link::Either => {}
            }
            let (text, status) = match self.command(&words) {
                Some(answer) => answer,
                None => {
                    let code = words.iter().skip(1).find_map(|word| word.parse().ok());
                    reply.status = code.unwrap_or(reply.status);
                    reply.over = true;
                    return reply;
                }
            };
            reply.text.push_str(&text);
            reply.status = status;
        }
        reply
    }

    /// Output and exit status of a command; `None` when it ends the shell, with the code it names.
    fn command(&mut self, words: &[String]) -> Option<(String, u32)> {
        let prefixes = words
            .windows(2)
            .take_while(|pair| self.is_prefix(&pair[0], &pair[1]))
            .count();
        let words = &words[prefixes..];
        let Some((name, arguments)) = words.split_first() else {
            return Some((String::new(), 0));
        };
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let done = |text: String| Some((text, 0));
        match name.rsplit('/').next().unwrap_or(name) {
            "exit" | "logout" | "quit" => None,
            "busybox" => match words.get(1..) {
                // Bots ask for a made-up applet to see whether a real BusyBox answers.
                Some([applet, ..]) if !self.knows(applet) => {
                    Some((format!("{applet}: applet not found\n"), 127))
                }
                _ => done("BusyBox v1.35.0 (2023-11-07 18:53:38 UTC) multi-call binary.\n".to_owned()),
            },
            "sh" | "bash" | "ash" => match arguments.as_slice() {
                ["-c", script, ..] if self.depth < MAX_DEPTH => {
                    self.depth += 1;
                    let inner = self.run(script);
                    self.depth -= 1;
                    done(inner.text)
                }
                _ => done(String::new()),
            },
            "whoami" => done(format!("{}\n", self.user)),
            "id" => done(self.id()),
            "hostname" => done(format!("{}\n", self.host.hostname)),
            "pwd" => done(format!("{}\n", self.directory)),
            "uname" => done(self.files.uname(&arguments, &self.host)),
            "uptime" => done(format!(
                " up {} days, {}:{:02},  1 user,  load average: 0.00, 0.01, 0.05\n",
                self.minutes_up / 1440,
                self.minutes_up / 60 % 24,
                self.minutes_up % 60
            )),
            "w" | "who" | "last" => done(format!("{:<8} pts/0\n", self.user)),
            "nproc" => done("2\n".to_owned()),
            "tty" => done("/dev/pts/0\n".to_owned()),
            "history" => {
                let numbered = self.history.iter().zip(1..);
                done(
                    numbered
                        .map(|(line, number)| format!("{number:>5}  {line}\n"))
                        .collect(),
                )
            }
            "echo" => done(echo(&arguments)),
            "ps" => done(self.processes()),
            "free" => done(
                "               total        used        free      shared  buff/cache   available\n\
                 Mem:         2014220      312480      861344        1268      840396     1541612\n\
                 Swap:              0           0           0\n"
                    .to_owned(),
            ),
            "cd" => Some(self.change_directory(arguments.first().copied())),
            "ls" | "dir" => Some(self.list(&arguments)),
            "cat" | "more" | "less" | "head" | "tail" => Some(self.show(name, &arguments)),
            "which" | "command" => match arguments.last() {
                Some(wanted) if self.knows(wanted) => done(format!("/usr/bin/{wanted}\n")),
                _ => Some((String::new(), 1)),
            },
            "wget" | "curl" | "tftp" | "ftpget" => Some((unreachable(name, &arguments), 1)),
            other if SILENT.contains(&other) => done(String::new()),
            "false" => Some((String::new(), 1)),
            _ if name.contains('/') => {
                Some((format!("{}: No such file or directory\n", self.says(name)), 127))
            }
            _ if self.is_busybox() => Some((format!("-sh: {name}: not found\n"), 127)),
            _ => Some((format!("-bash: {name}: command not found\n"), 127)),
        }
    }

    /// Whether `word` only says how to run the command `next`.
    fn is_prefix(&self, word: &str, next: &str) -> bool {
        match word.rsplit('/').next() {
            Some("sudo") => !next.starts_with('-'),
            Some("busybox") => self.knows(next) || next == "busybox",
            _ => false,
        }
    }

    fn knows(&self, name: &str) -> bool {
        const ANSWERED: &[&str] = &[
            "cat", "cd", "curl", "echo", "free", "head", "hostname", "id", "less", "ls", "more", "nproc",
            "ps", "pwd", "sh", "tail", "tty", "uname", "uptime", "w", "wget", "which", "who", "whoami",
        ];
        ANSWERED.contains(&name)
            || SILENT.contains(&name)
            || (name == "bash" && !self.is_busybox())
            || (name == "tftp" && self.is_busybox())
    }

    fn says(&self, name: &str) -> String {
        if self.is_busybox() {
            format!("-sh: {name}")
        } else {
            format!("-bash: {name}")
        }
    }

    fn id(&self) -> String {
        let (uid, user) = (self.uid, &self.user);
        let extra = match (uid, self.host.distro) {
            (0, _) => "",
            (_, Distro::Rocky9 | Distro::Centos7 | Distro::Fedora | Distro::Arch) => ",10(wheel)",
            _ => ",27(sudo)",
        };
        format!("uid={uid}({user}) gid={uid}({user}) groups={uid}({user}){extra}\n")
    }

    fn processes(&self) -> String {
        let shell = if self.is_busybox() { "-sh" } else { "-bash" };
        format!(
            "    PID TTY          TIME CMD\n   1294 pts/0    00:00:00 {shell}\n   1311 pts/0    00:00:00 ps\n"
        )
    }

    fn change_directory(&mut self, wanted: Option<&str>) -> (String, u32) {
        let path = self.files.resolve(&self.directory, wanted.unwrap_or("~"));
        if self.files.is_directory(&path) {
            self.directory = path;
            return (String::new(), 0);
        }
        let problem = if self.files.read(&path).is_some() {
            "Not a directory"
        } else {
            "No such file or directory"
        };
        (
            format!("{}: {}: {problem}\n", self.says("cd"), wanted.unwrap_or_default()),
            1,
        )
    }

    fn list(&self, arguments: &[&str]) -> (String, u32) {
        let long = arguments
            .iter()
            .any(|word| word.starts_with('-') && word.contains('l'));
        let wanted = arguments.iter().find(|word| !word.starts_with('-'));
        let path = self.files.resolve(&self.directory, wanted.unwrap_or(&"."));
        match self.files.list(&path) {
            Some(names) if names.is_empty() => (if long { "total 0\n" } else { "" }.to_owned(), 0),
            Some(names) if long => {
                let rows = names.iter().map(|name| self.files.long_row(&path, name));
                (
                    format!("total {}\n{}", names.len() * 4, rows.collect::<String>()),
                    0,
                )
            }
            Some(names) => (format!("{}\n", names.join("  ")), 0),
            None if self.files.read(&path).is_some() => (format!("{}\n", wanted.unwrap_or(&"")), 0),
            None => {
                let wanted = wanted.unwrap_or(&".");
                (
                    format!("ls: cannot access '{wanted}': No such file or directory\n"),
                    2,
                )
            }
        }
    }

    fn show(&self, name: &str, arguments: &[&str]) -> (String, u32) {
        let mut text = String::new();
        let mut status = 0;
        for wanted in arguments.iter().filter(|word| !word.starts_with('-')) {
            let path = self.files.resolve(&self.directory, wanted);
            match self.files.read(&path) {
                Some("") if self.uid != 0 => {
                    text.push_str(&format!("{name}: {wanted}: Permission denied\n"));
                    status = 1;
                }
                Some(content) => text.push_str(content),
                None if self.files.is_directory(&path) => {
                    text.push_str(&format!("{name}: {wanted}: Is a directory\n"));
                    status = 1;
                }
                None => {
                    text.push_str(&format!("{name}: {wanted}: No such file or directory\n"));
                    status = 1;
                }
            }
        }
        (text, status)
    }
}

/// `echo`, with the `-n` and the `-e \x41` that bots use to find out what answers.
fn echo(arguments: &[&str]) -> String {
    let flags = arguments
        .iter()
        .take_while(|word| matches!(**word, "-n" | "-e" | "-ne" | "-en"))
        .count();
    let (flags, words) = arguments.split_at(flags);
    let mut text = words.join(" ");
    if flags.iter().any(|flag| flag.contains('e')) {
        text = words::unescape(&text);
    }
    if !flags.iter().any(|flag| flag.contains('n')) {
        text.push('\n');
    }
    text
}

/// A pipe into `grep`, `wc -l` or anything else, which passes its input on.
fn filter(reply: &mut Reply, words: &[String]) {
    match words.first().map(String::as_str) {
        Some("grep") => {
            let pattern = words
                .iter()
                .skip(1)
                .find(|word| !word.starts_with('-'))
                .cloned()
                .unwrap_or_default();
            let lines = reply.text.lines().filter(|line| line.contains(&pattern));
            reply.text = lines.map(|line| format!("{line}\n")).collect();
            reply.status = u32::from(reply.text.is_empty());
        }
        Some("wc") => reply.text = format!("{}\n", reply.text.lines().count()),
        Some("sh" | "bash") => reply.text.clear(),
        _ => {}
    }
}

/// A download fails: the decoy opens no connection of its own.
fn unreachable(name: &str, arguments: &[&str]) -> String {
    let address = arguments
        .iter()
        .find(|word| word.contains('.'))
        .copied()
        .unwrap_or_default();
    let host = address
        .split("://")
        .last()
        .unwrap_or_default()
        .split(['/', ':'])
        .next()
        .unwrap_or_default();
    match name {
        "curl" => format!("curl: (28) Failed to connect to {host} port 80: Connection timed out\n"),
        _ => format!("{name}: can't connect to remote host ({host}): Connection timed out\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(distro: Distro, user: &str) -> Unix {
        let host = Host {
            node: "n".into(),
            hostname: "web01.lan".into(),
            family: OsFamily::Linux,
            distro,
        };
        Unix::new(&host, &Identity::from_seed(&[5; 32]), user)
    }

    #[test]
    fn the_usual_first_commands_are_answered_in_character() {
        let mut root = shell(Distro::Debian, "root");
        assert_eq!(root.prompt(), "root@web01:~# ");
        assert_eq!(
            root.run("whoami; id").text,
            "root\nuid=0(root) gid=0(root) groups=0(root)\n"
        );
        assert!(root.run("uname -a").text.starts_with("Linux web01.lan 6.1.0-"));
        assert!(root.run("cat /etc/passwd").text.starts_with("root:x:0:0:"));
        assert!(root.run("cat /etc/passwd | grep root").text.lines().count() == 1);
        assert_eq!(root.run("cd /etc && pwd").text, "/etc\n");
        assert_eq!(root.prompt(), "root@web01:/etc# ");
        assert_eq!(root.run("cd .. && pwd && cd nowhere && pwd").status, 1);
        assert_eq!(
            root.run("frobnicate -x").text,
            "-bash: frobnicate: command not found\n"
        );
        assert_eq!(root.run("/bin/busybox MIRAI").text, "MIRAI: applet not found\n");
        assert_eq!(root.run("echo -ne '\\x41\\x42'").text, "AB");
        assert!(root.run("whoami; exit").over);
        assert_eq!(shell(Distro::Centos7, "dev").prompt(), "[dev@web01 ~]$ ");
    }

    #[test]
    fn scripts_in_scripts_end() {
        let mut root = shell(Distro::Debian, "root");
        let mut script = "id".to_owned();
        for _ in 0..6 {
            script = format!("sh -c \"{}\"", script.replace('\\', "\\\\").replace('"', "\\\""));
        }
        root.run(&script);
        root.run(&"sudo ".repeat(2000));
        root.run(&"busybox busybox ".repeat(2000));
    }
}
