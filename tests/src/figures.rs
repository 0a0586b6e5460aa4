//! Measured figures, for people to read.

use std::io::{self, Write};

/// Prints a line past the test's captured output.
pub fn print(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
