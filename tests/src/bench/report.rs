//! What a run found: figures, the claims that rest on them, and what went on over time; as a table and as JSON.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::bench::machine::Machine;
use crate::bench::samples::Samples;

/// The findings of one run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    machine: Machine,
    figures: Vec<Figure>,
    claims: Vec<Claim>,
    series: Vec<Series>,
}

/// One measured number.
#[derive(Debug, Serialize, Deserialize)]
struct Figure {
    bench: String,
    case: String,
    what: String,
    unit: String,
    value: f64,
}

/// A number that is to keep within a bound.
#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    what: String,
    unit: String,
    value: f64,
    bound: f64,
    /// Else the bound is the most.
    at_least: bool,
    holds: bool,
}

/// A number over time.
#[derive(Debug, Serialize, Deserialize)]
struct Series {
    bench: String,
    what: String,
    unit: String,
    /// Seconds since the begin, and the number.
    points: Vec<(f64, f64)>,
}

impl Report {
    /// None yet, from this machine.
    pub fn of(machine: Machine) -> Report {
        Report { machine, ..Report::default() }
    }

    /// A number that was measured: of which bench, in which case, what, and its unit.
    pub fn figure(
        &mut self,
        bench: &'static str,
        case: &str,
        what: &'static str,
        unit: &'static str,
        value: f64,
    ) {
        let [bench, case, what, unit] = [bench, case, what, unit].map(str::to_owned);
        self.figures.push(Figure { bench, case, what, unit, value });
    }

    /// Median, p99 and count of these times, in microseconds.
    pub fn times(&mut self, bench: &'static str, case: &str, samples: &Samples) {
        let micros = |share| samples.quantile(share).as_secs_f64() * 1e6;
        self.figure(bench, case, "p50", "µs", micros(0.5));
        self.figure(bench, case, "p99", "µs", micros(0.99));
        self.figure(bench, case, "n", "", samples.count() as f64);
    }

    /// What is claimed to be `bound` at the most.
    pub fn at_most(&mut self, what: &str, unit: &'static str, value: f64, bound: f64) {
        let (what, unit, holds) = (what.to_owned(), unit.to_owned(), value <= bound);
        self.claims.push(Claim { what, unit, value, bound, at_least: false, holds });
    }

    /// What is claimed to be `bound` at least.
    pub fn at_least(&mut self, what: &str, unit: &'static str, value: f64, bound: f64) {
        let (what, unit, holds) = (what.to_owned(), unit.to_owned(), value >= bound);
        self.claims.push(Claim { what, unit, value, bound, at_least: true, holds });
    }

    /// Whether every claim holds.
    pub fn holds(&self) -> bool {
        self.claims.iter().all(|claim| claim.holds)
    }

    /// How a number went, by seconds since the begin.
    pub fn series(&mut self, bench: &'static str, what: &str, unit: &'static str, points: Vec<(f64, f64)>) {
        let [bench, what, unit] = [bench, what, unit].map(str::to_owned);
        self.series.push(Series { bench, what, unit, points });
    }

    /// The machine, one Markdown table of each bench, a line for each case, and one of the claims.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n\n", self.machine);
        let mut benches: Vec<&str> = Vec::new();
        for Figure { bench, .. } in &self.figures {
            benches.iter().all(|known| known != bench).then(|| benches.push(bench));
        }
        for bench in benches {
            let of_bench: Vec<_> = self.figures.iter().filter(|figure| figure.bench == bench).collect();
            let mut whats: Vec<(&str, &str)> = Vec::new();
            let mut cases: Vec<&str> = Vec::new();
            for figure in &of_bench {
                let what = (figure.what.as_str(), figure.unit.as_str());
                whats.iter().all(|known| *known != what).then(|| whats.push(what));
                cases.iter().all(|known| *known != figure.case).then(|| cases.push(&figure.case));
            }
            let heads = whats.iter().map(|(what, unit)| {
                if unit.is_empty() { (*what).to_owned() } else { format!("{what}, {unit}") }
            });
            line(&mut text, [bench.to_owned()].into_iter().chain(heads));
            rule(&mut text, whats.len() + 1);
            for case in cases {
                let value = |what: &(&str, &str)| {
                    let found = of_bench.iter().find(|figure| {
                        figure.case == case && (figure.what.as_str(), figure.unit.as_str()) == *what
                    });
                    found.map_or(String::new(), |figure| number(figure.value))
                };
                line(&mut text, [case.to_owned()].into_iter().chain(whats.iter().map(value)));
            }
            text.push('\n');
        }
        if !self.claims.is_empty() {
            line(&mut text, ["claim", "measured", "bound", ""].map(str::to_owned));
            rule(&mut text, 4);
        }
        for claim in &self.claims {
            let sign = if claim.at_least { "≥" } else { "≤" };
            let with_unit = |value| format!("{} {}", number(value), claim.unit).trim_end().to_owned();
            let verdict = if claim.holds { "holds" } else { "**missed**" };
            line(
                &mut text,
                [
                    claim.what.clone(),
                    with_unit(claim.value),
                    format!("{sign} {}", with_unit(claim.bound)),
                    verdict.to_owned(),
                ],
            );
        }
        text
    }
}

fn line(text: &mut String, cells: impl IntoIterator<Item = String>) {
    let cells: Vec<_> = cells.into_iter().collect();
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

fn rule(text: &mut String, columns: usize) {
    let _ = writeln!(text, "|{}", " --- |".repeat(columns));
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        0.0..10.0 if value.fract() != 0.0 => format!("{value:.2}"),
        10.0..100.0 if value.fract() != 0.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
