//! The script as shells run it, with programs in the place of the host's that write down what they were asked.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::{HostSettings, Installer};
use crate::serve::packages::Packages;

const TOKEN: &str = "decnet1.c2VjcmV0";
const SETTINGS: HostSettings = HostSettings {
    ipvlan: true,
    updater: false,
};
/// What `sh` is on Debian, and on RHEL.
const SHELLS: [&[&str]; 2] = [&["dash"], &["bash", "--posix"]];
/// Programs that the script may use as they are.
const OWN: [&str; 9] = [
    "cat",
    "head",
    "tail",
    "mktemp",
    "rm",
    "sha256sum",
    "uname",
    "echo",
    "printf",
];

/// A master's packages, and a host's programs.
struct Host {
    folder: tempfile::TempDir,
    installer: Installer,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let packages = folder.path().join("packages");
        std::fs::create_dir(&packages).unwrap();
        std::fs::write(packages.join("decnet-agent_1.0-1_amd64.deb"), [7; 5000]).unwrap();
        std::fs::write(packages.join("decnet-agent-1.0-1.x86_64.rpm"), [9; 3000]).unwrap();
        let mut installer = Installer::new(Packages::load(&packages).unwrap(), "master.example:8771");
        installer.script = elsewhere(&installer.script);
        let host = Self { folder, installer };
        for name in ["bin", "tmp", "systemd"] {
            std::fs::create_dir(host.path(name)).unwrap();
        }
        for name in OWN {
            let found = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(name));
            let found = found.into_iter().find(|path| path.exists()).expect(name);
            std::os::unix::fs::symlink(found, host.path("bin").join(name)).unwrap();
        }
        std::fs::write(host.path("script"), &host.installer.script).unwrap();
        // The last part of an address names what is asked for.
        host.has(
            "curl",
            "for last; do :; done; case $last in */install/*) cat script ;; *) cat packages/*.deb ;; esac",
        );
        host.has("dpkg", "echo amd64");
        host.has(
            "dpkg-query",
            "[ \"$2\" = dpkg ] || { [ -e installed ] && printf 'install ok installed 1.0-1'; }",
        );
        host.has("apt-get", "for last; do :; done; sha256sum <\"$last\" >installed");
        host.has("decnet-agent", "case $1 in enroll) cat >>tokens ;; esac");
        host.has("sudo", "exec \"$@\"");
        for name in ["dockerd", "systemctl"] {
            host.has(name, "");
        }
        host.has("id", "echo 0");
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A program that writes down what it is asked, and does something.
    fn has(&self, name: &str, does: &str) {
        let text = self.path("text");
        std::fs::write(&text, format!("#!/bin/sh\necho \"{name} $*\" >>asked\n{does}\n")).unwrap();
        // A file that this process has written may still be open in a child of another thread, and cannot be run meanwhile.
        let mut install = Command::new("install");
        install.arg("-m755").arg(text).arg(self.path("bin").join(name));
        assert!(install.status().unwrap().success(), "{name}");
    }

    fn lacks(&self, name: &str) {
        std::fs::remove_file(self.path("bin").join(name)).unwrap();
    }

    /// Has a shell read a script by standard input, and forgets what was done before.
    fn runs(&self, shell: &[&str], script: &str) -> Output {
        self.with(shell, &[], script)
    }

    fn with(&self, shell: &[&str], arguments: &[&str], script: &str) -> Output {
        for name in ["asked", "tokens", "installed"] {
            let _ = std::fs::remove_file(self.path(name));
        }
        self.again(shell, arguments, script)
    }

    fn again(&self, shell: &[&str], arguments: &[&str], script: &str) -> Output {
        let program = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(shell[0]));
        let program = program.into_iter().find(|path| path.exists()).expect(shell[0]);
        // The line calls `sh`, which is this shell; bash is as POSIX has it where it is called so.
        let sh = self.path("bin").join("sh");
        let _ = std::fs::remove_file(&sh);
        std::os::unix::fs::symlink(&program, sh).unwrap();
        let mut child = Command::new(program)
            .args(&shell[1..])
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("TMPDIR", self.path("tmp"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that needs no more closes it.
        let _ = child.stdin.take().unwrap().write_all(script.as_bytes());
        let output = child.wait_with_output().unwrap();
        let left: Vec<_> = std::fs::read_dir(self.path("tmp")).unwrap().collect();
        assert!(left.is_empty(), "{left:?} is left: {output:?}");
        output
    }

    fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Whether anything of the host's was touched.
    fn is_untouched(&self) -> bool {
        let asked = self.said("asked");
        !asked.lines().any(|line| {
            ["apt-get ", "decnet-agent ", "systemctl "]
                .iter()
                .any(|program| line.starts_with(program))
        })
    }
}

/// The script as if the machine that runs this had systemd, and no engine.
fn elsewhere(script: &str) -> String {
    script
        .replace("/run/systemd/system", "systemd")
        .replace("/var/run/docker.sock", "docker.sock")
}

fn fails(output: &Output, says: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(says), "{output:?}");
}

#[test]
fn the_line_installs_enrols_and_starts_and_the_token_is_in_no_command_line() {
    let host = Host::new();
    let line = host.installer.line(TOKEN, SETTINGS).unwrap();
    assert!(
        !line.contains('\n') && line.starts_with("curl ") && line.ends_with("| sudo sh"),
        "{line}"
    );
    for shell in SHELLS {
        let output = host.runs(shell, &line);
        assert!(output.status.success(), "{shell:?}: {output:?}");
        assert_eq!(host.said("tokens"), format!("{TOKEN}\n"), "{shell:?}");
        let asked = host.said("asked");
        let agent: Vec<_> = asked
            .lines()
            .filter(|line| line.starts_with("decnet-agent "))
            .collect();
        assert_eq!(
            agent,
            [
                "decnet-agent enroll - --ipvlan=true --updater=false",
                "decnet-agent status --wait 90"
            ]
        );
        assert!(
            asked.contains("systemctl enable --quiet --now decnet-agent"),
            "{asked}"
        );
        assert!(!asked.contains(TOKEN), "{asked}");
        // What was installed is what the master has.
        let deb = &host.installer.packages().all()[0];
        assert!(host.said("installed").starts_with(deb.digest.hex()), "{shell:?}");
        // Once more: the package is there.
        let output = host.again(shell, &[], &line);
        assert!(output.status.success(), "{shell:?}: {output:?}");
        assert_eq!(host.said("asked").matches("apt-get").count(), 1, "{shell:?}");
    }
}

#[test]
fn a_script_that_was_cut_off_anywhere_does_nothing() {
    let host = Host::new();
    let file = elsewhere(&host.installer.carried(TOKEN, SETTINGS).unwrap().script);
    let line = host.installer.line(TOKEN, SETTINGS).unwrap();
    for shell in SHELLS {
        let end = file.len() - 1;
        let some = (0..end).step_by(97).chain(end - 150..end);
        for cut in some {
            std::fs::write(host.path("cut.sh"), &file[..cut]).unwrap();
            host.with(shell, &["cut.sh"], "");
            assert!(
                host.is_untouched(),
                "{shell:?}, after {cut} bytes of the file: {}",
                host.said("asked")
            );
        }
        // By the line, whatever came instead is not even begun.
        let script = &host.installer.script;
        let some = (0..script.len()).step_by(397).map(|cut| script[..cut].to_owned());
        for wrong in some.chain([format!("{script}\nid"), script.replace("umask 077", "umask 000")]) {
            std::fs::write(host.path("script"), &wrong).unwrap();
            fails(&host.runs(shell, &line), "is not what the master meant");
            assert!(
                host.is_untouched() && !host.said("asked").contains("id "),
                "{shell:?}: {wrong}"
            );
        }
        std::fs::write(host.path("script"), script).unwrap();
    }
}

#[test]
fn a_file_carries_the_packages_and_asks_nobody() {
    let host = Host::new();
    host.lacks("curl");
    let carried = host.installer.carried(TOKEN, SETTINGS).unwrap();
    let mut file = elsewhere(&carried.script).into_bytes();
    for package in carried.packages {
        file.extend(std::fs::read(&package.path).unwrap());
    }
    std::fs::write(host.path("far.sh"), &file).unwrap();
    let digests: BTreeMap<_, _> = carried
        .packages
        .iter()
        .map(|one| (one.kind.as_str(), one.digest.hex()))
        .collect();
    for shell in SHELLS {
        let output = host.with(shell, &["far.sh"], "");
        assert!(output.status.success(), "{shell:?}: {output:?}");
        assert!(
            host.said("installed").starts_with(digests["deb-amd64"]),
            "{shell:?}"
        );
        assert_eq!(host.said("tokens"), format!("{TOKEN}\n"), "{shell:?}");
        let asked = host.said("asked");
        assert!(
            asked.contains("enroll - --later --ipvlan=true --updater=false") && !asked.contains(TOKEN),
            "{asked}"
        );
        let lost = file.len() - 1;
        std::fs::write(host.path("cut.sh"), &file[..lost]).unwrap();
        fails(&host.with(shell, &["cut.sh"], ""), "did not come whole");
        assert!(host.is_untouched(), "{shell:?}: {}", host.said("asked"));
        // By standard input there is no file that the packages could come out of.
        let script = String::from_utf8_lossy(&file[..file.len() - 8000]).into_owned();
        fails(&host.runs(shell, &script), "decnet: ");
        assert!(host.is_untouched(), "{shell:?}: {}", host.said("asked"));
    }
}

#[test]
fn each_failure_says_what_it_is_and_leaves_nothing() {
    let shell = SHELLS[0];
    let says = |shape: &dyn Fn(&Host), text: &str| {
        let host = Host::new();
        shape(&host);
        let line = host.installer.line(TOKEN, SETTINGS).unwrap();
        fails(&host.runs(shell, &line), text);
        host
    };
    let untouched = |shape: &dyn Fn(&Host), text: &str| {
        let host = says(shape, text);
        assert!(host.is_untouched(), "{text}: {}", host.said("asked"));
    };
    untouched(&|host| host.has("id", "echo 1000"), "which only root may");
    untouched(
        &|host| host.has("dpkg", "echo riscv64"),
        "no package for this host (deb-riscv64). It has: deb-amd64 rpm-x86_64",
    );
    untouched(
        &|host| host.lacks("dpkg-query"),
        "there is neither dpkg nor rpm here",
    );
    untouched(
        &|host| {
            host.has(
                "curl",
                "for last; do :; done; case $last in */install/*) cat script ;; *) echo x ;; esac",
            );
        },
        "the package is not the one that was meant",
    );
    untouched(&|host| host.lacks("dockerd"), "there is no Docker Engine here");
    says(
        &|host| host.has("apt-get", "exit 100"),
        "the package could not be installed",
    );
    let host = says(
        &|host| host.has("decnet-agent", "exit 1"),
        "this host is not enrolled",
    );
    assert!(
        !host.said("asked").contains("systemctl"),
        "{}",
        host.said("asked")
    );
    says(
        &|host| host.has("systemctl", "exit 1"),
        "decnet-agent does not start",
    );
    says(
        &|host| host.has("decnet-agent", "[ \"$1\" = enroll ]"),
        "the master has not heard from it",
    );
}

#[test]
fn an_rpm_is_installed_where_rpm_keeps_the_hosts_packages() {
    let host = Host::new();
    // Debian's tools are there, and know of no package.
    host.has("dpkg-query", "exit 1");
    host.lacks("uname");
    host.has("uname", "echo x86_64");
    let install = "case $1 in -q) [ -e installed ] && printf 1.0-1 ;; -U) [ \"$2\" = --test ] || sha256sum <\"$2\" >installed ;; esac";
    host.has("rpm", install);
    host.has(
        "curl",
        "for last; do :; done; case $last in */install/*) cat script ;; *) cat packages/*.rpm ;; esac",
    );
    let line = host.installer.line(TOKEN, SETTINGS).unwrap();
    for shell in SHELLS {
        let output = host.runs(shell, &line);
        assert!(output.status.success(), "{shell:?}: {output:?}");
        let rpm = &host.installer.packages().all()[1];
        assert!(host.said("installed").starts_with(rpm.digest.hex()));
    }
    // What it needs is not there: whoever can get it is asked.
    host.has("rpm", "[ \"$1\" = -q ] && exit 1; exit 2");
    host.has("dnf", "for last; do :; done; sha256sum <\"$last\" >installed");
    let output = host.runs(SHELLS[0], &line);
    assert!(output.status.success(), "{output:?}");
    assert!(
        host.said("asked").contains("dnf install -y -q"),
        "{}",
        host.said("asked")
    );
}

#[test]
fn without_packages_there_is_neither_a_line_nor_a_file_nor_a_script() {
    let installer = Installer::new(Packages::default(), "master.example:8771");
    assert_eq!(installer.line(TOKEN, SETTINGS), None);
    assert!(installer.carried(TOKEN, SETTINGS).is_none());
    assert!(installer.script(&super::digest_of(&installer.script)).is_none());
}
