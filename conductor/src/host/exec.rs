//! `POST /v1/exec`: a command for `sh -c`, and what became of it.
//!
//! Owns the body, the result and what a command sees of the daemon's environment. `command` runs it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, io};

use common::signal;
use common::time::Timestamp;
use common::wire::Object;
use serde_json::{Value, json};

use super::command::{self, Bounds, End, Ran};
use super::{Fault, Host, MAX_PATH_BYTES, Union};
use crate::config::{Token, millis};

/// The shell of every system of ours.
const SHELL: &str = "/bin/sh";
/// What Linux passes in one argument, which ends in a zero.
pub(crate) const MAX_COMMAND_BYTES: usize = 128 * 1024 - 1;
/// For those who do not say how long a command may take.
const TIMEOUT_MS: i64 = 30_000;
/// A day: a caller has to stay for the answer.
const MAX_TIMEOUT_MS: i64 = 24 * 60 * 60 * 1000;
/// For those who do not say how much it may print, to each output.
const BUFFER_BYTES: i64 = 10 * 1024 * 1024;
/// An output is a part of one answer in memory.
const MAX_BUFFER_BYTES: i64 = 16 * 1024 * 1024;
/// What is kept of each output beside an idempotency key.
const KEPT_BYTES: usize = 64 * 1024;

/// What the union calls it.
pub(crate) const OPERATION: &str = "exec";
/// The keys of the two outputs in a result.
const OUTPUTS: [&str; 2] = ["stdout", "stderr"];

common::body! {
    /// Body of `POST /v1/exec`.
    pub(crate) struct Exec {
        required command "command": string(MAX_COMMAND_BYTES), "What `sh -c` runs, without input.";
        optional cwd "cwd": string(MAX_PATH_BYTES), "The folder that it runs in; else that of the daemon.";
        optional timeout_ms "timeoutMs": integer(1, MAX_TIMEOUT_MS), "When it and all of its process group are killed (30 000).";
        optional max_buffer_bytes "maxBufferBytes": integer(1, MAX_BUFFER_BYTES), "How much it may write to stdout, and to stderr, before it is killed (10 MiB).";
    }
}

impl Exec {
    /// Reads a body.
    ///
    /// # Errors
    /// What is wrong with it, as `INVALID_INPUT`.
    pub(super) fn read(given: &Object) -> Result<Exec, Fault> {
        let exec = Exec::parse(given).map_err(Fault::from)?;
        if exec.command.trim().is_empty() {
            return Err(Fault::invalid("command", "is empty"));
        }
        super::plain("command", Some(&exec.command))?;
        super::plain("cwd", exec.cwd.as_deref())?;
        Ok(exec)
    }

    /// How long the command may take.
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.unwrap_or(TIMEOUT_MS).unsigned_abs())
    }

    fn input(&self) -> Value {
        json!({
            "command": self.command,
            "cwd": self.cwd,
            "timeoutMs": self.timeout_ms.unwrap_or(TIMEOUT_MS),
            "maxBufferBytes": self.max_buffer_bytes.unwrap_or(BUFFER_BYTES),
        })
    }
}

/// Runs a command until it ends, or is ended because of its time, its output, or because `gone` says that nobody waits.
pub(crate) fn run(host: &Host, exec: &Exec, gone: &dyn Fn() -> bool) -> Union {
    let (begun, started_at) = (Instant::now(), Timestamp::now());
    let union = |result, error| Union { operation: OPERATION, input: exec.input(), result, error };
    let ran = start(host, exec, gone);
    let mut result = empty();
    result.insert("startedAt".into(), json!(started_at));
    result.insert("finishedAt".into(), json!(Timestamp::now()));
    result.insert("durationMs".into(), json!(millis(begun.elapsed())));
    match ran {
        Err(fault) => union(result, Some(fault)),
        Ok(ran) => {
            let fault = fault(host, exec, &ran);
            show(&mut result, ran);
            union(result, fault)
        }
    }
}

/// What to answer for a command of which nobody knows any more what it came to.
pub(crate) fn lost(exec: &Exec) -> Union {
    let fault = Fault::new(
        "EXEC_FAILED",
        "What the command came to is not known: the daemon ended while it ran, or could not keep its result. It is not run again.",
    );
    Union { operation: OPERATION, input: exec.input(), result: empty(), error: Some(fault) }
}

/// The union with each output cut to what is kept of it; it says so.
pub(crate) fn for_keeping(mut union: Union) -> Union {
    for name in OUTPUTS {
        if let Some(Value::String(text)) = union.result.get_mut(name)
            && text.len() > KEPT_BYTES
        {
            text.truncate(text.floor_char_boundary(KEPT_BYTES));
            union.result.insert(format!("{name}Truncated"), json!(true));
        }
    }
    union
}

/// The result of what did not run.
pub(super) fn empty() -> Object {
    let result = json!({
        "stdout": "", "stderr": "", "exitCode": null, "signal": null, "durationMs": 0, "startedAt": null,
        "finishedAt": null, "timedOut": false,
    });
    result.as_object().cloned().unwrap_or_default()
}

fn start(host: &Host, exec: &Exec, gone: &dyn Fn() -> bool) -> Result<Ran, Fault> {
    let cwd = super::folder(exec.cwd.as_deref())?;
    enter(host, &cwd).map_err(|error| host.fault_of(&error, &cwd, &cwd))?;
    let mut command = Command::new(SHELL);
    command.args(["-c", "--"]).arg(&exec.command).current_dir(&cwd); // one that begins with `-` is no option
    for (name, value) in env::vars_os() {
        if is_secret(&name, &value, host.token.as_ref()) {
            command.env_remove(name);
        }
    }
    let output_bytes = exec.max_buffer_bytes.unwrap_or(BUFFER_BYTES);
    let bounds = Bounds {
        timeout: exec.timeout(),
        output_bytes: usize::try_from(output_bytes).unwrap_or(usize::MAX),
        outputs: &host.outputs,
        leftovers: &host.leftovers,
    };
    command::run(command, &bounds, gone).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => host.fault_of(&error, &cwd, &cwd),
        io::ErrorKind::ArgumentListTooLong => Fault::invalid("command", "is longer than this system takes"),
        kind => Fault {
            retryable: matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory),
            ..Fault::new("EXEC_FAILED", format!("The command could not be started: {error}."))
        },
    })
}

/// Whether the folder can be entered, as far as that shows before; starting in it says only that something went wrong.
fn enter(host: &Host, cwd: &Path) -> io::Result<()> {
    if !fs::metadata(cwd)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    match host.protects(cwd) {
        true => fs::read_dir(cwd).map(drop),
        false => Ok(()),
    }
}

/// What is the daemon's own, and the token under whatever name.
fn is_secret(name: &OsStr, value: &OsStr, token: Option<&Token>) -> bool {
    let is_token = |value| token.is_some_and(|token: &Token| token.is(value));
    name.as_bytes().starts_with(b"BAA_") || value.to_str().is_some_and(is_token)
}

fn fault(host: &Host, exec: &Exec, ran: &Ran) -> Option<Fault> {
    let most = exec.max_buffer_bytes.unwrap_or(BUFFER_BYTES);
    Some(match (ran.end, ran.status) {
        (End::Exited, None) => Fault::new("EXEC_FAILED", "The end of the command could not be seen."),
        (End::Exited, Some(status)) if status.success() => return None,
        (End::Exited, Some(status)) => {
            let (code, signal) = (status.code(), status.signal().map(signal::name));
            let how = match (&code, &signal) {
                (Some(code), _) => format!("ended with exit code {code}"),
                (None, signal) => format!("was ended by {}", signal.as_deref().unwrap_or("a signal")),
            };
            Fault::new("EXEC_EXIT_NON_ZERO", format!("The command {how}."))
                .with(json!({ "exitCode": code, "signal": signal }))
        }
        (End::TimedOut, _) => {
            let timeout = exec.timeout_ms.unwrap_or(TIMEOUT_MS);
            let message = format!("The command was killed after {timeout} ms.");
            let details = json!({ "timeoutMs": timeout });
            Fault::new("EXEC_TIMEOUT", message).with(details) // half of it may be done
        }
        (End::TooMuch, _) => {
            let message = format!("The command was killed: one of its outputs is over {most} bytes.");
            Fault::new("EXEC_OUTPUT_LIMIT", message).with(json!({ "maxBufferBytes": most }))
        }
        (End::Crowded, _) => {
            let message = "The command was killed: its outputs, or those of all commands together, take too much memory as JSON.";
            Fault::new("EXEC_OUTPUT_LIMIT", message)
        }
        (End::Unwanted, _) if host.is_stopping() => {
            Fault::new("EXEC_FAILED", "The command was killed, since conductor stops.")
        }
        (End::Unwanted, _) => Fault::new("EXEC_FAILED", "The command was killed, since its caller left."),
    })
}

/// Puts what a command printed and how it ended into its result.
fn show(result: &mut Object, ran: Ran) {
    let (exit_code, signal) = (
        ran.status.and_then(|status| status.code()),
        ran.status.and_then(|status| status.signal()).map(signal::name),
    );
    result.insert("exitCode".into(), json!(exit_code));
    result.insert("signal".into(), json!(signal));
    result.insert("timedOut".into(), json!(ran.end == End::TimedOut));
    for (name, bytes) in OUTPUTS.into_iter().zip(ran.outputs) {
        let text = String::from_utf8(bytes).unwrap_or_else(|error| {
            result.insert(format!("{name}Lossy"), json!(true));
            String::from_utf8_lossy(error.as_bytes()).into_owned()
        });
        result.insert(name.into(), Value::String(text));
    }
}

#[cfg(test)]
mod tests;
