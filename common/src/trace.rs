//! One line an event on stderr: time, level, request id, words.
//!
//! Owns the level, read once from `BAA_LOG` (`error`, `warn`, `info`, `debug`; `info` if unset). Knows nothing of
//! files or rotation: launchd or the shell says where stderr goes.

use std::fmt;
use std::io::Write;
use std::sync::OnceLock;

use crate::time::Timestamp;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something was lost or could not be done.
    Error,
    /// Something to look at in the morning.
    Warn,
    /// What the daemon did.
    Info,
    /// What a developer asks for.
    Debug,
}

impl Level {
    fn parse(text: &str) -> Option<Level> {
        match text {
            "error" => Some(Level::Error),
            "warn" => Some(Level::Warn),
            "info" => Some(Level::Info),
            "debug" => Some(Level::Debug),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

/// Writes a line at `error`.
pub fn error(request_id: Option<&str>, message: fmt::Arguments<'_>) {
    write(Level::Error, request_id, message);
}

/// Writes a line at `warn`.
pub fn warn(request_id: Option<&str>, message: fmt::Arguments<'_>) {
    write(Level::Warn, request_id, message);
}

/// Writes a line at `info`.
pub fn info(request_id: Option<&str>, message: fmt::Arguments<'_>) {
    write(Level::Info, request_id, message);
}

/// Writes a line at `debug`.
pub fn debug(request_id: Option<&str>, message: fmt::Arguments<'_>) {
    write(Level::Debug, request_id, message);
}

fn write(level: Level, request_id: Option<&str>, message: fmt::Arguments<'_>) {
    if level > threshold() {
        return;
    }
    let line = render(Timestamp::now(), level, request_id, message);
    // One write, so that lines of two threads do not mix. Nobody can be told that stderr is gone.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn threshold() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        std::env::var("BAA_LOG").ok().as_deref().and_then(Level::parse).unwrap_or(Level::Info)
    })
}

fn render(at: Timestamp, level: Level, request_id: Option<&str>, message: fmt::Arguments<'_>) -> String {
    let words = message.to_string().replace(['\n', '\r'], " ");
    match request_id {
        Some(id) => format!("{at} {:5} [{id}] {words}\n", level.name()),
        None => format!("{at} {:5} {words}\n", level.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line() {
        let at = Timestamp::from_millis(0);
        assert_eq!(
            render(at, Level::Warn, Some("r-1"), format_args!("two\nlines n={}", 2)),
            "1970-01-01T00:00:00.000Z warn  [r-1] two lines n=2\n"
        );
        assert_eq!(render(at, Level::Error, None, format_args!("x")), "1970-01-01T00:00:00.000Z error x\n");
    }
}
