use std::process::Command;

use super::*;
use crate::host::lock;
use crate::host::namespace::in_a_new_one;

fn allow(texts: &[&str]) -> Egress {
    Egress {
        allow: texts.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("missing: {program} (Debian: iptables): {error}"));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What the programs, which share no code with us, read in the namespace of the calling thread.
fn saved() -> [String; 2] {
    ["iptables-legacy-save", "ip6tables-legacy-save"].map(|program| run(program, &["-t", "filter"]))
}

/// The rules of one program's output, without its comments and counters.
fn plain(saved: &str) -> Vec<&str> {
    let lines = saved.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split(" [").next().unwrap_or_default().trim_end())
        .collect()
}

#[test]
fn iptables_reads_the_rules_as_they_are_meant() {
    let egress = allow(&[
        "udp/192.0.2.1:53",
        "tcp/203.0.113.0/24:443-445",
        "tcp/[2001:db8::/32]:25",
        "icmp/192.0.2.1",
        "icmp/2001:db8::1",
    ]);
    let mark = format!(":rules-{} -", egress.rules());
    let [v4, v6] = in_a_new_one(|| {
        close(&egress, &egress.rules()).unwrap();
        saved()
    })
    .unwrap();
    let chains = |mark| {
        [
            "*filter",
            ":INPUT ACCEPT",
            ":FORWARD DROP",
            ":OUTPUT DROP",
            ":allowed -",
            ":dropped-dns -",
            ":dropped-icmp -",
            ":dropped-other -",
            ":dropped-tcp -",
            ":dropped-udp -",
            mark,
            "-A FORWARD -j dropped-other",
            "-A OUTPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A OUTPUT -p tcp -m tcp --tcp-flags RST RST -j ACCEPT",
            "-A OUTPUT -o lo -j ACCEPT",
        ]
    };
    let ends = [
        "-A allowed -j ACCEPT",
        "-A dropped-dns -j DROP",
        "-A dropped-icmp -j DROP",
        "-A dropped-other -j DROP",
        "-A dropped-tcp -j DROP",
        "-A dropped-udp -j DROP",
        "COMMIT",
    ];
    let expected = [
        &chains(mark.as_str())[..],
        &[
            "-A OUTPUT -d 203.0.113.0/24 -p tcp -m tcp --dport 443:445 -j allowed",
            "-A OUTPUT -d 192.0.2.1/32 -p udp -m udp --dport 53 -j allowed",
            "-A OUTPUT -d 192.0.2.1/32 -p icmp -j allowed",
            "-A OUTPUT -p tcp -j dropped-tcp",
            "-A OUTPUT -p udp -j dropped-udp",
            "-A OUTPUT -p icmp -j dropped-icmp",
            "-A OUTPUT -j dropped-other",
        ],
        &ends,
    ];
    assert_eq!(plain(&v4), expected.concat(), "{v4}");
    let types = [131, 132, 133, 135, 136, 143]
        .map(|kind| format!("-A OUTPUT -p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j ACCEPT"));
    let types: Vec<&str> = types.iter().map(String::as_str).collect();
    let expected = [
        &chains(mark.as_str())[..],
        &types,
        &[
            "-A OUTPUT -d 2001:db8::/32 -p tcp -m tcp --dport 25 -j allowed",
            "-A OUTPUT -d 2001:db8::1/128 -p ipv6-icmp -j allowed",
            "-A OUTPUT -p tcp -j dropped-tcp",
            "-A OUTPUT -p udp -j dropped-udp",
            "-A OUTPUT -p ipv6-icmp -j dropped-icmp",
            "-A OUTPUT -j dropped-other",
        ],
        &ends,
    ];
    assert_eq!(plain(&v6), expected.concat(), "{v6}");
}

#[test]
fn a_namespace_tells_whether_and_how_it_is_closed() {
    let (first, second) = (allow(&[]), allow(&["udp/192.0.2.1:53"]));
    in_a_new_one(|| {
        assert!(!are_there());
        assert_eq!(rules(), Ok(None));
        assert_eq!(counters(), Ok(None));
        close(&first, &first.rules()).unwrap();
        assert!(are_there());
        assert_eq!(lock::rules(), Ok(Some(first.rules())));
        assert_eq!(rules(), Ok(Some(first.rules())));
        assert_eq!(counters(), Ok(Some(EgressCounters::default())));
        assert!(saved()[0].contains("-A OUTPUT -d 127.0.0.11/32 -j dropped-dns"));
        close(&second, &second.rules()).unwrap();
        assert_eq!(rules(), Ok(Some(second.rules())));
        assert!(!saved()[0].contains("127.0.0.11"));
    })
    .unwrap();
}

#[test]
fn one_family_that_somebody_has_opened_is_all_of_it_open() {
    let rules_now = || {
        close(&Egress::default(), "0123456789abcdef").unwrap();
        assert_eq!(rules(), Ok(Some("0123456789abcdef".to_owned())));
    };
    in_a_new_one(|| {
        for program in ["iptables-legacy", "ip6tables-legacy"] {
            for chain in ["OUTPUT", "FORWARD"] {
                rules_now();
                run(program, &["-P", chain, "ACCEPT"]);
                assert_eq!(rules(), Ok(None), "{program} {chain}");
            }
            rules_now();
            run(program, &["-E", "rules-0123456789abcdef", "rules-other"]);
            assert_eq!(rules(), Ok(None), "{program}");
        }
    })
    .unwrap();
}

#[test]
fn what_is_cut_or_lies_in_a_table_is_not_read() {
    for family in [Family::V4, Family::V6] {
        let whole = contents(family, &Egress::default(), "00");
        assert_eq!(mark(family, &whole).as_deref(), Some("00"));
        let read = encode::entries(family, &whole.entries).count();
        assert_eq!(u32::try_from(read), Ok(whole.count));
        for length in 0..whole.entries.len() {
            let cut = &whole.entries[..length];
            assert!(encode::entries(family, cut).count() < read);
        }
        let mut lying = whole.clone();
        // Offsets that lead nowhere: an entry of no length, and one that is longer than all of it.
        for value in [0, u8::MAX] {
            lying.entries.fill(value);
            assert_eq!(mark(family, &lying), None);
            assert_eq!(encode::entries(family, &lying.entries).count(), 0);
        }
    }
}
