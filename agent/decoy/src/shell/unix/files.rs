//! The few files and directories that visitors look at, and what the machine says of itself.

use std::collections::BTreeMap;

use crate::host::{Distro, Host, OsFamily};
use crate::identity::Identity;

#[derive(Debug)]
pub(super) struct Files {
    home: String,
    kernel: (&'static str, &'static str),
    machine: &'static str,
    /// Path to content. An empty file is one that only root may read.
    files: BTreeMap<String, String>,
    directories: Vec<String>,
}

impl Files {
    pub(super) fn new(host: &Host, identity: &Identity, user: &str) -> Self {
        let home = if user == "root" {
            "/root".to_owned()
        } else {
            format!("/home/{user}")
        };
        let kernel = kernel(host, identity);
        let machine = match host.family {
            OsFamily::Embedded => "armv7l",
            OsFamily::Bsd => "amd64",
            _ => "x86_64",
        };
        let mut files = BTreeMap::new();
        let mut add = |path: &str, content: String| files.insert(path.to_owned(), content);
        add("/etc/passwd", passwd(host, user));
        add("/etc/shadow", String::new());
        add("/etc/hostname", format!("{}\n", host.hostname));
        add(
            "/etc/hosts",
            format!("127.0.0.1\tlocalhost\n127.0.1.1\t{}\n", host.hostname),
        );
        add("/etc/resolv.conf", "nameserver 192.168.1.1\n".to_owned());
        if host.family == OsFamily::Linux {
            add("/etc/os-release", os_release(host.distro));
        }
        let (release, build) = kernel;
        add(
            "/proc/version",
            format!("Linux version {release} (gcc) {build}\n"),
        );
        add(
            "/proc/uptime",
            format!(
                "{}.31 {}.07\n",
                identity.number("shell.uptime", 3_000..=300_000) * 60,
                91
            ),
        );
        add(
            "/proc/cpuinfo",
            "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel name\t: Intel(R) Xeon(R) CPU \
             E5-2680 v4 @ 2.40GHz\ncpu MHz\t\t: 2399.998\ncache size\t: 35840 KB\n\n"
                .to_owned(),
        );
        add(
            "/proc/mounts",
            "/dev/sda1 / ext4 rw,relatime 0 0\nproc /proc proc rw 0 0\n".to_owned(),
        );
        add(
            &format!("{home}/.bash_history"),
            "apt update\nls\ndf -h\n".to_owned(),
        );
        let directories = [
            "/",
            "/bin",
            "/boot",
            "/dev",
            "/etc",
            "/home",
            "/lib",
            "/mnt",
            "/opt",
            "/proc",
            "/root",
            "/run",
            "/sbin",
            "/srv",
            "/sys",
            "/tmp",
            "/usr",
            "/usr/bin",
            "/usr/local",
            "/var",
            "/var/log",
            "/var/tmp",
            "/var/www",
        ];
        let mut directories: Vec<String> = directories.map(str::to_owned).to_vec();
        if !directories.contains(&home) {
            directories.push(home.clone());
        }
        Self {
            home,
            kernel,
            machine,
            files,
            directories,
        }
    }

    pub(super) fn home(&self) -> &str {
        &self.home
    }

    /// `wanted` as an absolute path without `.` and `..`.
    pub(super) fn resolve(&self, directory: &str, wanted: &str) -> String {
        let whole = match wanted.strip_prefix('~') {
            Some(rest) => format!("{}{rest}", self.home),
            None if wanted.starts_with('/') => wanted.to_owned(),
            None => format!("{directory}/{wanted}"),
        };
        let mut parts: Vec<&str> = Vec::new();
        for part in whole.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        format!("/{}", parts.join("/"))
    }

    pub(super) fn is_directory(&self, path: &str) -> bool {
        self.directories.iter().any(|directory| directory == path)
    }

    pub(super) fn read(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// The visible names in a directory, sorted; `None` when it is none.
    pub(super) fn list(&self, path: &str) -> Option<Vec<String>> {
        if !self.is_directory(path) {
            return None;
        }
        let prefix = if path == "/" {
            "/".to_owned()
        } else {
            format!("{path}/")
        };
        let mut names: Vec<String> = self
            .directories
            .iter()
            .chain(self.files.keys())
            .filter_map(|path| path.strip_prefix(&prefix))
            .filter(|name| !name.is_empty() && !name.contains('/') && !name.starts_with('.'))
            .map(str::to_owned)
            .collect();
        names.sort_unstable();
        Some(names)
    }

    pub(super) fn long_row(&self, directory: &str, name: &str) -> String {
        let path = self.resolve(directory, name);
        match self.read(&path) {
            Some(content) => format!(
                "-rw-r--r-- 1 root root {:>5} Mar 11 09:12 {name}\n",
                content.len()
            ),
            None => format!("drwxr-xr-x 2 root root {:>5} Mar 11 09:12 {name}\n", 4096),
        }
    }

    pub(super) fn uname(&self, arguments: &[&str], host: &Host) -> String {
        let (release, build) = self.kernel;
        let (system, suffix) = match host.family {
            OsFamily::Bsd => ("FreeBSD", ""),
            _ => ("Linux", " GNU/Linux"),
        };
        let flags: String = arguments
            .iter()
            .filter_map(|word| word.strip_prefix('-'))
            .collect();
        if flags.contains('a') {
            return format!(
                "{system} {} {release} {build} {}{suffix}\n",
                host.hostname, self.machine
            );
        }
        let fields = [
            ('s', system),
            ('n', &host.hostname),
            ('r', release),
            ('v', build),
            ('m', self.machine),
        ];
        let wanted: Vec<&str> = fields
            .iter()
            .filter(|(flag, _)| flags.contains(*flag))
            .map(|(_, text)| *text)
            .collect();
        format!(
            "{}\n",
            if wanted.is_empty() {
                system.to_owned()
            } else {
                wanted.join(" ")
            }
        )
    }

    pub(super) fn greeting(&self, host: &Host) -> String {
        let (release, build) = self.kernel;
        let (machine, name) = (self.machine, &host.hostname);
        match (host.family, host.distro) {
            (OsFamily::Embedded, _) => {
                "\n\nBusyBox v1.26.2 (2019-04-02 10:33:51 CST) built-in shell (ash)\n\n".to_owned()
            }
            (OsFamily::Linux, Distro::Debian | Distro::Kali) => format!(
                "Linux {name} {release} {build} {machine}\n\n\
                 The programs included with the {0} system are free software;\n\
                 the exact distribution terms for each program are described in the\n\
                 individual files in /usr/share/doc/*/copyright.\n\n\
                 {0} comes with ABSOLUTELY NO WARRANTY, to the extent\n\
                 permitted by applicable law.\n",
                if host.distro == Distro::Kali {
                    "Kali GNU/Linux"
                } else {
                    "Debian GNU/Linux"
                }
            ),
            (OsFamily::Linux, Distro::Ubuntu22 | Distro::Ubuntu20) => format!(
                "Welcome to {} (GNU/Linux {release} {machine})\n\n \
                 * Documentation:  https://help.ubuntu.com\n \
                 * Management:     https://landscape.canonical.com\n \
                 * Support:        https://ubuntu.com/advantage\n\n",
                release_name(host.distro)
            ),
            (OsFamily::Linux, Distro::Alpine) => "Welcome to Alpine!\n\n".to_owned(),
            _ => String::new(),
        }
    }
}

/// The name a distribution gives itself, as in `PRETTY_NAME`.
#[must_use]
pub fn release_name(distro: Distro) -> &'static str {
    match distro {
        Distro::Debian => "Debian GNU/Linux 12 (bookworm)",
        Distro::Ubuntu22 => "Ubuntu 22.04.4 LTS",
        Distro::Ubuntu20 => "Ubuntu 20.04.6 LTS",
        Distro::Rocky9 => "Rocky Linux 9.3 (Blue Onyx)",
        Distro::Centos7 => "CentOS Linux 7 (Core)",
        Distro::Alpine => "Alpine Linux v3.19",
        Distro::Fedora => "Fedora Linux 39 (Server Edition)",
        Distro::Kali => "Kali GNU/Linux Rolling",
        Distro::Arch => "Arch Linux",
    }
}

fn os_release(distro: Distro) -> String {
    let pretty = release_name(distro);
    let id = match distro {
        Distro::Debian => "debian",
        Distro::Ubuntu22 | Distro::Ubuntu20 => "ubuntu",
        Distro::Rocky9 => "rocky",
        Distro::Centos7 => "centos",
        Distro::Alpine => "alpine",
        Distro::Fedora => "fedora",
        Distro::Kali => "kali",
        Distro::Arch => "arch",
    };
    format!("PRETTY_NAME=\"{pretty}\"\nID={id}\n")
}

fn passwd(host: &Host, user: &str) -> String {
    let shell = if host.family == OsFamily::Embedded || host.distro == Distro::Alpine {
        "/bin/ash"
    } else {
        "/bin/bash"
    };
    let mut text = format!(
        "root:x:0:0:root:/root:{shell}\n\
         daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
         bin:x:2:2:bin:/bin:/usr/sbin/nologin\n\
         mail:x:8:8:mail:/var/mail:/usr/sbin/nologin\n\
         www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n\
         sshd:x:105:65534::/run/sshd:/usr/sbin/nologin\n"
    );
    if user != "root" {
        text.push_str(&format!("{user}:x:1000:1000::/home/{user}:{shell}\n"));
    }
    text
}

/// Kernel release and build of a machine: versions each distribution shipped.
fn kernel(host: &Host, identity: &Identity) -> (&'static str, &'static str) {
    let options: &[(&str, &str)] = match (host.family, host.distro) {
        (OsFamily::Bsd, _) => &[(
            "13.2-RELEASE",
            "FreeBSD 13.2-RELEASE releng/13.2-n254617-525ecfdad597 GENERIC",
        )],
        (OsFamily::Embedded, _) => &[
            ("3.10.14", "#1 SMP Tue Apr 2 10:31:09 CST 2019"),
            ("3.18.20", "#5 Wed Jul 5 15:02:11 CST 2017"),
        ],
        (_, Distro::Debian) => &[
            (
                "6.1.0-13-amd64",
                "#1 SMP PREEMPT_DYNAMIC Debian 6.1.55-1 (2023-09-29)",
            ),
            (
                "6.1.0-18-amd64",
                "#1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024-02-01)",
            ),
            (
                "6.1.0-21-amd64",
                "#1 SMP PREEMPT_DYNAMIC Debian 6.1.90-1 (2024-05-03)",
            ),
            (
                "6.1.0-28-amd64",
                "#1 SMP PREEMPT_DYNAMIC Debian 6.1.119-1 (2024-11-22)",
            ),
        ],
        (_, Distro::Ubuntu22) => &[
            (
                "5.15.0-91-generic",
                "#101-Ubuntu SMP Tue Nov 14 13:30:08 UTC 2023",
            ),
            (
                "5.15.0-105-generic",
                "#115-Ubuntu SMP Mon Apr 15 09:52:04 UTC 2024",
            ),
        ],
        (_, Distro::Ubuntu20) => &[
            (
                "5.4.0-169-generic",
                "#187-Ubuntu SMP Thu Nov 23 14:52:28 UTC 2023",
            ),
            (
                "5.4.0-182-generic",
                "#202-Ubuntu SMP Fri Apr 26 12:29:36 UTC 2024",
            ),
        ],
        (_, Distro::Rocky9) => &[(
            "5.14.0-362.8.1.el9_3.x86_64",
            "#1 SMP PREEMPT_DYNAMIC Wed Nov 8 17:36:32 UTC 2023",
        )],
        (_, Distro::Centos7) => &[
            ("3.10.0-1160.el7.x86_64", "#1 SMP Mon Oct 19 16:18:59 UTC 2020"),
            (
                "3.10.0-1160.118.1.el7.x86_64",
                "#1 SMP Wed Apr 24 16:01:50 UTC 2024",
            ),
        ],
        (_, Distro::Alpine) => &[(
            "6.6.14-0-lts",
            "#1-Alpine SMP PREEMPT_DYNAMIC Fri, 26 Jan 2024 11:08:07 +0000",
        )],
        (_, Distro::Fedora) => &[(
            "6.5.6-300.fc39.x86_64",
            "#1 SMP PREEMPT_DYNAMIC Fri Oct  6 19:57:21 UTC 2023",
        )],
        (_, Distro::Kali) => &[
            (
                "6.6.9-amd64",
                "#1 SMP PREEMPT_DYNAMIC Kali 6.6.9-1kali1 (2024-01-08)",
            ),
            (
                "6.8.11-amd64",
                "#1 SMP PREEMPT_DYNAMIC Kali 6.8.11-1kali2 (2024-05-30)",
            ),
        ],
        (_, Distro::Arch) => &[(
            "6.9.3-arch1-1",
            "#1 SMP PREEMPT_DYNAMIC Fri, 31 May 2024 15:14:45 +0000",
        )],
    };
    // All options of a machine are drawn alike, so that ssh and telnet tell the same.
    let drawn = identity.number("host.kernel", 0..=options.len() as u64 - 1);
    options[usize::try_from(drawn).unwrap_or(0)]
}
