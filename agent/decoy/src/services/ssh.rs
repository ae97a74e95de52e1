//! ssh (RFC 4251–4254): every credential is captured; who gets in finds the shell.

mod software;
mod visitor;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use russh::server::Config;

use crate::Failure;
use crate::door::Door;
use crate::environment::Context;
use crate::host::Host;
use crate::identity::Identity;
use crate::serve::IDLE_TIMEOUT;
use crate::shell::ShellPersona;
use visitor::Visitor;

/// What all visitors share.
#[derive(Debug)]
struct Ssh {
    host: Host,
    identity: Identity,
    program: software::Program,
    door: Door,
}

pub(super) async fn run(context: Context) -> Result<(), Failure> {
    let persona: ShellPersona = context.persona()?;
    let host = persona.host(&context.host);
    let banner = software::banner(&host, &context.identity);
    let program = software::Program::of(banner);
    let config = Arc::new(Config {
        server_id: russh::SshId::Standard(banner.into()),
        keys: software::host_keys(&context.identity, program),
        preferred: program.algorithms(banner),
        methods: program.methods(),
        auth_rejection_time: Duration::from_millis(700),
        auth_rejection_time_initial: Some(Duration::ZERO),
        // MaxAuthTries of sshd_config(5); russh counts the opening "none" as well.
        max_auth_attempts: 7,
        inactivity_timeout: Some(IDLE_TIMEOUT),
        window_size: 64 * 1024,
        channel_buffer_size: 8,
        ..Config::default()
    });
    let ssh = Arc::new(Ssh {
        door: Door::new(&context.identity, "ssh", persona.accounts()),
        identity: context.identity.clone(),
        program,
        host,
    });
    crate::serve::tcp(&context, move |connection, session| {
        let visitor = Visitor::new(Arc::clone(&ssh), session);
        let config = Arc::clone(&config);
        async move {
            let running = russh::server::run_stream(config, connection, visitor).await;
            finish(match running {
                Ok(running) => running.await,
                Err(error) => Err(error),
            })
        }
    })
    .await
}

/// A visitor who hangs up is no error.
fn finish(ended: Result<(), russh::Error>) -> io::Result<()> {
    match ended {
        Ok(()) | Err(russh::Error::Disconnect | russh::Error::HUP) => Ok(()),
        Err(russh::Error::IO(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        Err(russh::Error::IO(error)) => Err(error),
        Err(error) => Err(io::Error::other(error.to_string())),
    }
}
