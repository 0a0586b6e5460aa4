//! What ends a process: SIGTERM, SIGINT and SIGHUP as one call of a closure, and a panic where none may be.

use std::io;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// From now on a panic of any thread but a connection's ends the process: half a daemon is worse than none, and whoever
/// started it starts it again. A connection's panic is caught by the server, which answers 500.
///
/// `connections` are the names of threads that serve connections.
pub fn end_with_any_thread(connections: &'static [&'static str]) {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        if !thread::current().name().is_some_and(|name| connections.contains(&name)) {
            std::process::abort();
        }
    }));
}

/// A signal's name, as `SIGKILL`; one without a name is `SIG` and its number.
pub fn name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("SIG{signal}"), str::to_owned)
}

/// Calls `stop` with the signal's name, on a thread of its own, each time the process is asked to end.
///
/// # Errors
/// If the handlers cannot be installed or the thread cannot be started.
pub fn on_stop(mut stop: impl FnMut(&'static str) + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    thread::Builder::new().name("signals".into()).stack_size(64 * 1024).spawn(move || {
        for signal in signals.forever() {
            stop(match signal {
                SIGTERM => "SIGTERM",
                SIGINT => "SIGINT",
                _ => "SIGHUP",
            });
        }
    })?;
    Ok(())
}
