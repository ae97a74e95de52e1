//! The machine that the agent describes.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::host::{Distro, Host, OsFamily};
use crate::identity::Identity;

/// Net-SNMP's `netSnmpAgentOIDs` for Linux and FreeBSD.
const NET_SNMP_LINUX: &[u32] = &[1, 3, 6, 1, 4, 1, 8072, 3, 2, 10];
const NET_SNMP_FREEBSD: &[u32] = &[1, 3, 6, 1, 4, 1, 8072, 3, 2, 8];
/// Microsoft's for a workstation and for a server.
const WINDOWS_WORKSTATION: &[u32] = &[1, 3, 6, 1, 4, 1, 311, 1, 1, 3, 1, 1];
const WINDOWS_SERVER: &[u32] = &[1, 3, 6, 1, 4, 1, 311, 1, 1, 3, 1, 2];

/// A row of the interface table.
#[derive(Debug)]
pub(super) struct Interface {
    pub(super) name: String,
    /// IANAifType: 6 Ethernet, 24 loopback.
    pub(super) kind: u32,
    pub(super) mtu: u32,
    /// Bits a second.
    pub(super) speed: u32,
    pub(super) mac: Option<[u8; 6]>,
    /// Bytes a second, in and out.
    pub(super) rates: [u64; 2],
}

/// An IPv4 address of the second interface.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address {
    pub(super) address: Ipv4Addr,
    pub(super) mask: Ipv4Addr,
}

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) description: String,
    pub(super) object_id: &'static [u32],
    pub(super) name: String,
    pub(super) contact: String,
    pub(super) location: String,
    /// `sysServices`: the sum over layers (RFC 1213).
    pub(super) services: u32,
    pub(super) ttl: u32,
    pub(super) memory_kib: u32,
    pub(super) processes: u32,
    pub(super) interfaces: Vec<Interface>,
    pub(super) address: Option<Address>,
    pub(super) requests: u32,
    started: Instant,
    ran_before: Duration,
}

impl Machine {
    pub(super) fn new(identity: &Identity, host: &Host) -> Self {
        let (description, object_id) = describe(identity, host);
        let number = |label: &str, range| u32::try_from(identity.number(label, range)).unwrap_or(0);
        let memory_gib = identity.choose("snmp.memory", &[&2u32, &4, &8, &16, &32]);
        let (services, ttl, memory_kib) = match host.family {
            OsFamily::Cisco => (6, 255, 262_144),
            OsFamily::Embedded => (64, 255, 65_536),
            OsFamily::Windows | OsFamily::WindowsServer => (76, 128, memory_gib * 1_048_576 - 212),
            OsFamily::Linux | OsFamily::Bsd => (
                72,
                64,
                memory_gib * 1_048_576 - number("snmp.memory.kernel", 20_000..=90_000),
            ),
        };
        Self {
            description,
            object_id,
            name: host.hostname.clone(),
            contact: contact(identity, host),
            location: identity.choose("snmp.location", LOCATIONS).to_owned(),
            services,
            ttl,
            memory_kib,
            processes: number("snmp.processes", 31..=260),
            interfaces: interfaces(identity, host),
            address: own_interface().and_then(|own| own.address),
            requests: 0,
            started: Instant::now(),
            ran_before: ran_before(identity),
        }
    }

    pub(super) fn count_request(&mut self) {
        self.requests = self.requests.wrapping_add(1);
    }

    pub(super) fn uptime(&self) -> Duration {
        self.ran_before + self.started.elapsed()
    }
}

/// How long the agent seems to have run before this process began.
pub(super) fn ran_before(identity: &Identity) -> Duration {
    Duration::from_secs(identity.number("snmp.uptime", 50_000..=20_000_000))
}

/// The address the machine really has on its LAN, or one from the seed when there is none to see.
pub(super) fn mac(identity: &Identity) -> [u8; 6] {
    own_interface().map_or_else(
        || {
            let mut mac: [u8; 6] = identity.bytes("snmp.mac");
            // Unicast, globally administered.
            mac[0] &= 0xfc;
            mac
        },
        |own| own.mac,
    )
}

struct Own {
    mac: [u8; 6],
    address: Option<Address>,
}

/// The first Ethernet interface of the network namespace. What the kernel shows on the LAN anyway must not
/// contradict what the agent says.
fn own_interface() -> Option<Own> {
    let all: Vec<_> = getifaddrs()
        .ok()?
        .filter(|one| !one.flags.contains(InterfaceFlags::IFF_LOOPBACK))
        .collect();
    let (name, mac) = all.iter().find_map(|one| {
        let mac = one.address.as_ref()?.as_link_addr()?.addr()?;
        (mac != [0; 6]).then(|| (one.interface_name.clone(), mac))
    })?;
    let address = all
        .iter()
        .filter(|one| one.interface_name == name)
        .find_map(|one| {
            let address = one.address.as_ref()?.as_sockaddr_in()?.ip();
            let mask = one.netmask.as_ref()?.as_sockaddr_in()?.ip();
            Some(Address { address, mask })
        });
    Some(Own { mac, address })
}

const LOCATIONS: &[&str] = &[
    "Server Room",
    "Rack 3",
    "Rack B2",
    "Building A, Floor 2",
    "Datacenter 1",
    "Main Office",
    "Basement",
    "IDF-2",
    "Warehouse",
    "Sitting on the Dock of the Bay",
    "Room 114",
    "Closet 2F",
];

fn contact(identity: &Identity, host: &Host) -> String {
    let domain = host
        .hostname
        .split_once('.')
        .map_or("example.com", |(_, domain)| domain);
    match identity.choose("snmp.contact", &["", "root", "it", "admin", "netops", "support"]) {
        "" => String::new(),
        "root" => "Root <root@localhost> (configure /etc/snmp/snmp.local.conf)".to_owned(),
        user => format!("{user}@{domain}"),
    }
}

fn interfaces(identity: &Identity, host: &Host) -> Vec<Interface> {
    let rate = |label: &str| identity.number(label, 200..=90_000);
    let ethernet = |name: &str, speed: u32| Interface {
        name: name.to_owned(),
        kind: 6,
        mtu: 1500,
        speed,
        mac: Some(mac(identity)),
        rates: [rate("snmp.in"), rate("snmp.out")],
    };
    let loopback = |name: &str, mtu: u32, speed: u32| {
        let rate = identity.number("snmp.loopback", 10..=900);
        Interface {
            name: name.to_owned(),
            kind: 24,
            mtu,
            speed,
            mac: None,
            rates: [rate, rate],
        }
    };
    match host.family {
        OsFamily::Windows | OsFamily::WindowsServer => vec![
            loopback("Software Loopback Interface 1", 1500, 1_073_741_824),
            ethernet(
                identity.choose(
                    "snmp.nic",
                    &[
                        "Intel(R) 82574L Gigabit Network Connection",
                        "vmxnet3 Ethernet Adapter",
                        "Microsoft Hyper-V Network Adapter",
                        "Realtek PCIe GbE Family Controller",
                    ],
                ),
                1_000_000_000,
            ),
        ],
        OsFamily::Cisco => vec![
            loopback("Null0", 1500, 10_000_000),
            ethernet("GigabitEthernet0/1", 1_000_000_000),
        ],
        OsFamily::Bsd => vec![
            loopback("lo0", 16_384, 0),
            ethernet(
                identity.choose("snmp.nic", &["em0", "igb0", "vmx0", "re0"]),
                1_000_000_000,
            ),
        ],
        OsFamily::Embedded => vec![loopback("lo", 65_536, 10_000_000), ethernet("eth0", 100_000_000)],
        OsFamily::Linux => vec![
            loopback("lo", 65_536, 10_000_000),
            ethernet(
                identity.choose("snmp.nic", &["eth0", "ens18", "ens192", "enp3s0", "eno1"]),
                1_000_000_000,
            ),
        ],
    }
}

/// `sysDescr` and `sysObjectID`.
fn describe(identity: &Identity, host: &Host) -> (String, &'static [u32]) {
    let choose = |options: &[&'static str]| identity.choose("snmp.description", options);
    match host.family {
        OsFamily::Windows | OsFamily::WindowsServer => {
            let server = host.family == OsFamily::WindowsServer;
            let build = choose(if server {
                &["14393", "17763", "20348"]
            } else {
                &["19044", "19045", "22621", "22631"]
            });
            let processor = identity.choose(
                "snmp.processor",
                &[
                    "Intel64 Family 6 Model 85 Stepping 7",
                    "Intel64 Family 6 Model 79 Stepping 1",
                    "Intel64 Family 6 Model 158 Stepping 10",
                    "AMD64 Family 25 Model 1 Stepping 1",
                ],
            );
            let text = format!(
                "Hardware: {processor} AT/AT COMPATIBLE - Software: Windows Version 6.3 (Build {build} Multiprocessor Free)"
            );
            (
                text,
                if server {
                    WINDOWS_SERVER
                } else {
                    WINDOWS_WORKSTATION
                },
            )
        }
        OsFamily::Bsd => {
            let release = choose(&["13.2-RELEASE", "13.3-RELEASE", "14.0-RELEASE", "12.4-RELEASE"]);
            (
                format!(
                    "FreeBSD {} {release} FreeBSD {release} GENERIC amd64",
                    host.hostname
                ),
                NET_SNMP_FREEBSD,
            )
        }
        OsFamily::Cisco => cisco(identity),
        OsFamily::Embedded => embedded(identity, host),
        OsFamily::Linux => (linux(identity, host), NET_SNMP_LINUX),
    }
}

fn cisco(identity: &Identity) -> (String, &'static [u32]) {
    let models: &[&(&str, &'static [u32])] = &[
        &(
            "C2960 Software (C2960-LANBASEK9-M), Version 15.0(2)SE11, RELEASE SOFTWARE (fc3)",
            &[1, 3, 6, 1, 4, 1, 9, 1, 716],
        ),
        &(
            "C3750 Software (C3750-IPSERVICESK9-M), Version 12.2(55)SE12, RELEASE SOFTWARE (fc2)",
            &[1, 3, 6, 1, 4, 1, 9, 1, 516],
        ),
        &(
            "C2900 Software (C2900-UNIVERSALK9-M), Version 15.7(3)M8, RELEASE SOFTWARE (fc1)",
            &[1, 3, 6, 1, 4, 1, 9, 1, 1045],
        ),
        &(
            "C1900 Software (C1900-UNIVERSALK9-M), Version 15.4(3)M3, RELEASE SOFTWARE (fc2)",
            &[1, 3, 6, 1, 4, 1, 9, 1, 1191],
        ),
    ];
    let (model, object_id) = identity.choose("snmp.description", models);
    let text = format!(
        "Cisco IOS Software, {model}\r\nTechnical Support: http://www.cisco.com/techsupport\r\n\
         Copyright (c) 1986-2017 by Cisco Systems, Inc.\r\nCompiled Sat 19-Aug-17 08:57 by prod_rel_team"
    );
    (text, object_id)
}

fn embedded(identity: &Identity, host: &Host) -> (String, &'static [u32]) {
    let digits = |label: &str, range| identity.number(label, range);
    match identity.number("snmp.device", 0..=3) {
        0 => {
            let module = identity.choose("snmp.module", &["JD149", "JD153", "JSI23", "J8030E"]);
            let text = format!(
                "HP ETHERNET MULTI-ENVIRONMENT,ROM none,JETDIRECT,{module},EEPROM JSI{:08},CIDATE {:02}/{:02}/20{}",
                digits("snmp.eeprom", 22_000_000..=24_999_999),
                digits("snmp.month", 1..=12),
                digits("snmp.day", 1..=28),
                digits("snmp.year", 14..=22),
            );
            (text, &[1, 3, 6, 1, 4, 1, 11, 2, 3, 9, 1])
        }
        1 => {
            let card = identity.choose("snmp.module", &["NC-8300h", "NC-8900h", "NC-9300h", "NC-340"]);
            let text = format!(
                "Brother {card}, Firmware Ver.1.{:02} ({}.{:02}.{:02}),MID 8C5-F{:02},FID 2",
                digits("snmp.firmware", 1..=29),
                digits("snmp.year", 13..=22),
                digits("snmp.month", 1..=12),
                digits("snmp.day", 1..=28),
                digits("snmp.model", 10..=60),
            );
            (text, &[1, 3, 6, 1, 4, 1, 2435, 2, 3, 9, 1])
        }
        _ => {
            let kernel = identity.choose(
                "snmp.kernel",
                &[
                    "3.10.14 #1 PREEMPT Tue Mar 10 11:04:52 CST 2020 mips",
                    "4.9.37 #2 SMP Thu Sep 17 14:38:15 CST 2020 armv7l",
                    "3.4.35 #1 Mon Jul 4 19:20:33 CST 2016 armv5tejl",
                    "4.14.90 #1 SMP PREEMPT Fri Jan 8 10:12:01 UTC 2021 armv7l",
                ],
            );
            (format!("Linux {} {kernel}", host.short_name()), NET_SNMP_LINUX)
        }
    }
}

fn linux(identity: &Identity, host: &Host) -> String {
    let kernels: &[&str] = match host.distro {
        Distro::Debian => &[
            "6.1.0-18-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024-02-01)",
            "6.1.0-21-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.90-1 (2024-05-03)",
            "6.1.0-13-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.55-1 (2023-09-29)",
        ],
        Distro::Ubuntu22 => &[
            "5.15.0-91-generic #101-Ubuntu SMP Tue Nov 14 13:30:08 UTC 2023",
            "5.15.0-105-generic #115-Ubuntu SMP Mon Apr 15 09:52:04 UTC 2024",
            "5.15.0-78-generic #85-Ubuntu SMP Fri Jul 7 15:25:09 UTC 2023",
        ],
        Distro::Ubuntu20 => &[
            "5.4.0-169-generic #187-Ubuntu SMP Thu Nov 23 14:52:28 UTC 2023",
            "5.4.0-182-generic #202-Ubuntu SMP Fri Apr 26 12:29:36 UTC 2024",
            "5.4.0-150-generic #167-Ubuntu SMP Mon May 15 17:35:05 UTC 2023",
        ],
        Distro::Rocky9 => &[
            "5.14.0-362.8.1.el9_3.x86_64 #1 SMP PREEMPT_DYNAMIC Wed Nov 8 17:36:32 UTC 2023",
            "5.14.0-427.16.1.el9_4.x86_64 #1 SMP PREEMPT_DYNAMIC Wed May 8 17:48:14 UTC 2024",
        ],
        Distro::Centos7 => &[
            "3.10.0-1160.el7.x86_64 #1 SMP Mon Oct 19 16:18:59 UTC 2020",
            "3.10.0-1160.105.1.el7.x86_64 #1 SMP Thu Dec 7 15:39:45 UTC 2023",
        ],
        Distro::Alpine => &[
            "6.6.14-0-lts #1-Alpine SMP PREEMPT_DYNAMIC Fri, 26 Jan 2024 11:08:07 +0000",
            "6.6.31-0-lts #1-Alpine SMP PREEMPT_DYNAMIC Fri, 17 May 2024 14:20:38 +0000",
        ],
        Distro::Fedora => &[
            "6.5.6-300.fc39.x86_64 #1 SMP PREEMPT_DYNAMIC Fri Oct 6 19:57:21 UTC 2023",
            "6.8.9-200.fc39.x86_64 #1 SMP PREEMPT_DYNAMIC Thu May 2 18:50:49 UTC 2024",
        ],
        Distro::Kali => &[
            "6.6.9-amd64 #1 SMP PREEMPT_DYNAMIC Kali 6.6.9-1kali1 (2024-01-08)",
            "6.8.11-amd64 #1 SMP PREEMPT_DYNAMIC Kali 6.8.11-1kali2 (2024-05-30)",
        ],
        Distro::Arch => &[
            "6.9.7-arch1-1 #1 SMP PREEMPT_DYNAMIC Fri, 28 Jun 2024 04:32:50 +0000",
            "6.8.9-arch1-2 #1 SMP PREEMPT_DYNAMIC Tue, 07 May 2024 21:35:54 +0000",
        ],
    };
    format!(
        "Linux {} {} x86_64",
        host.hostname,
        identity.choose("snmp.description", kernels)
    )
}
