//! `bench`: runs the comparisons of this package, all or those that are named; `scripts/bench.sh` builds what they need.
//!
//! `bench [--strict] [--json FILE] [NAME …]` prints tables of what it found, and writes the same as JSON; `bench --table FILE`
//! prints those of such a file. 0 whether the claims hold or not, for on which machine they are to hold, it cannot know; with
//! `--strict` 1 when one is missed.

use std::io::{self, Write};
use std::process::ExitCode;

use e2e::bench::BENCHES;
use e2e::bench::machine::Machine;
use e2e::bench::report::Report;

const USAGE: &str = "usage: bench [--strict] [--json FILE] [NAME …], or bench --table FILE";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, why)) => {
            let _ = writeln!(io::stderr(), "bench: {why}");
            ExitCode::from(code)
        }
    }
}

fn run() -> Result<(), (u8, String)> {
    let (mut file, mut names, mut strict) = (None, Vec::new(), false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--json" => file = Some(args.next().ok_or_else(|| (2, format!("--json needs a file; {USAGE}")))?),
            "--strict" => strict = true,
            "--table" => {
                let file = args.next().ok_or_else(|| (2, format!("--table needs a file; {USAGE}")))?;
                let text = std::fs::read(&file).map_err(|error| (1, format!("{file}: {error}")))?;
                let report: Report =
                    serde_json::from_slice(&text).map_err(|error| (1, format!("{file}: {error}")))?;
                return say(&report.table());
            }
            "-h" | "--help" => {
                let list = BENCHES.iter().map(|bench| format!("  {:<10} {}\n", bench.name, bench.summary));
                return say(&format!("{USAGE}\n\n{}", list.collect::<String>()));
            }
            name if BENCHES.iter().any(|bench| bench.name == name) => names.push(arg),
            other => return Err((2, format!("there is no {other}; --help lists what there is"))),
        }
    }
    let mut report = Report::of(Machine::here());
    for bench in
        BENCHES.iter().filter(|bench| names.is_empty() || names.iter().any(|name| name == bench.name))
    {
        let _ = writeln!(io::stderr(), "bench: {}: {}", bench.name, bench.summary);
        (bench.run)(&mut report);
    }
    if let Some(file) = file {
        let json = serde_json::to_string_pretty(&report).map_err(|error| (1, error.to_string()))?;
        std::fs::write(&file, json + "\n").map_err(|error| (1, format!("cannot write {file}: {error}")))?;
    }
    say(&report.table())?;
    if strict && !report.holds() { Err((1, "a claim is missed".to_owned())) } else { Ok(()) }
}

fn say(text: &str) -> Result<(), (u8, String)> {
    io::stdout().write_all(text.as_bytes()).map_err(|error| (1, error.to_string()))
}
