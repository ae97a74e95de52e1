//! Which release this is; its refusals name the source line that raised them.

use pgwire::messages::response::ErrorResponse;

use crate::host::{Distro, Host};
use crate::identity::Identity;

/// A release, as built for a platform.
#[derive(Debug, Clone, Copy)]
pub(super) struct Server {
    release: &'static Release,
    /// Builds with Visual C++ name files by their path.
    windows: bool,
}

/// What differs between releases in a refusal before login.
#[derive(Debug, Clone, Copy)]
struct Release {
    /// Lines of `auth_failed` in auth.c and of `ProcessStartupPacket` in postmaster.c (two messages).
    auth_failed: u32,
    unsupported: u32,
    no_user: u32,
    oldest_protocol: &'static str,
}

// Line numbers of 12.12, 13.8, 14.5 and 15.0. A scanner takes the release from them, so numbers of no release are worse
// than few releases.
const V12: &Release = &release(328, 2119, 2256, "2.0");
const V13: &Release = &release(326, 2133, 2270, "2.0");
const V14: &Release = &release(335, 2138, 2275, "3.0");
const V15: &Release = &release(334, 2194, 2323, "3.0");

const fn release(auth_failed: u32, unsupported: u32, no_user: u32, oldest_protocol: &'static str) -> Release {
    Release {
        auth_failed,
        unsupported,
        no_user,
        oldest_protocol,
    }
}

impl Server {
    pub(super) fn new(identity: &Identity, host: &Host) -> Self {
        let windows = host.family.is_windows();
        let shipped: &[&'static Release] = match host.distro {
            _ if windows => &[V13, V14, V15],
            Distro::Debian | Distro::Alpine | Distro::Fedora | Distro::Kali | Distro::Arch => &[V15],
            Distro::Ubuntu22 => &[V14, V14, V15],
            Distro::Ubuntu20 | Distro::Centos7 => &[V12, V12, V13, V14],
            Distro::Rocky9 => &[V13, V13, V15],
        };
        let drawn = identity.number("postgres.release", 0..=shipped.len() as u64 - 1);
        Self {
            release: shipped[usize::try_from(drawn).unwrap_or(0)],
            windows,
        }
    }

    pub(super) fn wrong_password(&self, user: &str) -> ErrorResponse {
        let user: String = user.chars().take(63).collect();
        let text = format!("password authentication failed for user \"{user}\"");
        let file = if self.windows {
            ".\\src\\backend\\libpq\\auth.c"
        } else {
            "auth.c"
        };
        fatal("28P01", text, file, self.release.auth_failed, "auth_failed")
    }

    pub(super) fn unsupported_protocol(&self, code: i32) -> ErrorResponse {
        let code = code.cast_unsigned();
        let (major, minor) = (code >> 16, code & 0xffff);
        let text = format!(
            "unsupported frontend protocol {major}.{minor}: server supports {} to 3.0",
            self.release.oldest_protocol
        );
        self.startup("0A000", text, self.release.unsupported)
    }

    pub(super) fn no_user(&self) -> ErrorResponse {
        let text = "no PostgreSQL user name specified in startup packet".to_owned();
        self.startup("28000", text, self.release.no_user)
    }

    fn startup(&self, code: &str, text: String, line: u32) -> ErrorResponse {
        let file = if self.windows {
            ".\\src\\backend\\postmaster\\postmaster.c"
        } else {
            "postmaster.c"
        };
        fatal(code, text, file, line, "ProcessStartupPacket")
    }
}

/// Fields in the order a server sends them (PostgreSQL documentation, "Error and Notice Message Fields").
fn fatal(code: &str, text: String, file: &str, line: u32, routine: &str) -> ErrorResponse {
    let fields = [
        (b'S', "FATAL".to_owned()),
        (b'V', "FATAL".to_owned()),
        (b'C', code.to_owned()),
        (b'M', text),
        (b'F', file.to_owned()),
        (b'L', line.to_string()),
        (b'R', routine.to_owned()),
    ];
    ErrorResponse::new(fields.into())
}
