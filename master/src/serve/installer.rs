//! How a host gets the agent's package and enrols: a line to paste there, and a file to carry there.
//!
//! Both are `installer/install.sh` with what this master knows filled in. The line holds the SHA-256 of the script, and the
//! script those of the packages: what comes over the network is run and installed only once its digest was seen to be the one
//! that the operator pasted. So it matters to nobody who answers in the master's place, and the connection proves nothing. The
//! token is no part of the script: the line hands it to the script by standard input, so that it comes into no address and no
//! list of processes, and the script hands it to `decnet-agent enroll`, which proves the master by the token's pins.

use std::fmt;

use decnet_pki::digest::Sha256Digest;
use decnet_wire::ids::Digest;

use super::packages::{Package, Packages};

const TEMPLATE: &str = include_str!("installer/install.sh");

/// Under what the enrolment listener has the script, by its digest.
pub const SCRIPT_PATH: &str = "/enroll/v1/install/sha256/";
/// Under what it has packages, by their digest.
pub const PACKAGE_PATH: &str = "/enroll/v1/packages/sha256/";

/// What the package of one host comes from.
const OVER_THE_NETWORK: &str = r#"curl -fsS --insecure --retry 3 --connect-timeout 20 \
        "https://@MASTER@@PATH@$decnet_digest" | head -c "$decnet_size" >"$1""#;
const OUT_OF_THE_FILE: &str = r#"tail -c "$decnet_end" "$decnet_self" | head -c "$decnet_size" >"$1""#;

/// What is said at the end.
const AFTER_THE_LINE: &str = r#"decnet-agent status --wait 90 >/dev/null || decnet_fail 'the agent runs, but the master has not heard from it'
    echo 'decnet-agent runs, and the master has heard from it'"#;
const AFTER_THE_FILE: &str = r#"echo 'decnet-agent runs; while it cannot reach the master, systemctl status decnet-agent says what it waits for'"#;

/// What the agent's settings on a host are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostSettings {
    pub ipvlan: bool,
    pub updater: bool,
}

/// The script of one master, and the packages that it installs.
#[derive(Debug, Default)]
pub struct Installer {
    packages: Packages,
    script: String,
    /// Where the enrolment listener is: `host:port`.
    master: String,
}

/// The beginning of a file that installs and enrols without the master: the packages follow it, one after the other.
pub struct Carried<'a> {
    /// It holds the token.
    pub script: String,
    pub packages: &'a [Package],
}

// Not the token: what is written to a log stays there.
impl fmt::Debug for Carried<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carried")
            .field("packages", &self.packages)
            .finish_non_exhaustive()
    }
}

impl Installer {
    /// For the packages, of which there may be none, and the enrolment listener at `master` (`host:port`).
    #[must_use]
    pub fn new(packages: Packages, master: &str) -> Self {
        let fetch = OVER_THE_NETWORK
            .replace("@MASTER@", master)
            .replace("@PATH@", PACKAGE_PATH);
        let script = filled(&packages, &fetch, AFTER_THE_LINE);
        Self {
            packages,
            // What a shell keeps of it in a variable: without line breaks at the end.
            script: script.trim_end().to_owned(),
            master: master.to_owned(),
        }
    }

    /// The packages that hosts can get.
    #[must_use]
    pub const fn packages(&self) -> &Packages {
        &self.packages
    }

    /// The script with this digest.
    #[must_use]
    pub fn script(&self, digest: &Digest) -> Option<&str> {
        let is_it = !self.packages.all().is_empty() && *digest == digest_of(&self.script);
        is_it.then_some(self.script.as_str())
    }

    /// The line that installs, enrols and starts the agent on the host that it is pasted on; none without packages.
    #[must_use]
    pub fn line(&self, token: &str, settings: HostSettings) -> Option<String> {
        if self.packages.all().is_empty() {
            return None;
        }
        let digest = digest_of(&self.script);
        let (hex, options) = (digest.hex(), settings.options());
        Some(format!(
            "curl -fsSk https://{master}{SCRIPT_PATH}{hex} | \
             {{ s=$(cat); if [ \"$(printf %s \"$s\" | sha256sum)\" = '{hex}  -' ]; \
             then printf '%s\\n' \"$s\" 'decnet_install {token} {options}'; \
             else echo 'echo \"decnet: the script is not what the master meant, or did not come whole\" >&2; exit 1'; fi; }} | \
             sudo sh",
            master = self.master,
        ))
    }

    /// What a file begins with that does the same on a host that does not reach the master yet; none without packages.
    #[must_use]
    pub fn carried(&self, token: &str, settings: HostSettings) -> Option<Carried<'_>> {
        if self.packages.all().is_empty() {
            return None;
        }
        let mut script = filled(&self.packages, OUT_OF_THE_FILE, AFTER_THE_FILE);
        // One command: cut off anywhere, it is none. The shell reads no further than `exit`.
        script.push_str(&format!(
            "{{ decnet_self=$0; [ -f \"$decnet_self\" ] || decnet_fail 'run it as a file: sudo sh FILE'; \
             decnet_install '{token}' --later {}; exit; }}\n",
            settings.options()
        ));
        Some(Carried {
            script,
            packages: self.packages.all(),
        })
    }
}

impl HostSettings {
    /// As `decnet-agent enroll` takes them. Both are always said: the host may have been enrolled otherwise before.
    fn options(self) -> String {
        format!("--ipvlan={} --updater={}", self.ipvlan, self.updater)
    }
}

fn filled(packages: &Packages, fetch: &str, end: &str) -> String {
    let mut rows = String::new();
    let mut left: u64 = packages.all().iter().map(|package| package.size).sum();
    for package in packages.all() {
        let Package {
            kind,
            version,
            digest,
            size,
            ..
        } = package;
        let hex = digest.hex();
        rows.push_str(&format!(
            "{kind}) decnet_version={version} decnet_digest={hex} decnet_size={size} decnet_end={left} ;;\n    "
        ));
        left -= size;
    }
    let kinds: Vec<_> = packages
        .all()
        .iter()
        .map(|package| package.kind.as_str())
        .collect();
    TEMPLATE
        .replace("# @PACKAGES@", rows.trim_end())
        .replace("# @FETCH@", fetch)
        .replace("# @END@", end)
        .replace("@KINDS@", &kinds.join(" "))
}

fn digest_of(text: &str) -> Digest {
    Digest::from_sha256(*Sha256Digest::of(text.as_bytes()).as_bytes())
}

#[cfg(test)]
mod tests;
