//! `load`: keeps connections to a server of this machine busy with one `GET`, and tells what came of it.
//!
//! What the comparisons measure with, by hand: to hold it against other programs of its kind.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use e2e::bench::load::{Load, MOST, Target, run};

const USAGE: &str = "usage: load URL [--connections N] [--seconds N] [--fresh]";

fn main() -> ExitCode {
    let Some((url, load)) = read() else {
        let _ = writeln!(
            io::stderr(),
            "{USAGE}\nN connections: 1 to {MOST}; --fresh: a new one for each request"
        );
        return ExitCode::from(2);
    };
    let tally = run(&Target::of(&url), load);
    let micros = |share| tally.times.quantile(share).as_micros();
    let _ = writeln!(
        io::stdout(),
        "{} answered, {} unanswered, {:.0} per second, p50 {} µs, p99 {} µs",
        tally.times.count(),
        tally.unanswered,
        tally.per_second(),
        micros(0.5),
        micros(0.99),
    );
    ExitCode::from(u8::from(tally.unanswered > 0))
}

fn read() -> Option<(String, Load)> {
    let mut load = Load { connections: 1, fresh: false, lasts: Duration::from_secs(2) };
    let (mut url, mut args) = (None, std::env::args().skip(1));
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--connections" => load.connections = args.next()?.parse().ok()?,
            "--seconds" => load.lasts = Duration::from_secs(args.next()?.parse().ok()?),
            "--fresh" => load.fresh = true,
            _ if arg.starts_with("http://") => url = Some(arg),
            _ => return None,
        }
    }
    url.filter(|_| (1..=MOST).contains(&load.connections)).map(|url| (url, load))
}
