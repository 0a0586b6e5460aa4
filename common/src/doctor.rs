//! `doctor`: what a daemon stands on, a check a line, whether the daemon runs or not.
//!
//! Owns the form of a check, its deadline, and the checks that daemons share. It looks and asks, and changes nothing: no
//! file is written, no lock is kept, no token leaves the program. Knows of no daemon what it is for.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::{Failure, say};
use crate::client::{self, MAX_ANSWER_BYTES};
use crate::config::{EXIT_FAILED, LocalUrl};
use crate::http::{MAX_CONNECTIONS, RESERVED_CONNECTIONS, RESERVED_DESCRIPTORS};
use crate::{document, sys, trace};

/// One step, whatever it hangs at: above all that a step waits for by itself.
const STEP_WITHIN: Duration = Duration::from_secs(20);
/// A daemon on this machine takes the connection at once, or it is not there.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);
/// A whole answer. What asks the core of a daemon is answered in milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Below this the next segment, checkpoint and documents may not fit: a daemon refuses work then.
const LEAST_FREE_BYTES: u64 = 64 * 1024 * 1024;
/// How far a clock may be off: file systems and a clock that is being slewed are not exact.
const CLOCK_SLACK: Duration = Duration::from_secs(2);

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Well.
    Ok,
    /// It works, and should be looked at.
    Warn,
    /// It does not work, or is not safe.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// `port`.
    pub name: &'static str,
    /// How it went.
    pub status: Status,
    /// The facts.
    pub message: String,
    /// What to do about it, if it is not well.
    pub hint: Option<String>,
}

impl Check {
    /// It is well.
    pub fn ok(name: &'static str, message: impl Into<String>) -> Check {
        Check { name, status: Status::Ok, message: message.into(), hint: None }
    }

    /// It works, and should be looked at.
    pub fn warn(name: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Check {
        Check { name, status: Status::Warn, message: message.into(), hint: Some(hint.into()) }
    }

    /// It does not work, or is not safe.
    pub fn fail(name: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Check {
        Check { name, status: Status::Fail, message: message.into(), hint: Some(hint.into()) }
    }
}

/// Makes checks one after the other, and keeps them.
pub struct Doctor {
    checks: Vec<Check>,
    begun: (Instant, SystemTime),
}

impl Default for Doctor {
    fn default() -> Doctor {
        Doctor { checks: Vec::new(), begun: (Instant::now(), SystemTime::now()) }
    }
}

impl Doctor {
    /// Makes a check on a thread of its own, which is left behind when it takes too long.
    pub fn check(&mut self, name: &'static str, look: impl FnOnce() -> Check + Send + 'static) {
        let check = within(STEP_WITHIN, look).unwrap_or_else(|| {
            let secs = STEP_WITHIN.as_secs();
            Check::fail(
                name,
                format!("no end after {secs} s"),
                "Look what hangs: a disk, or a mount of the network.",
            )
        });
        self.checks.push(check);
    }

    /// The same for what is asked first and looked at by several checks; `None` if it takes too long.
    pub fn ask<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        within(STEP_WITHIN, look)
    }

    /// Whether the clock is sane: not behind any of these files nor behind this program, and steady while we looked.
    pub fn clock(&mut self, files: Vec<PathBuf>) {
        let begun = self.begun;
        self.check("clock", move || clock(begun, files));
    }

    /// Prints all checks.
    ///
    /// # Errors
    /// If one failed, or stdout cannot be written.
    pub fn report(self, as_json: bool) -> Result<(), Failure> {
        let verdict = self.verdict();
        match as_json {
            true => say(format_args!("{:#}\n", json!({ "ok": verdict.is_ok(), "checks": self.checks })))?,
            false => say(text(&self.checks))?,
        }
        verdict
    }

    fn verdict(&self) -> Result<(), Failure> {
        match self.checks.iter().filter(|check| check.status == Status::Fail).count() {
            0 => Ok(()),
            failed => Err(Failure(EXIT_FAILED, format!("{failed} of {} checks failed", self.checks.len()))),
        }
    }
}

fn within<T: Send + 'static>(patience: Duration, look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = mpsc::channel();
    let looking = thread::Builder::new().name("doctor".into()).spawn(move || {
        let _ = done.send(look()); // too late: nobody waits
    });
    looking.ok().and_then(|_| result.recv_timeout(patience).ok())
}

/// A line a check, and below each that is not well what to do.
fn text(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for Check { name, status, message, hint } in checks {
        let status = match status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        };
        let _ = writeln!(out, "{status:4}  {name:width$}  {}", trace::visible(message));
        if let Some(hint) = hint {
            let _ = writeln!(out, "      {:width$}  {}", "", trace::visible(hint));
        }
    }
    out
}

// ---- daemons ----

/// What is found where a daemon should listen.
#[derive(Clone, Debug)]
pub enum Found {
    /// Nobody takes the connection.
    Nobody(String),
    /// Somebody does, who is not that daemon: what it said.
    Stranger(String),
    /// That daemon: its answer, or why it gave none; and whether it is ready, or why not.
    Daemon {
        /// `data` of its answer.
        data: Result<Value, String>,
        /// What `/readyz` says.
        ready: Result<(), String>,
    },
}

/// Asks whoever listens at `base` for `target`, which only the wanted daemon has.
pub fn find(base: &LocalUrl, target: &str) -> Found {
    let Some(address) = base.address().map(|address| SocketAddr::new(address, base.port)) else {
        return Found::Nobody(format!("{base} has no address"));
    };
    if let Err(error) = TcpStream::connect_timeout(&address, CONNECT_WITHIN) {
        return Found::Nobody(error.to_string());
    }
    let (status, text) = match get(base, target) {
        Ok(answer) => answer,
        Err(why) => return Found::Stranger(why),
    };
    let mut answer: Value = serde_json::from_str(&text).unwrap_or_default();
    let has_id = answer["requestId"].is_string() || answer["request_id"].is_string();
    let data = match (answer["ok"].as_bool(), status) {
        (Some(true), 200) if has_id => Ok(answer["data"].take()),
        (Some(false), 401 | 403 | 500..) if has_id => {
            Err(answer["message"].as_str().unwrap_or_default().to_owned())
        }
        _ => return Found::Stranger(format!("HTTP {status} to {target}")),
    };
    let ready = match get(base, "/readyz") {
        Ok((200, _)) => Ok(()),
        Ok((_, why)) => Err(why.trim().to_owned()),
        Err(why) => Err(why),
    };
    Found::Daemon { data, ready }
}

fn get(base: &LocalUrl, target: &str) -> Result<(u16, String), String> {
    let request = client::agent().get(format!("{base}{target}"));
    let request = request.config().timeout_global(Some(ANSWER_WITHIN)).build();
    let said = |error: ureq::Error| error.to_string();
    let mut answer = request.call().map_err(said)?;
    let text = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).lossy_utf8(true).read_to_string();
    Ok((answer.status().as_u16(), text.map_err(said)?))
}

/// Whether a daemon may listen at `base`, or does already. `flag` says where, `ours` whether it works on our directories.
pub fn port(name: &str, flag: &str, base: &LocalUrl, found: &Found, ours: bool) -> Check {
    const PORT: &str = "port";
    let other = format!("End what listens there, or choose another port with {flag}.");
    match found {
        _ if base.port == 0 => Check::ok(PORT, format!("{base}: any that is free")),
        Found::Daemon { .. } if ours => Check::ok(PORT, format!("{base}: this {name} listens")),
        Found::Daemon { .. } => {
            Check::fail(PORT, format!("{base}: a {name} of other directories listens"), other)
        }
        Found::Stranger(said) => Check::fail(
            PORT,
            format!("{base}: somebody listens who is no {name} that answers ({said})"),
            other,
        ),
        Found::Nobody(_) => {
            let address = base.address().map(|address| SocketAddr::new(address, base.port));
            let bound =
                address.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into()).and_then(TcpListener::bind);
            match bound {
                Ok(_) => Check::ok(PORT, format!("{base}: free")),
                Err(error) => Check::fail(
                    PORT,
                    format!("{base}: cannot listen: {error}"),
                    format!("Choose an address of this machine and a free port from 1024 on with {flag}."),
                ),
            }
        }
    }
}

/// Whether a daemon runs, is ready, and is of this version; `version` points to its own in its answer. `needed`: it must
/// run.
pub fn daemon(name: &'static str, base: &LocalUrl, found: &Found, version: &str, needed: bool) -> Check {
    let own = env!("CARGO_PKG_VERSION");
    match found {
        Found::Nobody(why) => {
            let (message, hint) =
                (format!("{base}: none runs ({why})"), format!("Start it: `{name} start`."));
            if needed { Check::fail(name, message, hint) } else { Check::warn(name, message, hint) }
        }
        Found::Stranger(said) => {
            let hint =
                format!("Look what listens there: if it is a {name} that hangs, end it and start it again.");
            Check::fail(name, format!("{base}: no {name} answers ({said})"), hint)
        }
        Found::Daemon { data: Err(why), .. } => Check::fail(
            name,
            format!("{base}: it runs and cannot say how it is: {why}"),
            "Look at its stderr.",
        ),
        Found::Daemon { data: Ok(data), ready } => {
            let version = data.pointer(version).and_then(Value::as_str).unwrap_or("unknown");
            match ready {
                Err(why) => Check::fail(
                    name,
                    format!("{base}: {name} {version} is not ready: {why}"),
                    format!("What it waits for stands behind `{name} status`, and in its stderr."),
                ),
                Ok(()) if version != own => Check::warn(
                    name,
                    format!("{base}: {version} runs, and this program is {own}"),
                    "Install the same version of all programs, and restart what is older.",
                ),
                Ok(()) => Check::ok(name, format!("{base}: {version} runs and is ready")),
            }
        }
    }
}

/// Whether somebody holds the lock of a folder.
///
/// # Errors
/// What the system says.
pub fn is_locked(folder: &Path) -> io::Result<bool> {
    match document::lock_folder(folder, Duration::ZERO) {
        Ok(_) => Ok(false), // and it is free again at once; a daemon that starts tries for longer than that
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

// ---- the machine ----

/// Whether a daemon can work in a folder, and nobody else look into it if it is `private`.
pub fn folder(name: &'static str, path: &Path, private: bool) -> Check {
    let shown = path.display();
    let data = match fs::metadata(path) {
        Ok(data) => data,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = existing(path);
            return match sys::may_use(above) {
                Ok(()) => Check::ok(name, format!("{shown}: not there yet, and can be made")),
                Err(error) => Check::fail(
                    name,
                    format!("{shown}: not there, and cannot be made: {}: {error}", above.display()),
                    "Make it and give it to the user of the daemon, or choose another folder.",
                ),
            };
        }
        Err(error) => {
            return Check::fail(name, format!("{shown}: {error}"), "Run this as the user of the daemon.");
        }
    };
    let mode = data.mode() & 0o777;
    if !data.is_dir() {
        return Check::fail(
            name,
            format!("{shown}: is no folder"),
            "Move it away, or choose another folder.",
        );
    }
    if let Err(error) = sys::may_use(path) {
        let message = format!("{shown}: {error} (mode {mode:03o}, of user {})", data.uid());
        return Check::fail(
            name,
            message,
            "Run this as the user of the daemon, and give the folder to that user.",
        );
    }
    if private && mode & 0o077 != 0 {
        let message = format!("{shown}: mode {mode:03o} lets other users in");
        return Check::warn(
            name,
            message,
            format!("`chmod 700 {shown}`; a daemon that starts does so, too."),
        );
    }
    Check::ok(name, format!("{shown}: mode {mode:03o}"))
}

/// The nearest folder that is there.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

/// What a daemon may come to hold in a folder, and what it holds already.
pub struct Need {
    /// Where.
    pub folder: PathBuf,
    /// Its bound.
    pub bound: u64,
    /// Of that this much is there.
    pub used: u64,
}

/// Whether all that a daemon may come to hold has room.
pub fn disk(needs: &[Need]) -> Check {
    const DISK: &str = "disk";
    let mut disks: Vec<(u64, &Path, u64)> = Vec::new();
    for Need { folder, bound, used } in needs {
        let (folder, more) = (existing(folder), bound.saturating_sub(*used));
        let Ok(device) = fs::metadata(folder).map(|data| data.dev()) else { continue };
        match disks.iter_mut().find(|(known, ..)| *known == device) {
            Some((.., sum)) => *sum += more,
            None => disks.push((device, folder, more)),
        }
    }
    let mib = |bytes: u64| format!("{} MiB", bytes / 1024 / 1024);
    let mut facts = Vec::new();
    for (_, folder, more) in disks {
        let shown = folder.display();
        let free = match sys::free_bytes(folder) {
            Ok(free) => free,
            Err(error) => return Check::warn(DISK, format!("{shown}: {error}"), "Look at it with `df`."),
        };
        let fact = format!("{shown}: {} free, logs and state may grow by {}", mib(free), mib(more));
        if free < LEAST_FREE_BYTES {
            return Check::fail(DISK, fact, "Make room: a daemon whose disk is full refuses all work.");
        }
        if free < more {
            return Check::warn(DISK, fact, "Make room, or give the daemon less with its --…-total-bytes.");
        }
        facts.push(fact);
    }
    Check::ok(DISK, facts.join("; "))
}

/// Whether as many connections can be open as a daemon takes. The limit is that of whoever calls: launchd has its own.
pub fn descriptors() -> Check {
    const DESCRIPTORS: &str = "descriptors";
    let hint = "Raise the hard limit: `ulimit -Hn`, or HardResourceLimits/NumberOfFiles of a launchd job.";
    let limit = match sys::raise_descriptor_limit() {
        Ok(limit) => limit,
        Err(error) => return Check::warn(DESCRIPTORS, format!("the limit is not known: {error}"), hint),
    };
    let connections = limit.saturating_sub(RESERVED_DESCRIPTORS);
    let fact = format!("{limit}, so {} connections at once", connections.min(MAX_CONNECTIONS as u64));
    match connections {
        0..=RESERVED => Check::fail(DESCRIPTORS, fact, hint),
        _ if connections < MAX_CONNECTIONS as u64 => Check::warn(DESCRIPTORS, fact, hint),
        _ => Check::ok(DESCRIPTORS, fact),
    }
}
const RESERVED: u64 = RESERVED_CONNECTIONS as u64;

fn clock(begun: (Instant, SystemTime), files: Vec<PathBuf>) -> Check {
    const CLOCK: &str = "clock";
    let hint =
        "Set the clock (`date`, or let the system keep it): deadlines hold, but times on record would lie.";
    let now = SystemTime::now();
    let walked = begun.0.elapsed();
    let off = match now.duration_since(begun.1) {
        Ok(shown) => shown.abs_diff(walked),
        Err(back) => back.duration() + walked,
    };
    if off > CLOCK_SLACK {
        return Check::warn(CLOCK, "it was set while we looked", hint);
    }
    for file in std::env::current_exe().into_iter().chain(files) {
        let written = fs::metadata(&file).and_then(|data| data.modified());
        if written.is_ok_and(|written| written > now + CLOCK_SLACK) {
            let message = format!("it is behind {}, which was written before", file.display());
            return Check::warn(CLOCK, message, hint);
        }
    }
    Check::ok(CLOCK, crate::time::Timestamp::now().to_string())
}

#[cfg(test)]
mod tests;
