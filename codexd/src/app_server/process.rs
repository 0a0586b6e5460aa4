//! A child process over stdio: its threads, from spawn to the last of its group.
//!
//! One thread spawns, waits and reaps; one each has a pipe. None of them is ever waited for without a deadline.

use std::io::{BufReader, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, Command};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{io, os::unix::process::ExitStatusExt};

use common::child::{self, Group, Line, Signal};
use common::rolling::Rolling;
use common::trace;
use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::Value;

use super::ahead::Ahead;
use super::{MAX_LINE_BYTES, Report, Said, TO_CHILD, spawn};
use crate::core::{Epoch, FromChild, Input};

/// How large each of the child's two logs may get before it begins anew; one older is kept.
pub const CHILD_LOG_BYTES: u64 = 8 * 1024 * 1024;
/// How long the last lines of a child that has ended are waited for; they are in the pipe already.
const LAST_LINES: Duration = Duration::from_secs(1);
/// What it complained of longer before its end has nothing to do with that.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long a killed group may take to be gone.
const GONE: Duration = Duration::from_secs(2);

/// What is started, and where what it prints goes.
#[derive(Clone, Debug)]
pub struct Program {
    /// A path, or a name on PATH.
    pub command: String,
    /// Its arguments; codexd adds none.
    pub args: Vec<String>,
    /// Where it runs.
    pub cwd: PathBuf,
    /// Lines of its stdout that are no protocol.
    pub stdout_log: PathBuf,
    /// Its stderr.
    pub stderr_log: PathBuf,
}

/// A child from the side that sends.
pub struct Process {
    /// Which one.
    pub epoch: Epoch,
    to_child: Option<Sender<Value>>,
    group: Arc<OnceLock<Group>>,
}

impl Process {
    /// Starts `program` on threads of its own; all it does arrives in `inbox` under `epoch`, its end last of its life but
    /// perhaps not last of its lines.
    pub fn start(program: &Program, epoch: Epoch, inbox: &Sender<Input>) -> Process {
        let (to_child, messages) = bounded(TO_CHILD);
        let group = Arc::new(OnceLock::new());
        let (program, inbox, seen) = (program.clone(), inbox.clone(), group.clone());
        let report = Report { epoch, inbox };
        let started = spawn(format!("child-{epoch}"), {
            let report = report.clone();
            move || {
                let reason =
                    live(&program, &report, messages, &seen).unwrap_or_else(|error| error.to_string());
                report.send(FromChild::Exited { reason });
            }
        });
        if let Err(error) = started {
            report.send(FromChild::Exited { reason: format!("no thread for the child: {error}") });
        }
        Process { epoch, to_child: Some(to_child), group }
    }

    /// Hands a message to the child's writer. Never waits: a child that does not read is killed.
    pub fn send(&self, message: Value) {
        let Some(to_child) = &self.to_child else { return };
        if to_child.try_send(message).is_err() {
            trace::warn(None, format_args!("app-server does not read its stdin; it is killed"));
            self.signal(Signal::Kill);
        }
    }

    /// Lets the child see the end of its stdin once it has read what was sent.
    pub fn close_stdin(&mut self) {
        self.to_child = None;
    }

    /// Signals the child's whole group.
    pub fn signal(&self, signal: Signal) {
        if let Some(group) = self.group.get() {
            group.signal(signal);
        }
    }

    /// The group's number, once it runs.
    pub fn pgid(&self) -> Option<u32> {
        self.group.get().map(Group::pgid)
    }
}

/// The life of the child; says how it ended.
fn live(
    program: &Program,
    report: &Report,
    messages: Receiver<Value>,
    seen: &OnceLock<Group>,
) -> io::Result<String> {
    let said = |error| {
        io::Error::other(format!(
            "{} could not be started: {error} (--server-command says what is run, --server-cwd where)",
            program.command
        ))
    };
    let mut command = Command::new(&program.command);
    command.args(&program.args).current_dir(&program.cwd).env("NO_COLOR", "1");
    // Before there is a child that nobody would reap.
    let stdout_log = Rolling::open(&program.stdout_log, CHILD_LOG_BYTES)?;
    let stderr_log = Rolling::open(&program.stderr_log, CHILD_LOG_BYTES)?;
    let mut started = child::start(&mut command).map_err(said)?;
    let group = seen.get_or_init(|| started.group.clone()).clone();
    let pid = group.pgid();
    let process_mark = child::start_mark(pid).unwrap_or_default();
    report.send(FromChild::Spawned { pid, process_mark });
    let last_words = Arc::new(Mutex::new(None));
    let (reading, read_to_end) = bounded::<()>(0);
    let threads = (|| {
        let (out, words) = (report.clone(), last_words.clone());
        spawn(format!("child-in-{}", report.epoch), move || write(started.stdin, &messages))?;
        spawn(format!("child-out-{}", report.epoch), move || {
            read(BufReader::with_capacity(64 * 1024, started.stdout), &out, stdout_log);
            drop(reading);
        })?;
        spawn(format!("child-err-{}", report.epoch), move || {
            complain(BufReader::new(started.stderr), stderr_log, &words);
        })
    })();
    if let Err(error) = threads {
        group.signal(Signal::Kill);
        trace::error(None, format_args!("no thread for the child: {error}"));
    }
    let status = group.reap(&mut started.process)?;
    // What it said last comes before the news of its end; but who left its group may hold the pipe for ever.
    let _ = read_to_end.recv_timeout(LAST_LINES);
    if !child::wait_until_gone(pid, GONE) {
        trace::warn(None, format_args!("a member of the child's group {pid} outlives it"));
    }
    let ended = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown end".to_owned(),
    };
    let words = last_words.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(match &*words {
        Some((at, words)) if !status.success() && !words.is_empty() && at.elapsed() < LAST_WORDS => {
            format!("{ended}; its last words: {words}")
        }
        _ => ended,
    })
}

fn write(mut stdin: ChildStdin, messages: &Receiver<Value>) {
    for message in messages {
        let mut line = message.to_string();
        line.push('\n');
        if stdin.write_all(line.as_bytes()).is_err() {
            break; // it has ended, which others see
        }
    }
}

fn read(pipe: impl io::BufRead, report: &Report, mut log: Rolling) {
    let all = trace::is_on(trace::Level::Debug);
    let mut ahead = Ahead::default();
    let ended = child::lines(pipe, MAX_LINE_BYTES, |line| match line {
        Line::TooLong(bytes) => report.send(FromChild::LineDropped { bytes }),
        Line::Whole(line) => {
            if report.hand_on(line, &mut ahead) == Said::Noise || all {
                note(&mut log, line);
            }
        }
    });
    if let Err(error) = ended {
        trace::warn(None, format_args!("app-server's stdout cannot be read: {error}"));
    }
}

fn complain(pipe: impl io::BufRead, mut log: Rolling, last_words: &Mutex<Option<(Instant, String)>>) {
    const MAX_COMPLAINT_BYTES: usize = 64 * 1024;
    let _ = child::lines(pipe, MAX_COMPLAINT_BYTES, |line| {
        let Line::Whole(line) = line else { return };
        note(&mut log, line);
        let text: String = String::from_utf8_lossy(line).chars().take(500).collect();
        *last_words.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), text));
    });
}

/// A log of the child's that cannot be written is no reason to stop the child.
fn note(log: &mut Rolling, line: &[u8]) {
    if let Err(error) = log.line(line) {
        trace::debug(None, format_args!("a line of the child could not be kept: {error}"));
    }
}
