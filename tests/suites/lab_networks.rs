//! The networks that the machine's own kernel may lack, in a guest that has them all: ipvlan in every mode, VLANs, and
//! what cannot be together on one interface. As Compose projects, which need no nftables.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use decnet_tests::command::{SHORT, run};
use decnet_tests::lab::{Host, Lab};
use decnet_tests::processes::{bin, decoy_image, decoy_reference};
use serde_json::Value;

/// A guest with the agent's program and the decoy image.
struct Guest {
    host: Host,
    lab: Lab,
}

/// A project of two containers, at `prefix`.5 and `prefix`.6.
struct Net<'a> {
    driver: &'a str,
    mode: &'a str,
    parent: &'a str,
    prefix: &'a str,
}

impl Guest {
    fn new() -> Result<Self> {
        let lab = Lab::new("networks")?;
        let host = lab.host("net").boot()?;
        host.put(&bin("decnet-agent")?, "/usr/bin/decnet-agent")?;
        host.put(&decoy_image()?, "/opt/decoy.tar")?;
        host.ok("docker load -qi /opt/decoy.tar && modprobe 8021q")?;
        Ok(Self { host, lab })
    }

    fn write(&self, net: &Net<'_>) -> Result<()> {
        let Net {
            driver,
            mode,
            parent,
            prefix,
        } = net;
        let image = decoy_reference()?;
        let mut text = String::from("services:\n");
        for (name, last) in [("a", 5), ("b", 6)] {
            write!(
                text,
                "  {name}:\n    image: {image}\n    command: [pause]\n    networks:\n      lan:\n        \
                 ipv4_address: {prefix}.{last}\n"
            )?;
        }
        write!(
            text,
            "networks:\n  lan:\n    driver: {driver}\n    driver_opts:\n      parent: {parent}\n      \
             {driver}_mode: {mode}\n    ipam:\n      config:\n        - subnet: {prefix}.0/24\n"
        )?;
        // In layer 3 there is no gateway to reach, and the engine takes none.
        if !mode.starts_with("l3") {
            writeln!(text, "          gateway: {prefix}.1")?;
        }
        self.host.ok(&format!(
            "mkdir -p /opt/p && cat >/opt/p/compose.yaml <<'END'\n{text}END"
        ))?;
        Ok(())
    }

    fn compose(&self, command: &str) -> Result<decnet_tests::command::Finished> {
        self.host.run(&format!(
            "cd /opt/p && /usr/bin/decnet-agent compose -p nets -f compose.yaml {command}"
        ))
    }

    /// Up, and then nothing is left to do.
    fn up(&self, net: &Net<'_>) -> Result<()> {
        let what = format!("{} {} on {}", net.driver, net.mode, net.parent);
        self.write(net)?;
        self.compose("up")?.ok().with_context(|| what.clone())?;
        let again = self.compose("plan")?;
        ensure!(
            again.code() == Some(0),
            "{what}: something is left: {}",
            again.said()
        );
        let format = "{{.Driver}} {{json .Options}}";
        let seen = self
            .host
            .ok(&format!("docker network inspect --format '{format}' nets_lan"))?;
        ensure!(
            seen.contains(net.driver) && seen.contains(net.mode),
            "{what}: {seen}"
        );
        Ok(())
    }

    fn down(&self) -> Result<()> {
        self.compose("down")?.ok()?;
        let left = self
            .host
            .ok("docker ps -aq; docker network ls -q --filter name=nets_lan")?;
        ensure!(left.trim().is_empty(), "something stays: {left}");
        Ok(())
    }

    /// Whether the container reaches the address.
    fn reaches(&self, container: &str, address: &str) -> Result<bool> {
        let pid = self.pid(container)?;
        let said = self
            .host
            .run(&format!("nsenter -t {pid} -n ping -c 1 -W 3 {address}"))?;
        Ok(said.status.success())
    }

    fn pid(&self, container: &str) -> Result<String> {
        let pid = self.host.ok(&format!(
            "docker inspect --format '{{{{.State.Pid}}}}' nets-{container}-1"
        ))?;
        Ok(pid.trim().to_owned())
    }

    /// Whether a visitor on the LAN reaches the address, where nobody listens: he is refused, and by nobody else.
    fn visited(&self, address: &str) -> Result<bool> {
        // Under another driver it has another MAC address, which he would learn some seconds late.
        self.lab.forget_mac(address)?;
        let call = format!("exec 3<>/dev/tcp/{address}/9");
        let said = run(
            &mut self.lab.inside(&["timeout", "10", "bash", "-c", &call]),
            SHORT,
        )?;
        Ok(said.said().contains("refused"))
    }

    fn links(&self) -> Result<Vec<Value>> {
        Ok(serde_json::from_str(&self.host.ok("ip -d -j link")?)?)
    }

    /// The reason for which nothing is done.
    fn refused(&self, net: &Net<'_>, says: &[&str]) -> Result<()> {
        self.write(net)?;
        let said = self.compose("up")?;
        println!("{}", said.said().trim());
        ensure!(!said.status.success(), "it was done");
        ensure!(
            says.iter().all(|text| said.said().contains(text)),
            "{says:?} is not in {}",
            said.said()
        );
        let left = self
            .host
            .ok("docker ps -aq; docker network ls -q --filter name=nets_lan")?;
        ensure!(left.trim().is_empty(), "something was made: {left}");
        Ok(())
    }
}

#[test]
fn ipvlan_and_vlans_are_as_their_modes_say_and_leave_nothing_behind() -> Result<()> {
    let guest = Guest::new()?;
    let ipvlan = |mode: &'static str, prefix: &'static str| Net {
        driver: "ipvlan",
        mode,
        parent: "vec0",
        prefix,
    };
    let own = guest.host.ok("cat /sys/class/net/vec0/address")?;

    // The host's own LAN: neighbours ask for the address, and get the host's MAC.
    guest.up(&ipvlan("l2", "10.66.0"))?;
    ensure!(guest.visited("10.66.0.5")?, "nobody reaches ipvlan l2");
    ensure!(guest.reaches("a", "10.66.0.6")?, "two on ipvlan l2 do not meet");
    ensure!(
        guest.lab.mac_of("10.66.0.5")? == own.trim(),
        "another MAC than the host's"
    );

    // Another driver with the same addresses: the network is made anew.
    guest.up(&Net {
        driver: "macvlan",
        mode: "bridge",
        parent: "vec0",
        prefix: "10.66.0",
    })?;
    ensure!(guest.visited("10.66.0.5")?, "nobody reaches macvlan");
    ensure!(
        guest.lab.mac_of("10.66.0.5")? != own.trim(),
        "the MAC is the host's still"
    );
    guest.up(&ipvlan("l2", "10.66.0"))?;
    ensure!(guest.visited("10.66.0.5")?, "nobody reaches it any more");
    guest.down()?;

    // Another subnet than the parent's, to which the LAN has a route.
    let api = guest
        .host
        .ok("docker version --format '{{.Server.APIVersion}}'")?;
    let minor = api
        .trim()
        .strip_prefix("1.")
        .context("not API 1")?
        .parse::<u32>()?;
    let mut routed = vec![("l3", "10.67.3")];
    // Since Docker 23.0, API 1.42.
    if minor >= 42 {
        routed.push(("l3s", "10.67.4"));
    } else {
        guest.refused(&ipvlan("l3s", "10.67.4"), &["l3s needs Docker 23.0"])?;
    }
    for (mode, prefix) in routed {
        guest.up(&ipvlan(mode, prefix))?;
        let (subnet, via) = (format!("{prefix}.0/24"), guest.host.address());
        run(
            &mut guest.lab.inside(&["ip", "route", "add", &subnet, "via", via]),
            SHORT,
        )?
        .ok()?;
        ensure!(
            guest.visited(&format!("{prefix}.5"))?,
            "nobody reaches ipvlan {mode}"
        );
        ensure!(
            guest.reaches("a", &format!("{prefix}.6"))?,
            "two on ipvlan {mode} do not meet"
        );
        guest.down()?;
    }
    // Without a route that would reach nobody.
    guest.refused(&ipvlan("l2", "10.67.3"), &["10.67.3.0/24", "10.66.0."])?;

    // The engine makes the VLAN with the network, and takes it away with it.
    for driver in ["macvlan", "ipvlan"] {
        let vlan = Net {
            driver,
            mode: if driver == "macvlan" { "bridge" } else { "l2" },
            parent: "vec0.30",
            prefix: "10.68.30",
        };
        guest.up(&vlan)?;
        let is_vlan = |link: &Value| {
            link["ifname"] == "vec0.30"
                && link.pointer("/linkinfo/info_kind") == Some(&Value::from("vlan"))
                && link.pointer("/linkinfo/info_data/id") == Some(&Value::from(30))
        };
        let links = guest.links()?;
        ensure!(links.iter().any(is_vlan), "no VLAN was made: {links:?}");
        ensure!(guest.reaches("a", "10.68.30.6")?, "two on one VLAN do not meet");
        guest.down()?;
        let links = guest.links()?;
        ensure!(!links.iter().any(is_vlan), "the VLAN stays: {links:?}");
    }
    // One that somebody else has made stays his.
    guest
        .host
        .ok("ip link add link vec0 name vec0.31 type vlan id 31 && ip link set vec0.31 up")?;
    guest.up(&Net {
        driver: "ipvlan",
        mode: "l2",
        parent: "vec0.31",
        prefix: "10.68.31",
    })?;
    guest.down()?;
    guest.host.ok("ip link show vec0.31 && ip link del vec0.31")?;
    guest.refused(
        &Net {
            driver: "ipvlan",
            mode: "l2",
            parent: "vec7.30",
            prefix: "10.68.30",
        },
        &["vec7.30", "no vec7 to make VLAN 30 on"],
    )?;

    // One interface carries one of the two.
    guest.host.ok("ip link add theirs link vec0 type macvlan")?;
    guest.refused(
        &ipvlan("l2", "10.66.0"),
        &["theirs", "macvlan", "cannot carry ipvlan"],
    )?;
    guest.host.ok("ip link del theirs && ip link set vec0 down")?;
    guest.refused(&ipvlan("l2", "10.66.0"), &["vec0 is down"])?;
    Ok(())
}
