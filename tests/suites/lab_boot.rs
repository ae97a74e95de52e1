//! What lab hosts promise to the suites that use them.

use std::time::Duration;

use anyhow::{Result, ensure};
use decnet_tests::lab::Lab;

#[test]
fn a_lab_host_is_a_debian_with_systemd_docker_and_the_kernel_that_deckies_need() -> Result<()> {
    let lab = Lab::new("boot")?;
    let host = lab.host("w1").boot()?;
    for (script, expected) in [
        ("cat /proc/1/comm", "systemd"),
        ("hostname", "w1"),
        (
            "docker info --format '{{.CgroupVersion}} {{.Driver}}'",
            "2 overlay2",
        ),
        (
            "update-alternatives --query iptables | sed -n 's/^Value: //p'",
            "/usr/sbin/iptables-legacy",
        ),
        ("systemctl --failed --no-legend", ""),
        // Nothing of the machine but the share.
        ("ls /lab", "boots\nfiles\njobs"),
        (
            "for driver in macvlan ipvlan; do
                ip link add x0 link vec0 type $driver && ip link del x0 || echo \"no $driver\"
             done",
            "",
        ),
    ] {
        let said = host.ok(script)?;
        ensure!(said.trim() == expected, "{script}: {said:?}, not {expected:?}");
    }
    ensure!(
        host.ok("ip -br link show vec0")?.contains("PROMISC"),
        "vec0 takes its own MAC only"
    );

    // Commands.
    let said = host.run("echo out; echo err >&2; exit 7")?;
    ensure!(
        (said.stdout.as_str(), said.stderr.as_str(), said.code()) == ("out\n", "err\n", Some(7)),
        "{said:?}"
    );
    let Err(late) = host.run_for("sleep 60", Duration::from_secs(1)) else {
        anyhow::bail!("a command went on beyond its limit");
    };
    ensure!(format!("{late:#}").contains("did not end within 1 s"), "{late:#}");

    // Files, with every byte and with their mode.
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let (there, back) = (lab.folder().join("there"), lab.folder().join("back"));
    std::fs::write(&there, &bytes)?;
    host.put(&there, "/opt/new folder/file")?;
    host.get("/opt/new folder/file", &back)?;
    ensure!(std::fs::read(&back)? == bytes, "the file came back changed");

    // The LAN: the namespace reaches the host, and that MAC is the host's.
    ensure!(host.ok("cat /sys/class/net/vec0/address")?.trim() == lab.mac_of(host.address())?);
    Ok(())
}

#[test]
fn a_reboot_keeps_the_disk_and_a_power_cut_loses_what_was_not_written() -> Result<()> {
    let lab = Lab::new("power")?;
    let [one, two] = lab.boot([lab.host("w1"), lab.host("w2").memory(640)])?;
    ensure!(
        one.ok("cat /etc/machine-id")? != two.ok("cat /etc/machine-id")?,
        "two hosts are one to whoever looks at their ids"
    );
    one.ok(&format!("ping -c1 -W5 {}", two.address()))?;

    one.ok("echo kept >/root/kept; sync; echo lost >/root/lost")?;
    let id = one.ok("cat /proc/sys/kernel/random/boot_id")?;
    one.power_cut()?;
    ensure!(one.run("true").is_err(), "a host that is off runs commands");
    let pinged = two.run(&format!("ping -c1 -W1 {}", one.address()))?;
    ensure!(pinged.code() == Some(1), "a host that is off answers");
    let boot = one.boot_again()?;
    ensure!(boot.state == "running" && boot.id != id.trim(), "{boot:?}");
    ensure!(one.ok("ls /root")?.trim() == "kept", "the power cut was none");

    one.ok("echo kept >/root/lost")?;
    let again = one.reboot()?;
    ensure!(again.state == "running" && again.id != boot.id, "{again:?}");
    ensure!(one.ok("cat /root/lost")?.trim() == "kept", "a reboot lost a file");
    println!(
        "boot {:.1} s after a power cut, reboot {:.1} s",
        boot.took.as_secs_f32(),
        again.took.as_secs_f32()
    );

    one.shut_down()?;
    ensure!(
        two.ok("docker ps -q")?.is_empty(),
        "the other host has nothing to do with it"
    );
    Ok(())
}
