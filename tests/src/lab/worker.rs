//! Lab hosts that run an agent.

use anyhow::Result;
use serde_json::Value;

use super::Host;
use crate::fleet::Operator;
use crate::processes::bin;

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
