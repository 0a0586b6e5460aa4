//! How fast, how large, how scalable the node is, as comparisons side by side in one run. `scripts/bench.sh` runs them;
//! nothing here is a test, and no test is timed by it. What must be so whatever the speed (no answer missing, events in
//! order) is asserted here too.

use crate::bench::report::Report;

pub mod follower;
pub mod http;
pub mod load;
pub mod machine;
pub mod memory;
pub mod proc;
pub mod proxy;
pub mod readers;
pub mod report;
pub mod samples;
pub mod sessions;
pub mod size;
pub mod soak;
pub mod start;
pub mod tasks;
pub mod turns;
pub mod wakeups;
pub mod whole;

/// One comparison.
pub struct Bench {
    /// By which it is chosen on the command line.
    pub name: &'static str,
    /// What it compares, in one line.
    pub summary: &'static str,
    /// Measures, and adds what it found.
    pub run: fn(&mut Report),
}

/// All of them, in the order in which they run.
pub const BENCHES: &[Bench] = &[
    Bench { name: "size", summary: "the three programs as files", run: size::run },
    Bench { name: "start", summary: "from the start of each program to its first answer", run: start::run },
    Bench {
        name: "memory",
        summary: "what each daemon holds: idle, after light use, after load",
        run: memory::run,
    },
    Bench { name: "wakeups", summary: "how often each daemon wakes up while nobody asks", run: wakeups::run },
    Bench { name: "http", summary: "the HTTP server against a floor, axum and Node", run: http::run },
    Bench { name: "proxy", summary: "a call of codexd, directly and through conductor", run: proxy::run },
    Bench {
        name: "turns",
        summary: "a turn end to end: app-server alone, through codexd, through codexd and conductor",
        run: turns::run,
    },
    Bench {
        name: "readers",
        summary: "events from the child's line to a reader's message: one reader, and 64 of them",
        run: readers::run,
    },
    Bench {
        name: "sessions",
        summary: "codexd with 10, 1 000 and 10 000 sessions, and with 1 000 000 events",
        run: sessions::run,
    },
    Bench { name: "tasks", summary: "conductor with 10, 1 000 and 10 000 tasks that wait", run: tasks::run },
    Bench {
        name: "soak",
        summary: "what a node holds while it does turn after turn: memory, descriptors, threads, disk",
        run: soak::run,
    },
];
