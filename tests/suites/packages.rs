//! What the packages promise, in Debians that are thrown away: contents, modes, dependencies, and every way from one version to
//! another or to none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use decnet_tests::command::{program, run};
use decnet_tests::debian::Debian;
use decnet_tests::packages::{EPOCH, pack, project, source_in};
use tempfile::TempDir;

/// For what takes seconds on an idle machine.
const LIMIT: Duration = Duration::from_secs(300);

const AGENT: &str = "/mnt/decnet-agent_1.0.0-1_amd64.deb";
const NEXT_AGENT: &str = "/mnt/decnet-agent_1.1.0-1_amd64.deb";
const MASTER: &str = "/mnt/decnet_1.0.0-1_amd64.deb";
const NEXT_MASTER: &str = "/mnt/decnet_1.1.0-1_amd64.deb";
const AGENT_RPM: &str = "/mnt/decnet-agent-1.0.0-1.x86_64.rpm";
const NEXT_AGENT_RPM: &str = "/mnt/decnet-agent-1.1.0-1.x86_64.rpm";
const MASTER_RPM: &str = "/mnt/decnet-1.0.0-1.x86_64.rpm";

/// Writes down what packages ask of systemd. Links are made and removed by systemd's own program, which needs nothing that
/// runs; of the rest it says that every unit is enabled and runs.
const SYSTEMD: &str = r#"mkdir -p /run/systemd/system
[ ! -e /usr/bin/systemctl ] || mv /usr/bin/systemctl /usr/bin/systemctl.real
cat >/usr/bin/systemctl <<'END'
#!/bin/sh
case " $* " in
*" is-enabled "*) echo enabled ;;
*" is-active "*) ;;
*" preset "* | *" enable "* | *" disable "*)
    echo "$*" >>/var/log/asked
    SYSTEMD_OFFLINE=1 exec /usr/bin/systemctl.real "$@"
    ;;
*) echo "$*" >>/var/log/asked ;;
esac
END
chmod 755 /usr/bin/systemctl
: >/var/log/asked"#;

#[test]
fn the_same_programs_give_the_same_packages_wherever_they_are_built() -> Result<()> {
    let built = built()?;
    let again = tempfile::tempdir()?;
    let source = source_in(&again.path().join("another/folder"))?;
    for format in ["deb", "rpm"] {
        let mut command = pack(
            format,
            "decnet-agent",
            "1.0.0",
            &source,
            &again.path().join("out"),
        )?;
        // Nothing of the builder's surroundings is in it.
        command.env("TZ", "Pacific/Chatham").env("LC_ALL", "C.UTF-8");
        for (home, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            let at_home = || std::env::home_dir().unwrap_or_default().join(folder);
            command.env(home, std::env::var_os(home).map_or_else(at_home, PathBuf::from));
        }
        command.env("HOME", again.path()).env("TMPDIR", again.path());
        let line = ["umask 077; exec".to_owned(), shell_words(&command)].join(" ");
        let mut command = inherit(program("bash", &["-c", &line]), &command);
        let path = run(&mut command, LIMIT)?.ok()?;
        let path = Path::new(path.trim());
        let name = path.file_name().context("a package without a name")?;
        ensure!(
            std::fs::read(path)? == std::fs::read(built.join(name))?,
            "two builds of {} differ",
            name.display()
        );
    }
    Ok(())
}

#[test]
fn the_masters_package_holds_the_agents_packages_that_it_is_given() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let given = [
        "decnet-agent_1.0.0-1_amd64.deb",
        "decnet-agent-1.0.0-1.x86_64.rpm",
    ];
    let mut command = pack("tree", "decnet", "1.0.0", &project(), &folder.path().join("tree"))?;
    command.args(["--format", "deb"]);
    for name in given {
        std::fs::write(folder.path().join(name), name)?;
        command.arg("--agent-package").arg(folder.path().join(name));
    }
    let manifest = run(&mut command, LIMIT)?.ok()?;
    for name in given {
        let path = format!("usr/share/decnet/packages/{name}");
        ensure!(
            manifest
                .lines()
                .any(|line| line.starts_with("0644 ") && line.ends_with(&path)),
            "{name} is not in it: {manifest}"
        );
        ensure!(std::fs::read_to_string(folder.path().join("tree").join(path))? == name);
    }
    Ok(())
}

#[test]
fn programs_are_hardened_and_stripped() -> Result<()> {
    let debian = debian()?;
    debian.ok(&format!("dpkg -i {AGENT} {MASTER}"))?;
    for name in ["decnet-agent", "decnet"] {
        let folder = tempfile::tempdir()?;
        let path = built()?.join(format!("{name}_1.0.0-1_amd64.deb"));
        let deb = path.to_str().context("UTF-8")?;
        let to = folder.path().to_str().context("UTF-8")?;
        run(&mut program("dpkg-deb", &["-x", deb, to]), LIMIT)?.ok()?;
        let binary = format!("{to}/usr/bin/{name}");
        let said = run(&mut program("readelf", &["-hldSW", &binary]), LIMIT)?.ok()?;
        let line = |what: &str| said.lines().find(|line| line.contains(what)).unwrap_or_default();
        ensure!(
            line("Type:").contains("DYN"),
            "{name} is no PIE: {}",
            line("Type:")
        );
        ensure!(
            line("FLAGS_1").contains("NOW"),
            "{name} binds late: {}",
            line("FLAGS_1")
        );
        ensure!(
            line("FLAGS_1").contains("PIE"),
            "{name} is no PIE: {}",
            line("FLAGS_1")
        );
        ensure!(!line("GNU_RELRO").is_empty(), "{name} has no RELRO");
        ensure!(
            line("GNU_STACK").contains(" RW "),
            "{name}'s stack: {}",
            line("GNU_STACK")
        );
        ensure!(
            line("RUNPATH").is_empty() && line("RPATH").is_empty(),
            "{name} has a path of libraries"
        );
        ensure!(line(".symtab").is_empty(), "{name} is not stripped");
    }
    Ok(())
}

#[test]
fn files_have_their_places_modes_and_owners_and_nothing_is_anybodys_to_write() -> Result<()> {
    let debian = debian()?;
    debian.ok(&format!("umask 077; dpkg -i {AGENT} {MASTER}"))?;
    let said = debian.ok("dpkg -L decnet decnet-agent | sort -u | xargs stat -c '%n %a %U:%G %F'")?;
    for line in said.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let wanted = match words[..] {
            [path, mode, owner, ..] if path.starts_with("/usr/bin/") => (mode, owner) == ("755", "root:root"),
            [_, mode, owner, "directory"] => (mode, owner) == ("755", "root:root"),
            [_, mode, owner, ..] => (mode, owner) == ("644", "root:root"),
            _ => false,
        };
        ensure!(wanted, "{line}");
    }
    let listed: Vec<_> = said.lines().filter_map(|line| line.split(' ').next()).collect();
    for path in [
        "/usr/bin/decnet",
        "/usr/bin/decnet-agent",
        "/usr/lib/systemd/system/decnet-agent.service",
        "/usr/lib/systemd/system/decnet-master.service",
        "/usr/lib/systemd/system/decnet-updater.path",
        "/usr/lib/systemd/system/decnet-updater.service",
        "/usr/lib/systemd/system/decnet.target",
        "/etc/decnet/decnet.ini",
        "/etc/decnet/catalogue.d",
        "/usr/share/decnet/decoy-image.tar",
        "/usr/share/decnet/decoy-image.json",
        "/usr/share/decnet/catalogue/services.toml",
        "/usr/share/man/man1/decnet.1.gz",
        "/usr/share/man/man1/decnet-deploy.1.gz",
        "/usr/share/man/man1/decnet-agent.1.gz",
        "/usr/share/man/man1/decnet-agent-compose-up.1.gz",
        "/usr/share/bash-completion/completions/decnet",
        "/usr/share/zsh/vendor-completions/_decnet-agent",
        "/usr/share/fish/vendor_completions.d/decnet-agent.fish",
        "/usr/share/doc/decnet/copyright",
        "/usr/share/doc/decnet/third-party.gz",
        "/usr/share/doc/decnet-agent/third-party.gz",
        "/usr/share/doc/decnet-agent/changelog.gz",
    ] {
        ensure!(listed.contains(&path), "{path} is in no package");
    }
    for (path, wanted) in [
        ("/var/lib/decnet", "755 root:root"),
        ("/var/lib/decnet/agent", "700 root:root"),
        ("/var/log/decnet", "750 root:root"),
    ] {
        expect(&debian, &format!("stat -c '%a %U:%G' {path}"), wanted)?;
    }
    // Whoever begins the fleet makes it, and systemd gives it to its user.
    debian.ok("test ! -e /var/lib/decnet/master")?;
    expect(
        &debian,
        "getent passwd decnet | cut -d: -f6,7",
        "/var/lib/decnet/master:/usr/sbin/nologin",
    )?;
    // Every page says how programs end, and is one that man can read.
    debian.ok("zgrep -q 'this host is not enrolled' /usr/share/man/man1/decnet-agent.1.gz")?;
    // What programs are linked with is named, with the texts that its licences ask for.
    debian.ok(
        "zgrep -q '^ring .*: Apache-2.0 AND ISC$' /usr/share/doc/decnet-agent/third-party.gz
         zgrep -q '^bytes [0-9.]*: MIT$' /usr/share/doc/decnet-agent/third-party.gz
         zgrep -q 'WITHOUT WARRANTY OF ANY KIND' /usr/share/doc/decnet-agent/third-party.gz
         zgrep -q '^russh .*, used under Apache-2.0$' /usr/share/doc/decnet/third-party.gz",
    )?;
    // The settings that are shipped are settings that the agent takes.
    let refused = debian.run("decnet-agent status")?;
    ensure!(
        refused.code() == Some(3),
        "with the shipped decnet.ini: {}",
        refused.said()
    );
    intact(&debian)
}

#[test]
fn an_agent_needs_an_engine_of_any_make_and_a_master_needs_none() -> Result<()> {
    let debian = debian()?;
    debian.ok("dpkg -r --force-depends docker.io")?;
    debian.ok(&format!("dpkg -i {MASTER}"))?;
    let refused = debian.run(&format!("dpkg -i {AGENT}"))?;
    ensure!(
        !refused.status.success(),
        "an agent without an engine was configured"
    );
    ensure!(
        refused.said().contains("depends on docker.io"),
        "{}",
        refused.said()
    );
    debian.ok(
        "mkdir -p /tmp/engine/DEBIAN
         printf 'Package: moby-engine\\nVersion: 1\\nArchitecture: all\\nMaintainer: Nobody <n@n>\\nDescription: engine\\n' \
             >/tmp/engine/DEBIAN/control
         dpkg-deb -b /tmp/engine /tmp/engine.deb
         dpkg -i /tmp/engine.deb
         dpkg --configure -a",
    )?;
    expect(&debian, STATE_OF_AGENT, "install ok installed 1.0.0-1")
}

#[test]
fn installed_again_upgraded_and_downgraded_a_package_is_whole_and_state_and_settings_stay() -> Result<()> {
    let debian = debian()?;
    debian.ok(&format!("dpkg -i {AGENT} {MASTER}"))?;
    debian.ok("echo mine >/var/lib/decnet/agent/ledger
         mkdir /var/lib/decnet/master && echo mine >/var/lib/decnet/master/store
         echo mine >/etc/decnet/catalogue.d/mine.toml
         echo mine >/var/log/decnet/mine
         chmod 750 /var/lib/decnet/agent
         printf '; mine\\n' >>/etc/decnet/decnet.ini")?;
    debian.ok(SYSTEMD)?;
    for (agent, master, version, restarted) in [
        (AGENT, MASTER, "1.0.0-1", "the same version again"),
        (NEXT_AGENT, NEXT_MASTER, "1.1.0-1", "an upgrade"),
        (AGENT, MASTER, "1.0.0-1", "a downgrade"),
    ] {
        debian.ok(&format!(
            ": >/var/log/asked; dpkg --force-confold --force-downgrade -i {agent} {master}"
        ))?;
        expect(
            &debian,
            STATE_OF_AGENT,
            &format!("install ok installed {version}"),
        )?;
        intact(&debian)?;
        // Deckies run on either way; what must not be is an agent that is stopped and not started.
        let asked = debian.ok("cat /var/log/asked")?;
        for unit in ["decnet-agent.service", "decnet-master.service"] {
            ensure!(asked.contains(&format!("restart {unit}")), "{restarted}: {asked}");
        }
        ensure!(!asked.contains("stop"), "{restarted} stops: {asked}");
        expect(&debian, "tail -n 1 /etc/decnet/decnet.ini", "; mine")?;
        expect(
            &debian,
            "cat /var/lib/decnet/agent/ledger /var/lib/decnet/master/store /etc/decnet/catalogue.d/mine.toml /var/log/decnet/mine",
            "mine\nmine\nmine\nmine",
        )?;
        expect(&debian, "stat -c %a /var/lib/decnet/agent", "750")?;
        if version == "1.1.0-1" {
            // What the next version ships lies beside what the administrator has.
            debian.ok("grep -q 'of the next version' /etc/decnet/decnet.ini.dpkg-dist")?;
        }
    }
    Ok(())
}

#[test]
fn removed_a_package_leaves_state_and_settings_and_purged_only_the_logs() -> Result<()> {
    let debian = debian()?;
    debian.ok(&format!("dpkg -i {AGENT} {MASTER}"))?;
    debian.ok("echo mine >/var/lib/decnet/agent/ledger
         mkdir /var/lib/decnet/master && echo mine >/var/lib/decnet/master/store
         echo mine >/etc/decnet/catalogue.d/mine.toml; echo mine >/var/log/decnet/mine")?;
    debian.ok(SYSTEMD)?;
    let wants = "find /etc/systemd /var/lib/systemd -name '*decnet*'";
    ensure!(!debian.ok(wants)?.is_empty(), "the units were not enabled");

    debian.ok("dpkg -r decnet-agent decnet")?;
    expect(&debian, wants, "")?;
    let asked = debian.ok("cat /var/log/asked")?;
    for unit in ["decnet-agent.service", "decnet-master.service"] {
        ensure!(asked.contains(&format!("stop {unit}")), "{asked}");
    }
    expect(
        &debian,
        "ls /usr/bin | grep decnet; find /usr -name '*decnet*'",
        "",
    )?;
    debian.ok("test -e /var/lib/decnet/agent/ledger -a -e /var/lib/decnet/master/store -a -e /etc/decnet/decnet.ini")?;

    // A package that comes back takes up where it was.
    debian.ok(&format!(": >/var/log/asked; dpkg -i {AGENT} {MASTER}"))?;
    ensure!(!debian.ok(wants)?.is_empty(), "the units are not enabled again");
    let asked = debian.ok("cat /var/log/asked")?;
    ensure!(asked.contains("start decnet-agent.service"), "{asked}");

    debian.ok("dpkg --purge decnet-agent")?;
    debian.ok("test -e /var/lib/decnet/master/store -a -e /etc/decnet/catalogue.d/mine.toml -a ! -e /etc/decnet/decnet.ini")?;
    debian.ok("dpkg --purge decnet")?;
    expect(
        &debian,
        "find / -xdev -path /mnt -prune -o -name '*decnet*' -print",
        "/var/log/decnet",
    )?;
    expect(&debian, "cat /var/log/decnet/mine", "mine")?;
    expect(&debian, "dpkg -l | grep -c decnet", "0")
}

#[test]
fn a_link_to_another_disk_is_not_followed_when_purging() -> Result<()> {
    let debian = debian()?;
    debian.ok("mkdir -p /srv/agent /var/lib/decnet && echo mine >/srv/agent/ledger && ln -s /srv/agent /var/lib/decnet/agent")?;
    debian.ok(&format!("dpkg -i {AGENT} && dpkg --purge decnet-agent"))?;
    expect(
        &debian,
        "cat /srv/agent/ledger; ls /var/lib | grep -c decnet",
        "mine\n0",
    )
}

/// Does what has to fail.
fn breaks_off(debian: &Debian, script: &str) -> Result<()> {
    let broken = debian.run(script)?;
    ensure!(!broken.status.success(), "nothing broke off: {script}");
    Ok(())
}

#[test]
fn what_broke_off_is_ended_by_configuring_or_installing_again() -> Result<()> {
    let debian = debian()?;
    // The scripts: something else stands where a folder is to be.
    debian.ok("touch /var/log/decnet")?;
    breaks_off(&debian, &format!("dpkg -i {AGENT}"))?;
    expect(&debian, STATE_OF_AGENT, "install ok half-configured 1.0.0-1")?;
    debian.ok("rm /var/log/decnet; dpkg --configure -a")?;
    expect(&debian, STATE_OF_AGENT, "install ok installed 1.0.0-1")?;

    // The upgrade: there is no room for the program. dpkg undoes what it did, and the one of before is whole.
    breaks_off(
        &debian,
        &format!("trap \"\" XFSZ; ulimit -f 4000; dpkg -i {NEXT_AGENT}"),
    )?;
    expect(&debian, STATE_OF_AGENT, "install ok installed 1.0.0-1")?;
    intact(&debian)?;

    // Again, and dpkg is killed in the middle of the program's own file.
    debian.ok(r#"cat >/usr/local/sbin/dpkg-deb <<'END'
#!/bin/sh
case "$*" in
*--fsys-tarfile*) /usr/bin/dpkg-deb "$@" | head -c 5000000; kill -9 $PPID ;;
*) exec /usr/bin/dpkg-deb "$@" ;;
esac
END
chmod 755 /usr/local/sbin/dpkg-deb"#)?;
    breaks_off(&debian, &format!("dpkg -i {NEXT_AGENT}"))?;
    debian.ok("decnet-agent --version; rm /usr/local/sbin/dpkg-deb")?;
    let state = debian.ok(STATE_OF_AGENT)?;
    ensure!(
        state.contains("reinstreq half-installed"),
        "dpkg ended in peace: {state}"
    );
    debian.ok(&format!("dpkg --force-confold -i {NEXT_AGENT}"))?;
    expect(&debian, STATE_OF_AGENT, "install ok installed 1.1.0-1")?;
    intact(&debian)?;

    // dpkg and the script are killed while it runs, and what is half there is purged.
    debian.ok("dpkg --purge decnet-agent; rm -rf /var/log/decnet")?;
    debian.ok(
        "printf '#!/bin/sh\\nkill -9 $(pidof dpkg) $PPID\\n' >/usr/local/sbin/install; chmod 755 /usr/local/sbin/install",
    )?;
    breaks_off(&debian, &format!("dpkg -i {AGENT}"))?;
    expect(&debian, STATE_OF_AGENT, "install ok half-configured 1.0.0-1")?;
    debian.ok("rm /usr/local/sbin/install; dpkg --purge decnet-agent")?;
    expect(
        &debian,
        "find / -xdev -path /mnt -prune -o -name '*decnet*' -print",
        "",
    )
}

#[test]
fn without_systemd_and_with_a_policy_against_services_packages_come_and_go() -> Result<()> {
    let debian = debian()?;
    // As in a container: no service manager, and not even its programs.
    debian.ok("rm -f /usr/bin/systemctl /usr/bin/systemd-* /bin/systemctl; rm -rf /run/systemd")?;
    debian.ok(&format!("dpkg -i {AGENT} {MASTER}"))?;
    debian.ok(&format!("dpkg --force-confold -i {NEXT_AGENT} {NEXT_MASTER}"))?;
    debian.ok("dpkg -r decnet-agent decnet && dpkg --purge decnet-agent decnet")?;
    // As while an image is made.
    debian.ok(SYSTEMD)?;
    debian.ok("printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d")?;
    debian.ok(&format!(
        "mkdir -p /var/lib/decnet/agent; touch /var/lib/decnet/agent/ledger; dpkg -i {AGENT}"
    ))?;
    let asked = debian.ok("cat /var/log/asked")?;
    ensure!(
        !asked.contains("start"),
        "started in spite of the policy: {asked}"
    );
    Ok(())
}

#[test]
fn a_unit_that_the_administrator_disabled_stays_so_and_one_without_state_is_not_started() -> Result<()> {
    let debian = debian()?;
    debian.ok(SYSTEMD)?;
    debian.ok(&format!("dpkg -i {AGENT} {MASTER}"))?;
    let asked = debian.ok("cat /var/log/asked")?;
    ensure!(asked.contains("daemon-reload"), "{asked}");
    ensure!(!asked.contains("start"), "started before enrolment: {asked}");
    debian.ok("rm /etc/systemd/system/*.wants/decnet-agent.service")?;
    debian.ok(&format!("dpkg --force-confold -i {NEXT_AGENT}"))?;
    expect(&debian, "find /etc/systemd -name decnet-agent.service", "")
}

#[test]
fn an_rpm_installs_upgrades_verifies_and_removes() -> Result<()> {
    let debian = debian()?;
    let rpm = |arguments: &str| format!("rpm --force-debian --nodeps {arguments}");
    debian.ok(SYSTEMD)?;
    debian.ok(&rpm(&format!("-i {AGENT_RPM} {MASTER_RPM}")))?;
    expect(&debian, "rpm -V --nodeps decnet-agent decnet", "")?;
    for (path, wanted) in [
        ("/var/lib/decnet/agent", "700 root:root"),
        ("/usr/bin/decnet-agent", "755 root:root"),
    ] {
        expect(&debian, &format!("stat -c '%a %U:%G' {path}"), wanted)?;
    }
    let asked = debian.ok("cat /var/log/asked")?;
    ensure!(asked.contains("preset decnet-agent.service"), "{asked}");
    ensure!(
        !asked.contains(" start") && !asked.contains("restart"),
        "started before enrolment: {asked}"
    );

    debian.ok("printf '; mine\\n' >>/etc/decnet/decnet.ini; echo mine >/var/lib/decnet/agent/ledger")?;
    for (arguments, version, what) in [
        (format!("-U {NEXT_AGENT_RPM}"), "1.1.0", "an upgrade"),
        (format!("-U --oldpackage {AGENT_RPM}"), "1.0.0", "a downgrade"),
        (
            format!("-U --replacepkgs {AGENT_RPM}"),
            "1.0.0",
            "the same version again",
        ),
    ] {
        debian.ok(": >/var/log/asked")?;
        debian.ok(&rpm(&arguments))?;
        expect(&debian, "rpm -q --qf '%{VERSION}' decnet-agent", version)?;
        let asked = debian.ok("cat /var/log/asked")?;
        ensure!(
            asked.contains("try-restart decnet-agent.service"),
            "{what}: {asked}"
        );
        ensure!(
            !asked.contains("stop") && !asked.contains("disable"),
            "{what}: {asked}"
        );
        // Only the settings differ from what was installed: S, 5 and T of a configuration file.
        let changed = debian.run("rpm -V --nodeps decnet-agent")?;
        ensure!(
            changed
                .stdout
                .lines()
                .all(|line| line.ends_with("c /etc/decnet/decnet.ini")),
            "{what}: {}",
            changed.said()
        );
        expect(&debian, "tail -n 1 /etc/decnet/decnet.ini", "; mine")?;
    }

    debian.ok(": >/var/log/asked")?;
    debian.ok(&rpm("-e decnet-agent decnet"))?;
    let asked = debian.ok("cat /var/log/asked")?;
    for unit in ["decnet-agent.service", "decnet-master.service"] {
        ensure!(asked.contains(&format!("stop {unit}")), "{asked}");
        ensure!(asked.contains(&format!("disable {unit}")), "{asked}");
    }
    expect(
        &debian,
        "rpm -qa | grep -c decnet; find /usr -name '*decnet*'",
        "0",
    )?;
    expect(
        &debian,
        "cat /var/lib/decnet/agent/ledger; tail -n 1 /etc/decnet/decnet.ini.rpmsave",
        "mine\n; mine",
    )
}

#[test]
fn an_rpm_works_without_systemd_and_names_what_it_needs() -> Result<()> {
    let debian = debian()?;
    debian.ok("rm -f /usr/bin/systemctl /bin/systemctl; rm -rf /run/systemd")?;
    let said = debian.ok(&format!(
        "rpm --force-debian --nodeps -i {AGENT_RPM} {MASTER_RPM} && rpm -V --nodeps decnet-agent decnet &&
         rpm --force-debian -e decnet-agent decnet"
    ))?;
    ensure!(said.is_empty(), "{said}");
    let needs = |path: &str| debian.ok(&format!("rpm -qp --requires {path}"));
    let (agent, master) = (needs(AGENT_RPM)?, needs(MASTER_RPM)?);
    ensure!(agent.contains("(moby-engine or docker-ce or docker"), "{agent}");
    ensure!(
        !master.contains("docker") && master.contains("libc.so.6(GLIBC_"),
        "{master}"
    );
    expect(
        &debian,
        &format!("rpm -qp --qf '%{{BUILDHOST}} %{{BUILDTIME}}' {AGENT_RPM}"),
        &format!("localhost {EPOCH}"),
    )
}

#[test]
fn debians_and_rpms_own_checkers_find_nothing() -> Result<()> {
    let built = built()?;
    let path = |name: &str| built.join(name).display().to_string();
    let debs = ["decnet-agent_1.0.0-1_amd64.deb", "decnet_1.0.0-1_amd64.deb"].map(path);
    let rpms = ["decnet-agent-1.0.0-1.x86_64.rpm", "decnet-1.0.0-1.x86_64.rpm"].map(path);
    let mut lintian = program("lintian", &["--allow-root", "--fail-on", "error,warning"]);
    // Those that a test installs are not compressed.
    lintian.arg("--suppress-tags");
    lintian.arg("uses-no-compression-for-control-tarball,uses-no-compression-for-data-tarball");
    let mut rpmlint = program("rpmlint", &["--strict", "-c"]);
    rpmlint.arg(project().join("packaging/rpm/rpmlint.toml"));
    for (checker, name) in [(lintian.args(debs), "lintian"), (rpmlint.args(rpms), "rpmlint")] {
        let said =
            run(checker, LIMIT).with_context(|| format!("{name} does not run: `make set-up` installs it"))?;
        ensure!(said.status.success(), "{name}: {}", said.said());
    }
    Ok(())
}

#[test]
fn a_unit_that_is_not_there_is_named_by_the_build() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let source = source_in(&folder.path().join("source"))?;
    std::fs::remove_file(source.join("systemd/decnet-agent.service"))?;
    let refused = run(
        &mut pack("deb", "decnet-agent", "1.0.0", &source, folder.path())?,
        LIMIT,
    )?;
    ensure!(!refused.status.success(), "it was built");
    ensure!(
        refused
            .said()
            .contains("systemd/decnet-agent.service is not there"),
        "{}",
        refused.said()
    );
    Ok(())
}

const STATE_OF_AGENT: &str = "dpkg-query -W -f '${Status} ${Version}' decnet-agent";

/// What a script prints is exactly this.
fn expect(debian: &Debian, script: &str, wanted: &str) -> Result<()> {
    let finished = debian.run(script)?;
    ensure!(
        finished.stdout.trim() == wanted,
        "{script}: {:?}, not {wanted:?}; {}",
        finished.stdout.trim(),
        finished.stderr
    );
    Ok(())
}

/// Every file is as the package has it, but for settings.
fn intact(debian: &Debian) -> Result<()> {
    let said = debian.run("dpkg --verify decnet-agent decnet")?.stdout;
    let changed: Vec<_> = said.lines().filter(|line| !line.contains(" c /etc/")).collect();
    ensure!(changed.is_empty(), "{changed:?}");
    expect(debian, "dpkg --audit", "")
}

fn debian() -> Result<Debian> {
    Debian::new(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian"), built()?)
}

/// The folder with all packages, which are built once.
fn built() -> Result<&'static Path> {
    static BUILT: OnceLock<Result<TempDir, String>> = OnceLock::new();
    BUILT
        .get_or_init(|| build().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map(TempDir::path)
        .map_err(|error| anyhow!(error.clone()))
}

fn build() -> Result<TempDir> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let next = source_in(&folder.path().join("next"))?;
    let settings = next.join("packaging/decnet-agent/decnet.ini");
    let changed = std::fs::read_to_string(&settings)? + "; of the next version\n";
    std::fs::write(settings, changed)?;
    for (version, source) in [("1.0.0", project()), ("1.1.0", next)] {
        for package in ["decnet-agent", "decnet"] {
            for format in ["deb", "rpm"] {
                run(
                    &mut pack(format, package, version, &source, folder.path())?,
                    LIMIT,
                )?
                .ok()?;
            }
        }
    }
    Ok(folder)
}

fn shell_words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted: Vec<_> = words
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    quoted.join(" ")
}

/// `to` with the environment that `from` sets.
fn inherit(mut to: Command, from: &Command) -> Command {
    let set: BTreeMap<_, _> = from
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    to.envs(set);
    to
}
