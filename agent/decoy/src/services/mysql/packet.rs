//! Packets of the connection phase.

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::release::{Family, Release};

/// Longest packet read before a login; a login with every attribute is below 4 KiB.
const PACKET_CAP: usize = 16 * 1024;
/// Attributes read from one login.
const ATTRIBUTES_CAP: usize = 64;

// Capability flags.
const LONG_PASSWORD: u32 = 1;
const CONNECT_WITH_DB: u32 = 1 << 3;
const PROTOCOL_41: u32 = 1 << 9;
const SSL: u32 = 1 << 11;
const SECURE_CONNECTION: u32 = 1 << 15;
const PLUGIN_AUTH: u32 = 1 << 19;
const CONNECT_ATTRS: u32 = 1 << 20;
const PLUGIN_AUTH_LENENC: u32 = 1 << 21;
/// What MySQL 8 announces when it has no certificate.
const ANNOUNCED: u32 = 0xdfff_ffff & !SSL;
/// What MySQL 5 announces likewise.
const ANNOUNCED_OLD: u32 = 0xc1ff_ffff & !SSL;
/// What MariaDB announces likewise: it leaves `LONG_PASSWORD` out to be told apart.
const ANNOUNCED_MARIADB: u32 = 0x81ff_ffff & !SSL & !LONG_PASSWORD;
/// `SERVER_STATUS_AUTOCOMMIT`.
const AUTOCOMMIT: u16 = 2;

/// Why no packet was read.
#[derive(Debug)]
pub(super) enum PacketError {
    Io(io::Error),
    /// The four bytes that promised too much.
    TooLarge([u8; 4]),
}

impl From<io::Error> for PacketError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The next packet's sequence number and body.
pub(super) async fn read<R: AsyncRead + Unpin>(stream: &mut R) -> Result<(u8, Vec<u8>), PacketError> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
    if length > PACKET_CAP {
        return Err(PacketError::TooLarge(head));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((head[3], body))
}

pub(super) async fn write<W: AsyncWrite + Unpin>(
    stream: &mut W,
    sequence: u8,
    body: &[u8],
) -> io::Result<()> {
    // Bodies are a few hundred bytes of this program's making, far below the three-byte limit.
    let length = u32::try_from(body.len()).unwrap_or(0).to_le_bytes();
    let packet = [&length[..3], &[sequence], body].concat();
    stream.write_all(&packet).await
}

/// `Protocol::HandshakeV10`.
pub(super) fn greeting(release: &Release, connection: u32, scramble: &[u8; 20]) -> Vec<u8> {
    let capabilities = match release.family {
        Family::MariaDb => ANNOUNCED_MARIADB,
        Family::MySql8 => ANNOUNCED,
        Family::MySql5 => ANNOUNCED_OLD,
    };
    let capabilities = capabilities.to_le_bytes();
    let mut out = vec![10];
    out.extend(release.version.as_bytes());
    out.push(0);
    out.extend(connection.to_le_bytes());
    out.extend(&scramble[..8]);
    out.push(0);
    out.extend(&capabilities[..2]);
    out.push(release.collation());
    out.extend(AUTOCOMMIT.to_le_bytes());
    out.extend(&capabilities[2..]);
    out.push(21);
    out.extend([0; 10]);
    out.extend(&scramble[8..]);
    out.push(0);
    out.extend(release.plugin().as_bytes());
    out.push(0);
    out
}

/// `Protocol::AuthSwitchRequest`.
pub(super) fn switch_request(plugin: &str, scramble: &[u8; 20]) -> Vec<u8> {
    [&[0xfe], plugin.as_bytes(), &[0], scramble, &[0]].concat()
}

/// What a client says who it is: `Protocol::HandshakeResponse41`, or the older `320`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: Vec<u8>,
    pub(super) response: Vec<u8>,
    pub(super) database: Option<Vec<u8>>,
    pub(super) plugin: Option<Vec<u8>>,
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Login {
    /// `None` when it is not a login, or one that asks for TLS, which was not offered.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let mut rest = Fields(body);
        let low = rest.take(2)?;
        let low = u32::from(u16::from_le_bytes([low[0], low[1]]));
        if low & PROTOCOL_41 == 0 {
            return Self::parse_320(rest);
        }
        let high = rest.take(2)?;
        let flags = low | u32::from(u16::from_le_bytes([high[0], high[1]])) << 16;
        // Largest packet, collation, filler.
        rest.take(4 + 1 + 23)?;
        let user = rest.until_nul()?.to_vec();
        let response = if flags & PLUGIN_AUTH_LENENC != 0 {
            rest.length_encoded()?.to_vec()
        } else if flags & SECURE_CONNECTION != 0 {
            let length = usize::from(rest.take(1)?[0]);
            rest.take(length)?.to_vec()
        } else {
            rest.until_nul()?.to_vec()
        };
        let mut login = Self {
            user,
            response,
            ..Self::default()
        };
        // What follows is a bonus: a login with a damaged end is still a login.
        if flags & CONNECT_WITH_DB != 0 {
            login.database = rest.until_nul().map(<[u8]>::to_vec);
        }
        if flags & PLUGIN_AUTH != 0 {
            login.plugin = rest.until_nul().map(<[u8]>::to_vec);
        }
        if flags & CONNECT_ATTRS != 0 {
            login.attributes = rest.length_encoded().map(attributes).unwrap_or_default();
        }
        Some(login)
    }

    fn parse_320(mut rest: Fields<'_>) -> Option<Self> {
        rest.take(3)?;
        let user = rest.until_nul()?.to_vec();
        // Either NUL-terminated with a database after it, or all that is left.
        let (response, database) = match rest.until_nul() {
            Some(response) => (
                response.to_vec(),
                Some(rest.0.split(|byte| *byte == 0).next()?.to_vec()),
            ),
            None => (rest.0.to_vec(), None),
        };
        let database = database.filter(|name| !name.is_empty());
        Some(Self {
            user,
            response,
            database,
            ..Self::default()
        })
    }
}

fn attributes(bytes: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rest = Fields(bytes);
    let mut pairs = Vec::new();
    while pairs.len() < ATTRIBUTES_CAP
        && let Some(name) = rest.length_encoded()
        && let Some(value) = rest.length_encoded()
    {
        pairs.push((name.to_vec(), value.to_vec()));
    }
    pairs
}

/// Bytes not read yet; every read checks what is left.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn until_nul(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = self.take(end)?;
        self.take(1)?;
        Some(text)
    }

    /// `string<lenenc>`; lengths of eight bytes cannot fit a packet and are not read.
    fn length_encoded(&mut self) -> Option<&'a [u8]> {
        let length = match self.take(1)?[0] {
            short @ 0..=0xfa => usize::from(short),
            0xfc => self.little_endian(2)?,
            0xfd => self.little_endian(3)?,
            _ => return None,
        };
        self.take(length)
    }

    fn little_endian(&mut self, count: usize) -> Option<usize> {
        Some(
            self.take(count)?
                .iter()
                .rev()
                .fold(0, |number, byte| number << 8 | usize::from(*byte)),
        )
    }
}

/// `ERR_Packet`.
#[derive(Debug)]
pub(super) struct Refusal {
    code: u16,
    state: &'static str,
    text: Vec<u8>,
}

impl Refusal {
    /// `ER_ACCESS_DENIED_ERROR`.
    pub(super) fn access_denied(user: &[u8], from: IpAddr, with_password: bool) -> Self {
        // Names longer than an account's are cut, as the server does.
        let user = &user[..user.len().min(96)];
        let host = format!(
            "'@'{from}' (using password: {})",
            if with_password { "YES" } else { "NO" }
        );
        Self {
            code: 1045,
            state: "28000",
            text: [b"Access denied for user '", user, host.as_bytes()].concat(),
        }
    }

    /// `ER_HANDSHAKE_ERROR`.
    pub(super) fn bad_handshake() -> Self {
        Self {
            code: 1043,
            state: "08S01",
            text: b"Bad handshake".to_vec(),
        }
    }

    /// `ER_NET_PACKET_TOO_LARGE`.
    pub(super) fn too_large() -> Self {
        let text = b"Got a packet bigger than 'max_allowed_packet' bytes".to_vec();
        Self {
            code: 1153,
            state: "08S01",
            text,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let code = self.code.to_le_bytes();
        [&[0xff], &code[..], b"#", self.state.as_bytes(), &self.text].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login() -> Vec<u8> {
        let flags = PROTOCOL_41 | SECURE_CONNECTION | CONNECT_WITH_DB | PLUGIN_AUTH | CONNECT_ATTRS;
        let mut body = flags.to_le_bytes().to_vec();
        body.extend([0; 28]);
        body.extend(b"root\0");
        body.extend([3, 1, 2, 3]);
        body.extend(b"mysql\0caching_sha2_password\0");
        body.extend([8, 3, b'_', b'o', b's', 3, b'w', b'i', b'n']);
        body
    }

    #[test]
    fn every_part_of_a_login_is_kept() {
        let expected = Login {
            user: b"root".to_vec(),
            response: vec![1, 2, 3],
            database: Some(b"mysql".to_vec()),
            plugin: Some(b"caching_sha2_password".to_vec()),
            attributes: vec![(b"_os".to_vec(), b"win".to_vec())],
        };
        assert_eq!(Login::parse(&login()), Some(expected));
    }

    #[test]
    fn the_oldest_form_is_understood() {
        let body = [&[0, 0, 0, 0, 0][..], b"root\0abcdefgh\0test\0"].concat();
        let login = Login::parse(&body).unwrap();
        assert_eq!(
            (login.user, login.response, login.database),
            (b"root".into(), b"abcdefgh".into(), Some(b"test".into()))
        );
    }

    #[test]
    fn a_cut_or_lying_login_never_reads_past_its_end() {
        let whole = login();
        for length in 0..whole.len() {
            let _ = Login::parse(&whole[..length]);
        }
        for index in 0..whole.len() {
            let mut changed = whole.clone();
            changed[index] = 0xff;
            let _ = Login::parse(&changed);
        }
        assert_eq!(Login::parse(&whole[..20]), None);
    }
}
