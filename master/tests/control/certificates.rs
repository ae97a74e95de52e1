//! Certificates after enrolment: renewed, given again to who comes back, and taken from who is not believed any more.

use decnet_pki::certificate::Leaf;
use decnet_pki::csr;
use decnet_pki::key::HostKey;
use decnet_wire::enrol::{EnrolResponse, RejoinRequest, RenewRequest};
use decnet_wire::ids::{Digest, HostId};
use time::Duration;

use crate::scene::{Master, invitation, operator, request, stranger as caller};

fn key() -> HostKey {
    HostKey::generate().unwrap()
}

fn digest(key: &HostKey) -> Digest {
    Digest::from_sha256(*key.digest().sha256().as_bytes())
}

fn enrolled(master: &Master, name: &str, key: &HostKey) -> EnrolResponse {
    let token = master
        .control
        .invite(&operator(), &invitation(name))
        .unwrap()
        .token;
    let response = master
        .control
        .enrol(&caller(), &request(&token, key))
        .unwrap()
        .unwrap();
    master.control.publish_due().unwrap();
    response
}

pub(crate) fn renewal(key: &HostKey) -> RenewRequest {
    RenewRequest {
        schema: 1,
        csr: csr::create(key).unwrap(),
    }
}

fn rejoin(host: HostId, key: &HostKey) -> RejoinRequest {
    RejoinRequest {
        schema: 1,
        host,
        csr: csr::create(key).unwrap(),
    }
}

/// The serial numbers on the revocation list, as OpenSSL reads it.
pub(crate) fn revoked(master: &Master) -> Vec<String> {
    let list = master.control.revocation_lists().unwrap();
    let file = master.folder.path().join("crl.pem");
    std::fs::write(&file, list).unwrap();
    let said = std::process::Command::new("openssl")
        .args(["crl", "-noout", "-text", "-in"])
        .arg(file)
        .output()
        .unwrap();
    assert!(said.status.success(), "{said:?}");
    let text = String::from_utf8(said.stdout).unwrap();
    let serials = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Serial Number: "));
    serials.map(str::to_lowercase).collect()
}

pub(crate) fn serial(certificate: &str) -> String {
    // DER has a zero before a number whose first bit is set; OpenSSL does not show it.
    let serial = Leaf::from_pem(certificate).unwrap().serial().to_owned();
    serial.strip_prefix("00").map_or(serial.clone(), str::to_owned)
}

#[test]
fn the_key_of_before_counts_until_the_new_one_is_used_and_not_longer() {
    let master = Master::new();
    let (old, new) = (key(), key());
    let enrolled = enrolled(&master, "h", &old);
    let host = enrolled.host;
    let generation = master.control.host(host).unwrap().host.generation;
    let first = master.control.renew(&caller(), host, &renewal(&new)).unwrap();
    assert!(master.control.authorize(host, &digest(&old), None).is_ok());
    assert_eq!(
        master.control.renew(&caller(), host, &renewal(&new)).unwrap(),
        first,
        "a lost answer costs a retry"
    );
    assert!(revoked(&master).is_empty());

    assert!(master.control.authorize(host, &digest(&new), None).is_ok());
    assert_eq!(
        master
            .control
            .authorize(host, &digest(&old), None)
            .unwrap_err()
            .status(),
        403
    );
    assert_eq!(revoked(&master), [serial(&enrolled.certificate)]);
    let after = master.control.host(host).unwrap().host;
    assert_eq!(after.generation, generation + 1, "its bundle names the new key");
    assert_eq!((after.key, after.next_key), (Some(digest(&new)), None));
    // And so it is after a restart.
    let master = master.restart();
    assert!(master.control.authorize(host, &digest(&new), None).is_ok());
    assert!(master.control.authorize(host, &digest(&old), None).is_err());
}

#[test]
fn a_renewal_names_the_host_that_asked_whatever_the_request_says() {
    let master = Master::new();
    let (mine, other, next) = (key(), key(), key());
    let host = enrolled(&master, "mine", &mine).host;
    enrolled(&master, "other", &other);
    // A request that was made for somebody else, with names and a CA's rights in it.
    let mut params = rcgen::CertificateParams::new(vec!["other.example".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "other");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pair = rcgen::KeyPair::from_pem(&next.to_pkcs8_pem()).unwrap();
    let csr = params.serialize_request(&pair).unwrap().pem().unwrap();
    let response = master
        .control
        .renew(&caller(), host, &RenewRequest { schema: 1, csr })
        .unwrap();
    let leaf = Leaf::from_pem(&response.certificate).unwrap();
    let peer = decnet_pki::peer::PeerIdentity::from_leaf(&leaf.chain()[0]).unwrap();
    assert_eq!(peer.host, host.uuid());
    assert_eq!(leaf.key_digest(), next.digest());
    assert_eq!(
        leaf.not_after() - leaf.not_before(),
        Duration::days(30) + Duration::minutes(5)
    );

    let same = master
        .control
        .renew(&caller(), host, &renewal(&mine))
        .unwrap_err();
    assert_eq!(same.status(), 422, "{same}");
}

#[test]
fn who_comes_back_proves_the_known_key_and_nothing_else_helps() {
    let master = Master::new();
    let (known, stranger) = (key(), key());
    let host = enrolled(&master, "h", &known).host;
    master.pass(Duration::days(400));
    let response = master.control.rejoin(&caller(), &rejoin(host, &known)).unwrap();
    let leaf = Leaf::from_pem(&response.certificate).unwrap();
    assert_eq!(leaf.key_digest(), known.digest());
    assert!(leaf.not_after() > master.now.lock().unwrap().get() + Duration::days(29));

    for (host, key) in [(host, &stranger), (HostId::new(uuid::Uuid::from_u128(7)), &known)] {
        let refused = master.control.rejoin(&caller(), &rejoin(host, key)).unwrap_err();
        assert_eq!(refused.status(), 403, "{refused}");
    }
    let broken = RejoinRequest {
        csr: csr::create(&known).unwrap().replacen('A', "B", 3),
        ..rejoin(host, &known)
    };
    assert_eq!(
        master.control.rejoin(&caller(), &broken).unwrap_err().status(),
        422
    );

    master.control.revoke(&operator(), host).unwrap();
    let refused = master
        .control
        .rejoin(&caller(), &rejoin(host, &known))
        .unwrap_err();
    assert_eq!(refused.status(), 403, "{refused}");
    let refused = master
        .control
        .renew(&caller(), host, &renewal(&stranger))
        .unwrap_err();
    assert_eq!(refused.status(), 403, "{refused}");
    assert_eq!(
        revoked(&master),
        [serial(&response.certificate)],
        "what has ended by itself needs no word"
    );
}

#[test]
fn a_host_that_asks_on_and_on_is_refused_and_keeps_what_it_has() {
    let master = Master::new();
    let known = key();
    let host = enrolled(&master, "h", &known).host;
    let answers: Vec<u16> = (0..40)
        .map(
            |_| match master.control.rejoin(&caller(), &rejoin(host, &known)) {
                Ok(_) => 200,
                Err(error) => error.status(),
            },
        )
        .collect();
    assert_eq!(answers.iter().filter(|status| **status == 200).count(), 31);
    assert_eq!(answers.last(), Some(&429));
    assert!(master.control.authorize(host, &digest(&known), None).is_ok());
    // Once they have ended it may ask again.
    master.pass(Duration::days(31));
    assert!(master.control.rejoin(&caller(), &rejoin(host, &known)).is_ok());
}

#[test]
fn the_number_of_a_revocation_list_only_rises() {
    let master = Master::new();
    let host = enrolled(&master, "h", &key()).host;
    let first = master.control.revocation_lists().unwrap();
    assert_eq!(
        master.control.revocation_lists().unwrap(),
        first,
        "nothing has changed"
    );
    let number = |list: &str| {
        let file = master.folder.path().join("crl.pem");
        std::fs::write(&file, list).unwrap();
        let said = std::process::Command::new("openssl")
            .args(["crl", "-noout", "-crlnumber", "-in"])
            .arg(file)
            .output()
            .unwrap();
        let text = String::from_utf8(said.stdout).unwrap();
        let hex = text.trim().strip_prefix("crlNumber=0x").unwrap().to_owned();
        u64::from_str_radix(&hex, 16).unwrap()
    };
    assert_eq!(number(&first), 1);
    master.control.revoke(&operator(), host).unwrap();
    assert_eq!(number(&master.control.revocation_lists().unwrap()), 2);
    // Made anew before it is too old, and on no account with a number of before.
    master.pass(Duration::days(2));
    assert_eq!(number(&master.control.revocation_lists().unwrap()), 3);
    master.pass(-Duration::days(5));
    assert_eq!(number(&master.control.revocation_lists().unwrap()), 4);
}
