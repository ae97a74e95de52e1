//! Running a program with a limit, its output captured.

use std::io::{Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// For programs that answer at once.
pub const SHORT: Duration = Duration::from_secs(30);
/// The most that is kept of one output, in bytes.
const OUTPUT_CAP: u64 = 16 << 20;

/// A program that ended.
#[derive(Debug)]
pub struct Finished {
    /// The command line.
    pub what: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Finished {
    /// Its standard output.
    ///
    /// # Errors
    ///
    /// When it did not succeed.
    pub fn ok(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("`{}` failed ({}): {}", self.what, self.status, self.said())
    }

    /// Standard error and output, in one text.
    #[must_use]
    pub fn said(&self) -> String {
        format!("{}\n{}", self.stderr.trim(), self.stdout.trim())
            .trim()
            .to_owned()
    }

    /// The exit code; none when a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// Runs a program to its end.
///
/// # Errors
///
/// When it cannot be started, or runs longer than `limit`, after which it is killed.
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    run_with(command, b"", limit)
}

/// As [`run`], with `input` on standard input.
///
/// # Errors
///
/// As [`run`].
pub fn run_with(command: &mut Command, input: &[u8], limit: Duration) -> Result<Finished> {
    let what = line(command);
    let start = Instant::now();
    // Its own group: a Ctrl-C is for the one who waits, who then cleans up.
    let mut child = command
        .stdin(if input.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start `{what}`"))?;
    let feeder = child.stdin.take().map(|mut stdin| {
        let input = input.to_vec();
        // A program may end without reading everything.
        thread::spawn(move || drop(stdin.write_all(&input)))
    });
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            let said = stderr.map(joined).unwrap_or_default();
            bail!(
                "`{what}` did not end within {} s; it said: {}",
                limit.as_secs(),
                said.trim()
            );
        }
        thread::sleep(Duration::from_millis(5));
    };
    if let Some(feeder) = feeder {
        drop(feeder.join());
    }
    Ok(Finished {
        what,
        status,
        stdout: stdout.map(joined).unwrap_or_default(),
        stderr: stderr.map(joined).unwrap_or_default(),
        took: start.elapsed(),
    })
}

/// `program` with its arguments.
#[must_use]
pub fn program(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still worth showing.
        drop(from.by_ref().take(OUTPUT_CAP).read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn joined(handle: thread::JoinHandle<String>) -> String {
    handle.join().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_input_and_status_come_back() {
        let cat = run_with(
            &mut program("sh", &["-c", "cat; echo bad >&2; exit 3"]),
            b"in",
            SHORT,
        )
        .unwrap();
        assert_eq!(
            (cat.stdout.as_str(), cat.stderr.as_str(), cat.code()),
            ("in", "bad\n", Some(3))
        );
        assert!(cat.ok().unwrap_err().to_string().contains("bad"));
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let error = run(&mut program("sleep", &["60"]), Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
    }
}
