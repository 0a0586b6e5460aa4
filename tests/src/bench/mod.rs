//! How fast, how large, how scalable the node is, as comparisons side by side in one run. `scripts/bench.sh` runs them;
//! nothing here is a test, and no test is timed by it. What must be so whatever the speed (no answer missing, events in
//! order) is asserted here too.

use crate::bench::report::Report;

pub mod report;
pub mod samples;
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
pub const BENCHES: &[Bench] = &[Bench {
    name: "soak",
    summary: "what a node holds while it does turn after turn: memory, descriptors, threads, disk",
    run: soak::run,
}];
