//! How a command ends: what it prints, why it failed, and the exit code. Every program of this crate says it alike.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use common::config::{EXIT_FAILED, EXIT_USAGE, Usage};

/// Why a command ended badly, with its exit code.
pub struct Failure(pub u8, pub String);

impl Failure {
    /// What could not be done, and why.
    pub fn new(what: &str, why: &dyn Display) -> Failure {
        Failure(EXIT_FAILED, format!("{what}: {why}"))
    }
}

impl From<Usage> for Failure {
    fn from(usage: Usage) -> Failure {
        Failure(EXIT_USAGE, usage.0)
    }
}

/// The exit code of `program`; a failure is told on stderr.
pub fn end(program: &str, done: Result<(), Failure>) -> ExitCode {
    let Err(Failure(code, message)) = done else { return ExitCode::SUCCESS };
    let hint = if code == EXIT_USAGE { format!("; see `{program} help`") } else { String::new() };
    // Nobody can be told that stderr is gone.
    let _ = writeln!(std::io::stderr(), "{program}: {message}{hint}");
    ExitCode::from(code)
}

/// Prints what was asked for.
///
/// # Errors
/// If stdout cannot be written; that nobody reads on is no failure (`conductor config | head`).
pub fn say(text: impl Display) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new("cannot write to stdout", &error))
        }
        _ => Ok(()),
    }
}
