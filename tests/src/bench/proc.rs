//! What Linux tells of a process: the memory it holds, and how often its threads were switched to.

use std::fs;
use std::ops::AddAssign;

use crate::bench::report::Report;

/// What figures call a megabyte.
pub const MB: f64 = 1e6;

/// Memory of a process, in bytes, by its page tables; the counters of `ps` are behind by up to a few hundred KB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// All that is in memory.
    pub resident: f64,
    /// Of that, what is no part of a file: heap and stacks.
    pub anonymous: f64,
    /// What would be free again without it.
    pub private: f64,
}

impl Memory {
    /// That of a process; panics where the system does not tell.
    #[track_caller]
    pub fn of(pid: u32) -> Memory {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kb = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
            kb.unwrap_or_else(|| panic!("no {name} in {path}")) * 1024.0
        };
        Memory {
            resident: field("Rss:"),
            anonymous: field("Anonymous:"),
            private: field("Private_Clean:") + field("Private_Dirty:"),
        }
    }

    /// Its figures.
    pub fn tell(&self, report: &mut Report, bench: &'static str, case: &str) {
        report.figure(bench, case, "resident", "MB", self.resident / MB);
        report.figure(bench, case, "of files", "MB", (self.resident - self.anonymous) / MB);
        report.figure(bench, case, "heap and stacks", "MB", self.anonymous / MB);
        report.figure(bench, case, "its alone", "MB", self.private / MB);
    }
}

/// How often threads were switched to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Switches {
    /// As they had waited: a wake-up each.
    pub wanted: u64,
    /// As others had taken their turn.
    pub unwanted: u64,
    /// Threads.
    pub threads: u64,
}

impl AddAssign for Switches {
    fn add_assign(&mut self, more: Switches) {
        self.wanted += more.wanted;
        self.unwanted += more.unwanted;
        self.threads += more.threads;
    }
}

impl Switches {
    /// Those of all threads that a process has; panics if there is none.
    #[track_caller]
    pub fn of(pid: u32) -> Switches {
        let folder = format!("/proc/{pid}/task");
        let tasks = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
        let mut all = Switches::default();
        for task in tasks.flatten() {
            let text = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let count = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name));
                line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
            };
            all += Switches {
                wanted: count("voluntary_ctxt_switches:"),
                unwanted: count("nonvoluntary_ctxt_switches:"),
                threads: 1,
            };
        }
        all
    }
}

/// Ticks of `/proc/PID/stat` in a second, on every Linux that is built for.
const TICKS: f64 = 100.0;

/// Seconds of processor time that a process has used, its threads that have ended included; 0 of one that is not there.
pub fn processor(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything: fields 14 and 15 of the whole.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / TICKS
}
