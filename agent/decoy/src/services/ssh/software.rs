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

/// A program, as far as its algorithms tell it from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    /// OpenSSH with its version, times a hundred.
    OpenSsh(u32),
    /// Dropbear with its year.
    Dropbear(u32),
    Cisco,
}

impl Program {
    pub(super) fn of(banner: &str) -> Self {
        let text = banner.strip_prefix("SSH-2.0-").unwrap_or(banner);
        if let Some(version) = text.strip_prefix("dropbear_") {
            return Self::Dropbear(number(version));
        }
        match text.strip_prefix("OpenSSH_") {
            Some(version) => {
                let version = version.strip_prefix("for_Windows_").unwrap_or(version);
                let (major, minor) = version.split_once('.').unwrap_or((version, ""));
                Self::OpenSsh(number(major) * 100 + number(minor))
            }
            None => Self::Cisco,
        }
    }

    /// How one may log in: what sshd offers with PAM; Dropbear asks for nothing interactively.
    pub(super) fn methods(self) -> MethodSet {
        let methods = [
            MethodKind::PublicKey,
            MethodKind::Password,
            MethodKind::KeyboardInteractive,
        ];
        MethodSet::from(match self {
            Self::Dropbear(_) => &methods[..2],
            _ => &methods[..],
        })
    }

    /// Dropbear took Ed25519 up in 2020.79; Cisco IOS has none.
    fn has_ed25519(self) -> bool {
        match self {
            Self::OpenSsh(_) => true,
            Self::Dropbear(year) => year >= 2020,
            Self::Cisco => false,
        }
    }

    /// The program's own algorithms, in its order, as far as russh has them.
    pub(super) fn algorithms(self, banner: &str) -> Preferred {
        let mut kex = match self {
            Self::OpenSsh(version) => openssh_kex(version, banner),
            Self::Dropbear(_) => vec![
                kex::CURVE25519,
                kex::CURVE25519_PRE_RFC_8731,
                kex::ECDH_SHA2_NISTP521,
                kex::ECDH_SHA2_NISTP384,
                kex::ECDH_SHA2_NISTP256,
                kex::DH_G14_SHA256,
                kex::DH_G14_SHA1,
            ],
            Self::Cisco => vec![
                kex::ECDH_SHA2_NISTP256,
                kex::ECDH_SHA2_NISTP384,
                kex::ECDH_SHA2_NISTP521,
                kex::DH_G14_SHA1,
            ],
        };
        match self {
            Self::Dropbear(2020..) => kex.retain(|name| *name != kex::DH_G14_SHA1),
            // Dropbear took the name without a domain up in 2018.76.
            Self::Dropbear(..2018) => kex.retain(|name| *name != kex::CURVE25519),
            _ => {}
        }
        Preferred {
            kex: Cow::Owned(kex),
            cipher: Cow::Borrowed(self.ciphers(banner)),
            mac: Cow::Borrowed(self.macs(banner)),
            compression: Cow::Borrowed(&[compression::NONE]),
            ..Preferred::DEFAULT
        }
    }

    fn ciphers(self, banner: &str) -> &'static [cipher::Name] {
        match self {
            Self::OpenSsh(_) if is_red_hat(banner) => &[
                cipher::AES_256_GCM,
                cipher::CHACHA20_POLY1305,
                cipher::AES_256_CTR,
                cipher::AES_128_GCM,
                cipher::AES_128_CTR,
            ],
            Self::OpenSsh(_) => &[
                cipher::CHACHA20_POLY1305,
                cipher::AES_128_CTR,
                cipher::AES_192_CTR,
                cipher::AES_256_CTR,
                cipher::AES_128_GCM,
                cipher::AES_256_GCM,
            ],
            Self::Dropbear(2020..) => &[
                cipher::CHACHA20_POLY1305,
                cipher::AES_128_CTR,
                cipher::AES_256_CTR,
            ],
            Self::Dropbear(_) => &[
                cipher::AES_128_CTR,
                cipher::AES_256_CTR,
                cipher::AES_128_CBC,
                cipher::AES_256_CBC,
            ],
            Self::Cisco => &[
                cipher::AES_128_CTR,
                cipher::AES_192_CTR,
                cipher::AES_256_CTR,
                cipher::AES_128_CBC,
                cipher::AES_192_CBC,
                cipher::AES_256_CBC,
            ],
        }
    }

    fn macs(self, banner: &str) -> &'static [mac::Name] {
        match self {
            Self::OpenSsh(_) if is_red_hat(banner) => &[
                mac::HMAC_SHA256_ETM,
                mac::HMAC_SHA1_ETM,
                mac::HMAC_SHA512_ETM,
                mac::HMAC_SHA256,
                mac::HMAC_SHA1,
                mac::HMAC_SHA512,
            ],
            Self::OpenSsh(_) => &[
                mac::HMAC_SHA256_ETM,
                mac::HMAC_SHA512_ETM,
                mac::HMAC_SHA1_ETM,
                mac::HMAC_SHA256,
                mac::HMAC_SHA512,
                mac::HMAC_SHA1,
            ],
            Self::Dropbear(_) => &[mac::HMAC_SHA1, mac::HMAC_SHA256],
            Self::Cisco => &[mac::HMAC_SHA256, mac::HMAC_SHA512, mac::HMAC_SHA1],
        }
    }
}

fn openssh_kex(version: u32, banner: &str) -> Vec<kex::Name> {
    let mut names = vec![
        kex::CURVE25519,
        kex::CURVE25519_PRE_RFC_8731,
        kex::ECDH_SHA2_NISTP256,
        kex::ECDH_SHA2_NISTP384,
        kex::ECDH_SHA2_NISTP521,
        kex::DH_GEX_SHA256,
    ];
    if is_red_hat(banner) {
        names.extend([kex::DH_G14_SHA256, kex::DH_G16_SHA512, kex::DH_G18_SHA512]);
    } else {
        names.extend([kex::DH_G16_SHA512, kex::DH_G18_SHA512, kex::DH_G14_SHA256]);
    }
    // Dropped from the defaults in OpenSSH 8.2.
    if version < 802 {
        names.push(kex::DH_G14_SHA1);
    }
    // OpenSSH 9.6 announces extensions, and has the strict key exchange against CVE-2023-48795.
    if version >= 906 {
        names.push(kex::EXTENSION_SUPPORT_AS_SERVER);
    }
    if version >= 906 || STRICT.contains(&banner) || is_red_hat(banner) {
        names.push(kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER);
    }
    names
}

/// Older versions into which distributions brought the strict key exchange back.
const STRICT: &[&str] = &[
    "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u2",
    "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3",
    "SSH-2.0-OpenSSH_8.9p1 Ubuntu-3ubuntu0.6",
    "SSH-2.0-OpenSSH_8.9p1 Ubuntu-3ubuntu0.10",
    "SSH-2.0-OpenSSH_8.2p1 Ubuntu-4ubuntu0.11",
];

/// Rocky 9 and Fedora 39, whose system-wide policy orders the algorithms. Their banners name no package.
fn is_red_hat(banner: &str) -> bool {
    matches!(banner, "SSH-2.0-OpenSSH_8.7" | "SSH-2.0-OpenSSH_9.3")
}

/// The number a text begins with.
fn number(text: &str) -> u32 {
    let digits = text.split(|letter: char| !letter.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// An Ed25519 key, where the program knows them, and an ECDSA P-256 key, both the seed's. sshd's RSA key is left out: its generation
/// from a seed takes seconds at every start.
pub(super) fn host_keys(identity: &Identity, program: Program) -> Vec<PrivateKey> {
    let ed25519 = Ed25519Keypair::from_seed(&identity.bytes("ssh.host-key.ed25519"));
    let mut keys = Vec::new();
    if program.has_ed25519() {
        keys.push(PrivateKey::from(ed25519));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every persona offered the newest OpenSSH's algorithms: a Dropbear with AES-GCM, a Cisco with Ed25519.
    #[test]
    fn a_banner_offers_what_its_program_has() {
        let kex = |banner: &str| -> Vec<String> {
            let offered = Program::of(banner).algorithms(banner);
            offered.kex.iter().map(|name| name.as_ref().to_owned()).collect()
        };
        let strict = "kex-strict-s-v00@openssh.com".to_owned();
        assert!(!kex("SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u1").contains(&strict));
        assert!(kex("SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u2").contains(&strict));
        assert!(!kex("SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u2").contains(&"ext-info-s".to_owned()));
        assert!(kex("SSH-2.0-OpenSSH_9.6").contains(&"ext-info-s".to_owned()));
        assert!(kex("SSH-2.0-OpenSSH_7.4").contains(&"diffie-hellman-group14-sha1".to_owned()));
        let dropbear = kex("SSH-2.0-dropbear_2017.75");
        assert!(
            dropbear
                .iter()
                .all(|name| !name.contains("exchange") && !name.contains("strict"))
        );
        assert_eq!(dropbear[0], "curve25519-sha256@libssh.org");
        assert!(
            kex("SSH-2.0-Cisco-1.25")
                .iter()
                .all(|name| !name.contains("25519"))
        );

        let keys = |banner: &str| host_keys(&Identity::from_seed(&[1; 32]), Program::of(banner)).len();
        assert_eq!(
            (
                keys("SSH-2.0-OpenSSH_for_Windows_8.1"),
                keys("SSH-2.0-dropbear_2020.81")
            ),
            (2, 2)
        );
        assert_eq!(
            (keys("SSH-2.0-dropbear_2019.78"), keys("SSH-2.0-Cisco-1.25")),
            (1, 1)
        );
        assert_eq!(
            Program::of("SSH-2.0-OpenSSH_for_Windows_9.5"),
            Program::OpenSsh(905)
        );
    }
}
