//! The three programs as files, stripped, as the release build makes them.

use std::fs;

use crate::bench::proc::MB;
use crate::bench::report::Report;
use crate::process::binary;

/// What each may have.
const MOST_MB: f64 = 2.0;

/// Measures, and adds what it found.
pub fn run(report: &mut Report) {
    for name in ["codexd", "conductor", "status-api"] {
        let path = binary(name);
        let data = fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let size = data.len() as f64 / MB;
        report.figure("size", name, "file", "MB", size);
        report.at_most(&format!("{name}: size of the program"), "MB", size, MOST_MB);
    }
}
