//! What a node holds, looked at from outside all along, and what is said of it.

use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::bench::proc::processor;
use crate::bench::report::Report;

/// What a process holds.
#[derive(Clone, Copy, Default)]
pub(super) struct Held {
    /// In KB.
    memory: f64,
    pub(super) descriptors: f64,
    pub(super) threads: f64,
    /// Seconds of the processor that it has used.
    used: f64,
}

impl Held {
    /// By proc(5); nothing of a process that is not there.
    pub(super) fn by(pid: u32) -> Held {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let number = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name))?;
            value.split_whitespace().next()?.parse().ok()
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        Held {
            memory: number("VmRSS:").unwrap_or_default(),
            descriptors: descriptors as f64,
            threads: number("Threads:").unwrap_or_default(),
            used: processor(pid),
        }
    }
}

/// One look at everything.
pub(super) struct Look {
    at: f64,
    turns: f64,
    codexd: Held,
    conductor: Held,
    child: Held,
    /// This program.
    callers: Held,
    /// In KB.
    disk: f64,
}

/// What a look tells.
type Of = fn(&Look) -> f64;

/// Whose time is looked at.
const USERS: [(&str, Of); 4] = [
    ("codexd", |look| look.codexd.used),
    ("conductor", |look| look.conductor.used),
    ("the child", |look| look.child.used),
    ("callers and followers", |look| look.callers.used),
];

/// What is seen over time.
pub(super) struct Watch {
    begun: Instant,
    looks: Vec<Look>,
    /// From which look on no daemon died any more.
    settled: usize,
}

/// A number of a look, by name, with the most that it may grow in the longest life beside a fiftieth part.
type Number = (&'static str, &'static str, f64, Of);

/// What the heap keeps when two checkpoints once were made at the same time; a buffer more or less in each connection's thread; connections beyond those that conductor keeps, which come and go; the
/// file that the log is about to delete.
const NUMBERS: [Number; 7] = [
    ("memory of codexd", "KB", 12288.0, |look| look.codexd.memory),
    ("descriptors of codexd", "", 8.0, |look| look.codexd.descriptors),
    ("threads of codexd", "", 8.0, |look| look.codexd.threads),
    ("memory of conductor", "KB", 2048.0, |look| look.conductor.memory),
    ("descriptors of conductor", "", 8.0, |look| look.conductor.descriptors),
    ("threads of conductor", "", 8.0, |look| look.conductor.threads),
    ("state and logs on disk", "KB", 9216.0, |look| look.disk),
];

impl Watch {
    pub(super) fn begin() -> Watch {
        Watch { begun: Instant::now(), looks: Vec::new(), settled: 0 }
    }

    pub(super) fn look(
        &mut self,
        turns: u64,
        codexd: u32,
        conductor: u32,
        child: Option<u32>,
        folder: &Path,
    ) {
        self.looks.push(Look {
            at: self.begun.elapsed().as_secs_f64(),
            turns: turns as f64,
            codexd: Held::by(codexd),
            conductor: Held::by(conductor),
            child: child.map(Held::by).unwrap_or_default(),
            callers: Held::by(std::process::id()),
            disk: (bytes_in(&folder.join("state")) + bytes_in(&folder.join("logs"))) as f64 / 1024.0,
        });
    }

    /// A daemon has died: what it held before says nothing of what it holds now.
    pub(super) fn unsettle(&mut self) {
        self.settled = self.looks.len();
    }

    pub(super) fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Everything over time, and that nothing grew in the longest life of the daemons once it was warm.
    pub(super) fn report(&self, report: &mut Report) {
        let series = |of: Of| self.looks.iter().map(|look| (look.at, of(look))).collect();
        report.series("soak", "turns", "", series(|look| look.turns));
        report.series("soak", "memory of the child", "KB", series(|look| look.child.memory));
        let life = &self.looks[self.settled..];
        let warm = &life[life.len() / 3..];
        let turns = warm[warm.len() - 1].turns - warm[0].turns;
        for (who, of) in USERS {
            // A child that dies begins anew at nothing.
            let used: f64 = warm.windows(2).map(|pair| (of(&pair[1]) - of(&pair[0])).max(0.0)).sum();
            report.figure("soak", &format!("{who}, for a turn"), "processor", "ms", used * 1000.0 / turns);
        }
        let tenth = (warm.len() / 10).max(1);
        for (what, unit, slack, of) in NUMBERS {
            report.series("soak", what, unit, series(of));
            let (first, last) = (median(&warm[..tenth], of), median(&warm[warm.len() - tenth..], of));
            report.figure("soak", what, "first tenth", unit, first);
            report.figure("soak", what, "last tenth", unit, last);
            let bound = first * 1.02 + slack;
            report.at_most(&format!("soak: {what}, at the end of the longest life"), unit, last, bound);
        }
    }
}

fn median(looks: &[Look], of: Of) -> f64 {
    let mut values: Vec<_> = looks.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What all files below a folder hold; one that goes meanwhile holds nothing.
fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => bytes_in(&entry.path()),
        data => data.map_or(0, |data| data.len()),
    };
    entries.map(of).sum()
}
