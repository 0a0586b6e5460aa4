//! `proxy`: what conductor adds to a call of codexd. The list of sessions, with one in it, is asked for directly and through
//! conductor, which has a client, a second parse and a second envelope on its way.

use std::time::Duration;

use serde_json::json;

use crate::bench::load::{self, Load, MOST, Tally, Target};
use crate::bench::report::Report;
use crate::codex::Codex;
use crate::node::{Node, conductor};
use crate::temp::TempDir;

const NAME: &str = "proxy";
const ROUNDS: usize = 30;
const ROUND: Duration = Duration::from_millis(250);

/// Measures, and adds what it found.
pub fn run(report: &mut Report) {
    let dir = TempDir::new();
    let node = Node::start(&Codex::Fake, &[]);
    node.ready();
    node.session(json!({}));
    let conductor = conductor(&dir, node.codexd.url());
    let targets = [
        ("codexd", Target::of(&node.url("/v1/codexd/sessions"))),
        ("conductor", Target::of(&format!("{}/v1/codex/sessions", conductor.url()))),
    ];
    for connections in [1, MOST] {
        let mut tallies = [(); 2].map(|()| Tally::default());
        for _ in 0..ROUNDS {
            for (tally, (_, target)) in tallies.iter_mut().zip(&targets) {
                tally.add(load::run(target, Load { connections, fresh: false, lasts: ROUND }));
            }
        }
        for (tally, (who, _)) in tallies.iter().zip(&targets) {
            let case = format!("{connections} kept, by {who}");
            report.times(NAME, &case, &tally.times);
            report.figure(NAME, &case, "rate", "1/s", tally.per_second());
            report.figure(NAME, &case, "unanswered", "", tally.unanswered as f64);
        }
        let [direct, through] = tallies.map(|tally| tally.times.quantile(0.5).as_secs_f64() * 1e6);
        match connections {
            1 => report.at_most("what conductor adds to a call's p50", "µs", through - direct, 80.0),
            _ => report.figure(
                NAME,
                &format!("{connections} kept, by conductor"),
                "added",
                "µs",
                through - direct,
            ),
        }
    }
}
