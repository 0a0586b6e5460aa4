//! How fast, how large, how scalable the node is, as comparisons side by side in one run. `scripts/bench.sh` runs them;
//! nothing here is a test, and no test is timed by it. What must be so whatever the speed (no answer missing, events in
//! order) is asserted here too.

use crate::bench::report::Report;

pub mod follower;
pub mod readers;
pub mod http;
pub mod load;
pub mod proxy;
pub mod report;
pub mod samples;
pub mod turns;
pub mod soak;

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
    Bench { name: "http", summary: "the HTTP server against a floor, axum and Node", run: http::run },
    Bench { name: "proxy", summary: "a call of codexd, directly and through conductor", run: proxy::run },
];
pub const BENCHES: &[Bench] = &[Bench {
    name: "soak",
    summary: "what a node holds while it does turn after turn: memory, descriptors, threads, disk",
    run: soak::run,
}];
