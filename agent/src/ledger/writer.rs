//! The one writer. A commit costs a flush of the disk; whatever waits shares it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use decnet_docker::crash;
use redb::Database;
use tokio::sync::{Notify, oneshot};

use super::LedgerError;
use super::tables::Tx;

/// Most jobs in one commit, so that the first of them does not wait for ever.
const BATCH: usize = 64;

type Change = Box<dyn FnMut(&Tx) -> Result<(), LedgerError> + Send>;
/// Where a change leaves what it gives, until its commit.
type Given<T> = Arc<Mutex<Option<T>>>;

struct Job {
    apply: Change,
    answer: oneshot::Sender<Result<(), LedgerError>>,
}

/// A thread that commits. Dropping this finishes what is queued and ends the thread.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(db: Arc<Database>, outbox_grew: Arc<Notify>, commits: Arc<AtomicU64>) -> Self {
        let (jobs, queue) = channel();
        let thread = std::thread::spawn(move || run(&db, &queue, &outbox_grew, &commits));
        Self {
            jobs: Some(jobs),
            thread: Some(thread),
        }
    }

    pub(super) async fn write<T, F>(&self, change: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnMut(&Tx) -> Result<T, LedgerError> + Send + 'static,
    {
        let (given, answer) = self.submit(change)?;
        answered(answer).await.map_err(|_| LedgerError::Closed)??;
        take(&given)
    }

    fn submit<T, F>(&self, mut change: F) -> Result<(Given<T>, Answer), LedgerError>
    where
        T: Send + 'static,
        F: FnMut(&Tx) -> Result<T, LedgerError> + Send + 'static,
    {
        let given = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&given);
        let (answer, answered) = oneshot::channel();
        let apply = Box::new(move |tx: &Tx| {
            let value = change(tx)?;
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
            Ok(())
        });
        let jobs = self.jobs.as_ref().ok_or(LedgerError::Closed)?;
        jobs.send(Job { apply, answer })
            .map_err(|_| LedgerError::Closed)?;
        Ok((given, answered))
    }
}

type Answer = oneshot::Receiver<Result<(), LedgerError>>;

#[cfg(not(test))]
fn answered(answer: Answer) -> Answer {
    answer
}

/// A paused clock jumps ahead whenever all tasks wait, but not while a blocking one does: so that in tests a
/// commit takes no time at all.
#[cfg(test)]
async fn answered(answer: Answer) -> Result<Result<(), LedgerError>, oneshot::error::RecvError> {
    let waiting = tokio::task::spawn_blocking(move || answer.blocking_recv());
    waiting.await.unwrap_or(Ok(Err(LedgerError::Closed)))
}

fn take<T>(given: &Mutex<Option<T>>) -> Result<T, LedgerError> {
    given
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()
        .ok_or(LedgerError::Closed)
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The thread ends when the queue is empty and nobody can add to it.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so; there is nothing left to wait for.
            let _ = thread.join();
        }
    }
}

fn run(db: &Database, queue: &Receiver<Job>, outbox_grew: &Notify, commits: &AtomicU64) {
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        batch.extend(queue.try_iter().take(BATCH - 1));
        let committed = commit(db, &mut batch);
        // After it can be seen: who read the count and then what is written has missed nothing while it stands.
        commits.fetch_add(1, Ordering::AcqRel);
        match committed {
            Ok(pushed) => {
                // Told before answered: whoever waits for the answer may rely on the wake having happened.
                if pushed {
                    outbox_grew.notify_one();
                }
                for job in batch {
                    let _ = job.answer.send(Ok(()));
                }
            }
            // One bad job must not take the others with it.
            Err(_) if batch.len() > 1 => {
                for mut job in batch {
                    let outcome = commit(db, std::slice::from_mut(&mut job)).map(|pushed| {
                        if pushed {
                            outbox_grew.notify_one();
                        }
                    });
                    commits.fetch_add(1, Ordering::AcqRel);
                    let _ = job.answer.send(outcome);
                }
            }
            Err(error) => {
                for job in batch {
                    let _ = job.answer.send(Err(error.clone()));
                }
            }
        }
    }
}

fn commit(db: &Database, batch: &mut [Job]) -> Result<bool, LedgerError> {
    let tx = Tx::start(db)?;
    for job in batch {
        (job.apply)(&tx)?;
    }
    crash::point(crash::BEFORE_COMMIT);
    let pushed = tx.commit()?;
    crash::point(crash::AFTER_COMMIT);
    Ok(pushed)
}
