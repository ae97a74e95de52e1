use std::process::Command;

use super::encode::{attributes, text};
use super::*;
use crate::host::namespace::in_a_new_one;

fn allow(texts: &[&str]) -> Egress {
    Egress {
        allow: texts.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

/// What `nft`, which shares no code with us, reads in the namespace of the calling thread.
fn nft() -> String {
    let output = Command::new("nft")
        .args(["--stateless", "list", "ruleset"])
        .output()
        .unwrap_or_else(|error| panic!("missing: nftables (Debian: nftables): {error}"));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn nft_reads_the_rules_as_they_are_meant() {
    let egress = allow(&[
        "udp/192.0.2.1:53",
        "tcp/203.0.113.0/24:443-445",
        "tcp/[2001:db8::/32]:25",
        "icmp/192.0.2.1",
    ]);
    let read = in_a_new_one(|| {
        close(&egress, &egress.rules()).unwrap();
        nft()
    })
    .unwrap();
    println!("{read}");
    for line in [
        "table inet decnet {",
        "type filter hook output priority filter; policy drop;",
        "type filter hook forward priority filter; policy drop;",
        "ct state established,related accept",
        "tcp flags rst accept",
        "oif \"lo\" accept",
        "icmpv6 type nd-neighbor-solicit accept",
        "ip daddr 192.0.2.1 udp dport 53 counter name \"allowed\" accept",
        "ip daddr 203.0.113.0/24 tcp dport 443-445 counter name \"allowed\" accept",
        "ip6 daddr 2001:db8::/32 tcp dport 25 counter name \"allowed\" accept",
        "ip daddr 192.0.2.1 meta l4proto icmp counter name \"allowed\" accept",
        "meta l4proto tcp counter name \"dropped-tcp\" drop",
        "meta l4proto ipv6-icmp counter name \"dropped-icmp\" drop",
        "counter name \"dropped-other\" drop",
    ] {
        let normal = |text: &str| {
            text.replace("ip protocol icmp", "meta l4proto icmp")
                .replace("tcp flags & rst != 0x0", "tcp flags rst")
        };
        assert!(normal(&read).contains(line), "no {line:?} in\n{read}");
    }
    assert!(
        !read.contains("127.0.0.11"),
        "a decky that asks a name server may ask the resolver"
    );
}

#[test]
fn a_namespace_tells_whether_and_how_it_is_closed() {
    let (first, second) = (allow(&[]), allow(&["udp/192.0.2.1:53"]));
    in_a_new_one(|| {
        assert_eq!(rules(), Ok(None));
        assert_eq!(counters(), Ok(None));
        close(&first, &first.rules()).unwrap();
        assert_eq!(rules(), Ok(Some(first.rules())));
        assert_eq!(counters(), Ok(Some(EgressCounters::default())));
        assert!(nft().contains("ip daddr 127.0.0.11 counter name \"dropped-dns\" drop"));
        close(&second, &second.rules()).unwrap();
        assert_eq!(rules(), Ok(Some(second.rules())));
        // Without one of its chains it closes nothing.
        let gone = Command::new("nft")
            .args(["delete", "chain", "inet", "decnet", "output"])
            .status();
        assert!(gone.unwrap().success());
        assert_eq!(rules(), Ok(None));
    })
    .unwrap();
}

#[test]
fn rules_of_others_in_the_namespace_stay() {
    in_a_new_one(|| {
        let made = Command::new("nft")
            .args(["add table inet other; add chain inet other mine"])
            .status();
        assert!(made.unwrap().success());
        close(&Egress::default(), "00").unwrap();
        assert!(nft().contains("chain mine"));
    })
    .unwrap();
}

#[test]
fn what_is_cut_or_lies_in_an_answer_is_not_read() {
    assert_eq!(attributes(&[200, 0, 1, 0, 7]).count(), 0);
    assert_eq!(attributes(&[2, 0, 1, 0]).count(), 0);
    assert_eq!(attributes(&text(1, "a")).count(), 1);
    assert_eq!(encode::named(&[0; 3], 1, 2), None);
    assert_eq!(encode::packets(&[0; 9]), None);
}
