//! Which release this is; its refusals name the source line that raised them.

use pgwire::messages::response::ErrorResponse;

use crate::host::{Distro, Host};
use crate::identity::Identity;

/// What differs between releases in a refusal before login.
#[derive(Debug, Clone, Copy)]
pub(super) struct Release {
    /// Lines of `auth_failed` in auth.c and of `ProcessStartupPacket` (two messages).
    auth_failed: u32,
    startup_file: &'static str,
    unsupported: u32,
    no_user: u32,
    oldest_protocol: &'static str,
}

const V12: &Release = &release(328, "postmaster.c", 2105, 2240, "2.0");
const V13: &Release = &release(326, "postmaster.c", 2128, 2265, "2.0");
const V14: &Release = &release(335, "postmaster.c", 2108, 2245, "3.0");
const V15: &Release = &release(329, "postmaster.c", 2119, 2256, "3.0");
const V16: &Release = &release(323, "postmaster.c", 2136, 2273, "3.0");
const V17: &Release = &release(321, "backend_startup.c", 652, 802, "3.0");

const fn release(
    auth_failed: u32,
    startup_file: &'static str,
    unsupported: u32,
    no_user: u32,
    oldest_protocol: &'static str,
) -> Release {
    Release {
        auth_failed,
        startup_file,
        unsupported,
        no_user,
        oldest_protocol,
    }
}

impl Release {
    pub(super) fn new(identity: &Identity, host: &Host) -> Self {
        let shipped: &[&Self] = match host.distro {
            _ if host.family.is_windows() => &[V13, V14, V15, V16],
            Distro::Debian => &[V15, V15, V16, V17],
            Distro::Ubuntu22 => &[V14, V14, V15, V16],
            Distro::Ubuntu20 | Distro::Centos7 => &[V12, V12, V13, V14],
            Distro::Rocky9 => &[V13, V13, V15, V16],
            Distro::Alpine | Distro::Fedora => &[V15, V16],
            Distro::Kali | Distro::Arch => &[V16, V17],
        };
        *identity.choose("postgres.release", shipped)
    }

    pub(super) fn wrong_password(&self, user: &str) -> ErrorResponse {
        let user: String = user.chars().take(63).collect();
        let text = format!("password authentication failed for user \"{user}\"");
        fatal("28P01", text, "auth.c", self.auth_failed, "auth_failed")
    }

    pub(super) fn unsupported_protocol(&self, code: i32) -> ErrorResponse {
        let code = code.cast_unsigned();
        let (major, minor) = (code >> 16, code & 0xffff);
        let text = format!(
            "unsupported frontend protocol {major}.{minor}: server supports {} to 3.0",
            self.oldest_protocol
        );
        fatal(
            "0A000",
            text,
            self.startup_file,
            self.unsupported,
            "ProcessStartupPacket",
        )
    }

    pub(super) fn no_user(&self) -> ErrorResponse {
        let text = "no PostgreSQL user name specified in startup packet".to_owned();
        fatal(
            "28000",
            text,
            self.startup_file,
            self.no_user,
            "ProcessStartupPacket",
        )
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
