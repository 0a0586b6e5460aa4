//! How often each daemon wakes up while nobody asks, with the default settings: codexd and status-api have no timer, conductor
//! has its lease and its heartbeat.

use std::thread;
use std::time::{Duration, Instant};

use crate::bench::proc::Switches;
use crate::bench::report::Report;
use crate::bench::whole::Whole;
use crate::wait::eventually;

const BENCH: &str = "wakeups";
/// Several of conductor's beats.
const WATCH: Duration = Duration::from_secs(30);
/// By then the last of a use before is over.
const CALM: Duration = Duration::from_secs(60);

/// Measures, and adds what it found.
pub fn run(report: &mut Report) {
    let node = Whole::start();
    node.light_use();
    for (_, daemon) in node.daemons().into_iter().filter(|(name, _)| *name != "conductor") {
        eventually("a quiet second", CALM, || {
            let before = Switches::of(daemon.pid());
            thread::sleep(Duration::from_secs(1));
            (Switches::of(daemon.pid()) == before).then_some(())
        });
    }
    let before = node.daemons().map(|(_, daemon)| Switches::of(daemon.pid()));
    let begun = Instant::now();
    thread::sleep(WATCH);
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    for ((name, daemon), before) in node.daemons().into_iter().zip(before) {
        let after = Switches::of(daemon.pid());
        let wakeups = (after.wanted - before.wanted) as f64 / minutes;
        report.figure(BENCH, name, "wake-ups a minute", "", wakeups);
        report.figure(
            BENCH,
            name,
            "other switches a minute",
            "",
            (after.unwanted - before.unwanted) as f64 / minutes,
        );
        report.figure(BENCH, name, "threads", "", after.threads as f64);
        if name != "conductor" {
            report.at_most(&format!("{name}: wake-ups a minute while nobody asks"), "", wakeups, 0.0);
        }
    }
}
