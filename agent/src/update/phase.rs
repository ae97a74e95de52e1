//! What an update does next. Nothing here reads, writes or waits.

use decnet_wire::release::ProgressState;
use serde::{Deserialize, Serialize};

/// How often a step is begun that something cut off, such as a power cut. After that it is the release that is suspected.
const TRIES: u32 = 2;

/// How far an update is. In the journal before it is acted on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Phase {
    /// Everything that is needed to go back is saved; nothing is changed yet.
    Prepared,
    /// The package manager is at work.
    Installing { tries: u32 },
    /// The new version is started, and judged.
    Judging { tries: u32 },
    /// The previous version is put back and started.
    Restoring { reason: String },
    /// There is nothing left to do but to say so.
    Ended {
        state: ProgressState,
        detail: Option<String>,
    },
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// The updater began, and found this phase in its journal: who was at work on it was cut off.
    Begun,
    /// What the phase asks for is done; for [`Phase::Judging`]: the new version is good.
    Done,
    /// It did not work; for [`Phase::Judging`]: the new version is not good.
    Failed(String),
}

/// The phase after this one.
pub(super) fn next(phase: &Phase, event: Event) -> Phase {
    match (phase, event) {
        (Phase::Prepared, _) => Phase::Installing { tries: 1 },
        (Phase::Installing { .. }, Event::Done) => Phase::Judging { tries: 1 },
        (Phase::Installing { tries }, Event::Begun) if *tries < TRIES => {
            Phase::Installing { tries: tries + 1 }
        }
        (Phase::Installing { .. }, Event::Begun) => restoring("the installation was cut off again and again"),
        (Phase::Judging { .. }, Event::Done) => Phase::Ended {
            state: ProgressState::Kept,
            detail: None,
        },
        (Phase::Judging { tries }, Event::Begun) if *tries < TRIES => Phase::Judging { tries: tries + 1 },
        (Phase::Judging { .. }, Event::Begun) => {
            restoring("the host went off again and again while the new version began")
        }
        (Phase::Installing { .. } | Phase::Judging { .. }, Event::Failed(reason)) => {
            Phase::Restoring { reason }
        }
        (Phase::Restoring { reason }, Event::Done) => Phase::Ended {
            state: ProgressState::Restored,
            detail: Some(reason.clone()),
        },
        // There is nothing else that could be done: it is tried until it works.
        (Phase::Restoring { .. } | Phase::Ended { .. }, _) => phase.clone(),
    }
}

fn restoring(reason: &str) -> Phase {
    Phase::Restoring {
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host, as far as an update changes it.
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Host {
        /// What is in the files. Torn: partly one, partly the other.
        installed: Option<Program>,
        running: Option<Program>,
        journal: Option<Phase>,
        results: Vec<ProgressState>,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Program {
        Old,
        New,
    }

    /// What is wrong with the release.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Release {
        Good,
        DoesNotInstall,
        DoesNotWork,
    }

    /// Where a step is cut off: before it did anything, in the middle, or before its end is in the journal.
    const CUTS: [Option<u32>; 4] = [None, Some(0), Some(1), Some(2)];

    impl Host {
        fn new() -> Self {
            Self {
                installed: Some(Program::Old),
                running: Some(Program::Old),
                journal: Some(Phase::Prepared),
                results: Vec::new(),
            }
        }

        /// Does what a phase asks for; none when it was cut off.
        fn act(&mut self, phase: &Phase, release: Release, cut: Option<u32>) -> Option<Event> {
            if cut == Some(0) {
                return None;
            }
            let mut event = Event::Done;
            match phase {
                Phase::Prepared => {}
                Phase::Installing { .. } => {
                    self.installed = None;
                    if cut == Some(1) {
                        return None;
                    }
                    if release == Release::DoesNotInstall {
                        event = Event::Failed("it does not install".to_owned());
                    } else {
                        self.installed = Some(Program::New);
                    }
                }
                Phase::Judging { .. } => {
                    assert_eq!(self.installed, Some(Program::New), "something else is judged");
                    self.running = Some(Program::New);
                    if cut == Some(1) {
                        return None;
                    }
                    if release == Release::DoesNotWork {
                        event = Event::Failed("it does not work".to_owned());
                    }
                }
                Phase::Restoring { .. } => {
                    self.running = None;
                    if cut == Some(1) {
                        return None;
                    }
                    (self.installed, self.running) = (Some(Program::Old), Some(Program::Old));
                }
                Phase::Ended { state, .. } => {
                    if self.results.last() != Some(state) {
                        self.results.push(*state);
                    }
                    if cut == Some(1) {
                        return None;
                    }
                    self.journal = None;
                }
            }
            if cut == Some(2) { None } else { Some(event) }
        }

        /// The updater's run, until its end or until it is cut off at its step of that number.
        fn run(&mut self, release: Release, cut_at: Option<(usize, Option<u32>)>) {
            let Some(found) = self.journal.clone() else { return };
            let mut phase = next(&found, Event::Begun);
            for step in 0..20 {
                self.journal = Some(phase.clone());
                let cut = cut_at.filter(|(at, _)| *at == step).and_then(|(_, cut)| cut);
                let Some(event) = self.act(&phase, release, cut) else {
                    return;
                };
                if self.journal.is_none() {
                    return;
                }
                phase = next(&phase, event);
            }
            panic!("it does not end: {self:?}");
        }

        /// A power cut: what is installed is started at boot. Then the updater runs to its end.
        fn after_a_power_cut(&mut self, release: Release) {
            self.running = self.installed;
            self.run(release, None);
        }
    }

    #[test]
    fn a_step_that_is_cut_off_again_and_again_is_not_begun_for_ever() {
        for release in [Release::Good, Release::DoesNotWork] {
            for step in 0..2 {
                let mut host = Host::new();
                for boot in 0.. {
                    assert!(boot < 10, "it is begun for ever: {host:?}");
                    // The step that makes the host go off is the same one after each boot.
                    let step = if boot == 0 { step } else { 0 };
                    host.run(release, Some((step, Some(1))));
                    host.running = host.installed;
                    if matches!(host.journal, None | Some(Phase::Restoring { .. })) {
                        break;
                    }
                }
                host.after_a_power_cut(release);
                assert_eq!(host.results, [ProgressState::Restored], "{host:?}");
                assert_eq!(host.running, Some(Program::Old));
            }
        }
    }

    #[test]
    fn whatever_cuts_it_off_it_ends_with_one_of_the_two_versions_whole_and_running() {
        for release in [Release::Good, Release::DoesNotInstall, Release::DoesNotWork] {
            for first in 0..6 {
                for second in 0..6 {
                    for (cut, again) in CUTS.into_iter().flat_map(|a| CUTS.map(|b| (a, b))) {
                        let mut host = Host::new();
                        host.run(release, Some((first, cut)));
                        host.running = host.installed;
                        host.run(release, Some((second, again)));
                        host.after_a_power_cut(release);
                        let said =
                            format!("{release:?}, cut at {first} {cut:?}, then {second} {again:?}: {host:?}");
                        assert_eq!(host.journal, None, "{said}");
                        assert!(
                            host.installed.is_some() && host.installed == host.running,
                            "{said}"
                        );
                        let kept = host.results == [ProgressState::Kept];
                        let restored = host.results == [ProgressState::Restored];
                        assert!(kept || restored, "{said}");
                        assert_eq!(kept, host.installed == Some(Program::New), "{said}");
                        if release != Release::Good {
                            assert!(restored, "{said}");
                        } else if cut.is_none() || again.is_none() {
                            assert!(kept, "one cut is not the release's fault: {said}");
                        }
                    }
                }
            }
        }
    }
}
