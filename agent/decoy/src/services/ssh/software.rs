//! What the ssh server shows of itself before anyone logs in: version, keys, algorithms.

use std::borrow::Cow;

use p256::SecretKey;
use russh::keys::PrivateKey;
use russh::keys::ssh_key::private::{EcdsaKeypair, EcdsaPrivateKey, Ed25519Keypair, KeypairData};
use russh::{MethodKind, MethodSet, Preferred, cipher, compression, kex, mac};

use crate::host::{Distro, Host, OsFamily};
use crate::identity::Identity;

/// The identification string (RFC 4253 §4.2), of a package version the distribution shipped.
pub(super) fn banner(host: &Host, identity: &Identity) -> &'static str {
    let options: &[&'static str] = match (host.family, host.distro) {
        (OsFamily::Windows | OsFamily::WindowsServer, _) => &[
            "SSH-2.0-OpenSSH_for_Windows_8.1",
            "SSH-2.0-OpenSSH_for_Windows_9.5",
        ],
        (OsFamily::Cisco, _) => &["SSH-2.0-Cisco-1.25"],
        (OsFamily::Embedded, _) => &[
            "SSH-2.0-dropbear_2017.75",
            "SSH-2.0-dropbear_2019.78",
            "SSH-2.0-dropbear_2020.81",
        ],
        (OsFamily::Bsd, _) => &[
            "SSH-2.0-OpenSSH_9.3 FreeBSD-20230316",
            "SSH-2.0-OpenSSH_9.3 FreeBSD-20230719",
        ],
        (_, Distro::Debian) => &[
            "SSH-2.0-OpenSSH_9.2p1 Debian-2",
            "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u1",
            "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u2",
            "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3",
        ],
        (_, Distro::Ubuntu22) => &[
            "SSH-2.0-OpenSSH_8.9p1 Ubuntu-3ubuntu0.1",
            "SSH-2.0-OpenSSH_8.9p1 Ubuntu-3ubuntu0.4",
            "SSH-2.0-OpenSSH_8.9p1 Ubuntu-3ubuntu0.6",
            "SSH-2.0-OpenSSH_8.9p1 Ubuntu-3ubuntu0.10",
        ],
        (_, Distro::Ubuntu20) => &[
            "SSH-2.0-OpenSSH_8.2p1 Ubuntu-4ubuntu0.5",
            "SSH-2.0-OpenSSH_8.2p1 Ubuntu-4ubuntu0.9",
            "SSH-2.0-OpenSSH_8.2p1 Ubuntu-4ubuntu0.11",
        ],
        (_, Distro::Rocky9) => &["SSH-2.0-OpenSSH_8.7"],
        (_, Distro::Centos7) => &["SSH-2.0-OpenSSH_7.4"],
        (_, Distro::Alpine) => &["SSH-2.0-OpenSSH_9.6"],
        (_, Distro::Fedora) => &["SSH-2.0-OpenSSH_9.3"],
        (_, Distro::Kali) => &["SSH-2.0-OpenSSH_9.6p1 Debian-4", "SSH-2.0-OpenSSH_9.7p1 Debian-7"],
        (_, Distro::Arch) => &["SSH-2.0-OpenSSH_9.7", "SSH-2.0-OpenSSH_9.8"],
    };
    let drawn = identity.number("ssh.banner", 0..=options.len() as u64 - 1);
    options[usize::try_from(drawn).unwrap_or(0)]
}

/// An Ed25519 and an ECDSA P-256 key, both the seed's. sshd's RSA key is left out: its generation
/// from a seed takes seconds at every start.
pub(super) fn host_keys(identity: &Identity) -> Vec<PrivateKey> {
    let ed25519 = Ed25519Keypair::from_seed(&identity.bytes("ssh.host-key.ed25519"));
    let mut keys = vec![PrivateKey::from(ed25519)];
    // A scalar outside the group's order has odds of 2^-32; the next label gives another.
    let secret = (0..16)
        .find_map(|n| SecretKey::from_slice(&identity.bytes::<32>(&format!("ssh.host-key.p256.{n}"))).ok());
    if let Some(secret) = secret {
        let pair = EcdsaKeypair::NistP256 {
            public: secret.public_key().into(),
            private: EcdsaPrivateKey::from(secret),
        };
        keys.extend(PrivateKey::new(KeypairData::Ecdsa(pair), ""));
    }
    keys
}

pub(super) fn methods() -> MethodSet {
    let methods = [
        MethodKind::PublicKey,
        MethodKind::Password,
        MethodKind::KeyboardInteractive,
    ];
    MethodSet::from(&methods[..])
}

/// OpenSSH's order of what russh has of its default algorithms (sshd_config(5), OpenSSH 9.2).
pub(super) fn preferred() -> Preferred {
    Preferred {
        kex: Cow::Borrowed(&[
            kex::CURVE25519,
            kex::CURVE25519_PRE_RFC_8731,
            kex::ECDH_SHA2_NISTP256,
            kex::ECDH_SHA2_NISTP384,
            kex::ECDH_SHA2_NISTP521,
            kex::DH_GEX_SHA256,
            kex::DH_G16_SHA512,
            kex::DH_G18_SHA512,
            kex::DH_G14_SHA256,
            kex::EXTENSION_SUPPORT_AS_SERVER,
            kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
        ]),
        cipher: Cow::Borrowed(&[
            cipher::CHACHA20_POLY1305,
            cipher::AES_128_CTR,
            cipher::AES_192_CTR,
            cipher::AES_256_CTR,
            cipher::AES_128_GCM,
            cipher::AES_256_GCM,
        ]),
        mac: Cow::Borrowed(&[
            mac::HMAC_SHA256_ETM,
            mac::HMAC_SHA512_ETM,
            mac::HMAC_SHA1_ETM,
            mac::HMAC_SHA256,
            mac::HMAC_SHA512,
            mac::HMAC_SHA1,
        ]),
        compression: Cow::Borrowed(&[compression::NONE]),
        ..Preferred::DEFAULT
    }
}
