//! What was measured, as medians and ratios.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    Bare,
    Compose,
    Command,
    Agent,
}

impl Contender {
    pub(crate) const ALL: [Self; 4] = [Self::Bare, Self::Compose, Self::Command, Self::Agent];

    /// From their names, separated by commas; all of them when there is none.
    pub(crate) fn chosen(names: &str) -> Result<Vec<Self>> {
        if names.trim().is_empty() {
            return Ok(Self::ALL.to_vec());
        }
        let find = |name: &str| Self::ALL.into_iter().find(|contender| contender.name() == name);
        names
            .split(',')
            .map(|name| find(name.trim()).with_context(|| format!("no contender is called {name:?}")))
            .collect()
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Compose => "compose",
            Self::Command => "command",
            Self::Agent => "agent",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Until the last container runs.
    Up,
    /// Until the master knows that every decky came up and stayed up.
    Told,
    /// Nothing to do.
    Idle,
    /// One service of one decky changed.
    Change,
    /// Until the last container is removed.
    Down,
}

impl Phase {
    const ALL: [Self; 5] = [Self::Up, Self::Told, Self::Idle, Self::Change, Self::Down];

    const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Told => "up and reported",
            Self::Idle => "nothing to do",
            Self::Change => "one service changed",
            Self::Down => "down",
        }
    }
}

/// By size, phase and contender, one duration a round.
#[derive(Debug, Default)]
pub(crate) struct Report(BTreeMap<(usize, Phase, Contender), BTreeMap<usize, Duration>>);

impl Report {
    pub(crate) fn add(
        &mut self,
        size: usize,
        round: usize,
        contender: Contender,
        phase: Phase,
        took: Duration,
    ) {
        self.0
            .entry((size, phase, contender))
            .or_default()
            .insert(round, took);
    }

    pub(crate) fn print(&self, size: usize) {
        print!("{}", self.table(Some(size)));
    }

    pub(crate) fn to_markdown(&self) -> String {
        self.table(None)
    }

    fn table(&self, only: Option<usize>) -> String {
        let mut text = String::from(
            "| deckies | phase | contender | median ms | min | max | of bare | of compose |\n\
             | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |\n",
        );
        let mut sizes: Vec<usize> = self.0.keys().map(|(size, ..)| *size).collect();
        sizes.dedup();
        for size in sizes
            .into_iter()
            .filter(|size| only.is_none_or(|only| only == *size))
        {
            for phase in Phase::ALL {
                for contender in Contender::ALL {
                    let Some(rounds) = self.0.get(&(size, phase, contender)) else {
                        continue;
                    };
                    let times: Vec<f64> = rounds.values().map(Duration::as_secs_f64).collect();
                    let (least, most) = times.iter().fold((f64::MAX, 0.0_f64), |(least, most), time| {
                        (least.min(*time), most.max(*time))
                    });
                    // Writing into a String cannot fail.
                    let _ = writeln!(
                        text,
                        "| {size} | {} | {} | {} | {} | {} | {} | {} |",
                        phase.name(),
                        contender.name(),
                        milliseconds(median(times)),
                        milliseconds(least),
                        milliseconds(most),
                        self.ratio(size, phase, contender, Contender::Bare),
                        self.ratio(size, phase, contender, Contender::Compose),
                    );
                }
            }
        }
        text
    }

    /// The median over rounds of how long one took for each second of another in the same round.
    fn ratio(&self, size: usize, phase: Phase, contender: Contender, peer: Contender) -> String {
        // What is reported can only be held against what comes up.
        let theirs = if phase == Phase::Told { Phase::Up } else { phase };
        let (Some(mine), Some(peers)) = (
            self.0.get(&(size, phase, contender)),
            self.0.get(&(size, theirs, peer)),
        ) else {
            return String::new();
        };
        let ratios: Vec<f64> = mine
            .iter()
            .filter_map(|(round, took)| Some(took.as_secs_f64() / peers.get(round)?.as_secs_f64()))
            .collect();
        format!("{:.2}", median(ratios))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

fn milliseconds(seconds: f64) -> String {
    let ms = seconds * 1000.0;
    if ms < 100.0 {
        format!("{ms:.1}")
    } else {
        format!("{ms:.0}")
    }
}
