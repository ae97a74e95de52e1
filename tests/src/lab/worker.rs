//! Lab hosts that run an agent.

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use super::Host;
use crate::fleet::{Operator, SETTLED};
use crate::processes::bin;
use crate::wait::{Seen, until};

/// Prints what there is to be found of us, a line each; nothing before an agent has come and once it has left.
pub const LEFTOVERS: &str = "
systemctl list-units --all --plain --no-legend 'decnet*'
systemctl list-unit-files --no-legend 'decnet*'
docker ps -aq; docker volume ls -q; docker image ls -q
docker network ls --format '{{.Name}}' --filter type=custom
if command -v dpkg >/dev/null; then
    dpkg-query -W -f '${Package} ${Status}\\n' 'decnet*' 2>/dev/null
    dpkg --audit
else
    rpm -qa 'decnet*'
fi
pgrep -af decnet
find / -xdev -name '*decnet*' ! -path '/proc/*' ! -path '/sys/*' ! -path '/var/log/*' ! -path '/root/*' ! -path '/tmp/lab*'
ip -o link | grep -E 'decnet|@vec0'
true";

const UNIT: &str = "[Unit]
Description=DECNET agent
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/decnet-agent run
Restart=on-failure

[Install]
WantedBy=multi-user.target
";

impl Host {
    /// Installs an agent that is to be there after every boot, and enrols it; gives the host's id. `more` are options of
    /// the invitation.
    ///
    /// # Errors
    ///
    /// When the master or the agent refuses.
    pub fn enrol(&self, operator: &Operator, more: &[&str]) -> Result<String> {
        let (uuid, token) = operator.enroll(self.name(), None, more)?;
        self.put(&bin("decnet-agent")?, "/usr/bin/decnet-agent")?;
        self.ok(&format!(
            "decnet-agent enroll '{token}'
             cat >/etc/systemd/system/decnet-agent.service <<'END'\n{UNIT}END
             systemctl daemon-reload && systemctl enable --now decnet-agent && sync"
        ))?;
        Ok(uuid)
    }

    /// Waits until nothing of the agent is left but logs, and the master knows. `more` is what the tombstone names besides
    /// what every host has.
    ///
    /// # Errors
    ///
    /// When something is left, or the master does not know.
    pub fn has_left(&self, operator: &Operator, uuid: &str, more: &[&str]) -> Result<()> {
        let departure = until("the tombstone is here", SETTLED, || {
            let departure = operator.json(&["host", "departures", uuid])?;
            Ok(if departure["status"] == "decommissioned" {
                Seen::Done(departure)
            } else {
                Seen::not_yet(departure)
            })
        })?;
        ensure!(departure["left"] == serde_json::json!([]), "{departure}");
        until("nothing of ours is left", SETTLED, || {
            let left = self.ok(LEFTOVERS)?;
            Ok(Seen::when(left.trim().is_empty(), left))
        })?;
        self.ok("test -d /var/log/decnet")?;
        let removed = departure["removed"].to_string();
        let things = ["container ", "image ", "network ", "path /var/lib/decnet/agent"];
        for thing in things.iter().chain(more) {
            ensure!(
                removed.contains(thing),
                "the tombstone does not name {thing:?}: {removed}"
            );
        }
        ensure!(
            !operator.hosts()?.values().any(|host| host.uuid == uuid),
            "the master still has it"
        );
        ensure!(operator.deckies()?.is_empty(), "its decky is still in the fleet");
        Ok(())
    }

    /// How many seconds lay between the start of the newest version and the return of the previous one, by the guest's own
    /// clock, from what the updater says.
    ///
    /// # Errors
    ///
    /// When it does not say so.
    pub fn was_without_its_agent(&self) -> Result<f64> {
        let said = self.ok(
            "journalctl -u decnet-updater -o short-unix --no-pager | grep -E 'phase=Judging|the previous version runs again' | tail -n 2 | cut -d ' ' -f 1",
        )?;
        let times: Vec<f64> = said.lines().filter_map(|line| line.parse().ok()).collect();
        let [begun, ended] = times[..] else {
            bail!("the updater did not say when: {said:?}");
        };
        Ok(ended - begun)
    }

    /// What its agent says of itself.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub fn agent_status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.ok("decnet-agent status --json")?)?)
    }

    /// The end of what its agent says and has said, for an error.
    #[must_use]
    pub fn agent_says(&self) -> String {
        let said = self.run("decnet-agent status; journalctl -u decnet-agent -n 15 -o cat --no-pager");
        format!(
            "the agent on {} says: {}",
            self.name(),
            said.map_or_else(|error| format!("{error:#}"), |said| said.said())
        )
    }
}
