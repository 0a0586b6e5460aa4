//! One command from its start to the end of its whole group, bounded in time, in output and by whether it is still wanted.
//!
//! Owns its pipes and the thread that reaps it. Knows nothing of requests, of what a command is, or of how its end is told.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::child::{self, Group, Signal};
use common::{sys, trace};

use super::leftovers::Leftovers;

/// How often it is looked at whether a command is still wanted: nobody waits for the end of one that is not.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What was killed is gone within this, unless the disk holds it; then the answer does not wait.
const GONE_WITHIN: Duration = Duration::from_secs(2);
/// The most that a pipe holds on any system of ours: what an ended command wrote, and others may go on writing.
const PIPE_BYTES: usize = 1024 * 1024;
/// Bytes of one read: what a pipe holds by default.
const READ_BYTES: usize = 64 * 1024;
/// The thread starts a process and waits for it.
const STACK_BYTES: usize = 128 * 1024;

/// The outputs of all commands in memory, as long as they are there in JSON: two of the largest answers would be more
/// than the listener sends at once.
const MAX_OUTPUTS_BYTES: usize = 48 * 1024 * 1024;

/// What a command may take.
pub(super) struct Bounds<'a> {
    pub(super) timeout: Duration,
    /// Of each output.
    pub(super) output_bytes: usize,
    /// What the outputs of all commands take.
    pub(super) outputs: &'a AtomicUsize,
    /// Where it is named as long as it runs.
    pub(super) leftovers: &'a Leftovers,
}

/// Why a command is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself; what it left in its group was killed.
    Exited,
    TimedOut,
    /// One of its outputs was over the bound.
    TooMuch,
    /// The outputs of all commands were.
    Crowded,
    /// Nobody wanted it any more.
    Unwanted,
}

/// What became of a command.
pub(super) struct Ran {
    pub(super) end: End,
    /// `None` if it was killed and its end did not come in time.
    pub(super) status: Option<ExitStatus>,
    /// Standard output and standard error, each up to its bound.
    pub(super) outputs: [Vec<u8>; 2],
}

/// Runs `command` without input, and answers when nothing of its group lives any more. Pipes that others hold are not
/// waited for.
///
/// # Errors
/// What `spawn` says, or that there is no thread or pipe for it.
pub(super) fn run(command: Command, bounds: &Bounds<'_>, gone: &dyn Fn() -> bool) -> io::Result<Ran> {
    let deadline = Instant::now() + bounds.timeout;
    let mut running = Running::start(command, bounds)?;
    let mut end = running.watch(deadline, gone);
    if end != End::Exited {
        running.group.signal(Signal::Kill);
    }
    let ended = sys::wait_readable([Some(running.over.as_fd())], GONE_WITHIN)[0];
    let status = ended.then(|| running.reaper.join().ok()?.ok()).flatten();
    for output in &mut running.outputs {
        let over = output.drain();
        end = if end == End::Exited { over.unwrap_or(end) } else { end };
    }
    if !child::wait_until_gone(running.group.pgid(), GONE_WITHIN) {
        trace::warn(None, format_args!("the group {} was killed and still lives", running.group.pgid()));
    }
    Ok(Ran { end, status, outputs: running.outputs.map(|output| output.bytes) })
}

struct Running<'a> {
    group: Group,
    reaper: JoinHandle<io::Result<ExitStatus>>,
    /// Can be read once the reaper is through.
    over: PipeReader,
    outputs: [Output<'a>; 2],
}

impl<'a> Running<'a> {
    /// The thread that reaps it starts it, too: there is no process that nobody would reap.
    fn start(mut command: Command, bounds: &Bounds<'a>) -> io::Result<Running<'a>> {
        let (over, mut ended) = io::pipe()?;
        let (tell, told) = mpsc::sync_channel(1);
        let leftovers = bounds.leftovers.clone();
        let reap = move || {
            let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let (mut process, group) = child::spawn(piped)?;
            let note = leftovers.note(group.pgid());
            let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
            let pipes = [stdout.map(OwnedFd::from), stderr.map(OwnedFd::from)];
            let _ = tell.send((group.clone(), pipes)); // somebody waits for it
            let status = group.reap(&mut process);
            drop(note);
            let _ = ended.write_all(b"."); // a byte, since other processes may hold the pipe for a moment
            status
        };
        let reaper = thread::Builder::new().name("exec".to_string()).stack_size(STACK_BYTES).spawn(reap)?;
        match told.recv() {
            Ok((group, pipes)) => {
                let outputs = pipes.map(|pipe| Output::new(pipe.map(File::from), bounds));
                Ok(Running { group, reaper, over, outputs })
            }
            Err(_) => match reaper.join() {
                Ok(Err(error)) => Err(error),
                _ => Err(io::Error::other("the thread that starts commands ended")),
            },
        }
    }

    /// Reads both outputs until something ends the command.
    fn watch(&mut self, deadline: Instant, gone: &dyn Fn() -> bool) -> End {
        let mut look = Instant::now() + LOOK_EVERY;
        loop {
            let now = Instant::now();
            if now >= deadline {
                return End::TimedOut;
            }
            if now >= look {
                if gone() {
                    return End::Unwanted;
                }
                look = now + LOOK_EVERY;
            }
            let [stdout, stderr] = &self.outputs;
            let files = [Some(self.over.as_fd()), stdout.descriptor(), stderr.descriptor()];
            let [ended, ready @ ..] = sys::wait_readable(files, deadline.min(look) - now);
            if ended {
                return End::Exited;
            }
            for (output, ready) in self.outputs.iter_mut().zip::<[bool; 2]>(ready) {
                if ready && let Some(end) = output.read() {
                    return end;
                }
            }
        }
    }
}

/// One output: its pipe until that ends, and what came of it.
struct Output<'a> {
    pipe: Option<File>,
    bytes: Vec<u8>,
    most: usize,
    share: Share<'a>,
}

impl<'a> Output<'a> {
    fn new(pipe: Option<File>, bounds: &Bounds<'a>) -> Output<'a> {
        let share = Share { all: bounds.outputs, bytes: 0 };
        Output { pipe, bytes: Vec::new(), most: bounds.output_bytes, share }
    }

    fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads once what can be read; says so if it was over a bound, with what fits kept.
    fn read(&mut self) -> Option<End> {
        let mut buffer = [0; READ_BYTES];
        let read = match self.pipe.as_mut()?.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return None,
            Err(_) => 0, // there is nothing more to be had from it
        };
        let part = &buffer[..read.min(self.most - self.bytes.len())];
        if !self.share.grow(part) {
            self.pipe = None;
            return Some(End::Crowded);
        }
        self.bytes.extend_from_slice(part);
        let too_much = read > part.len();
        if read == 0 || too_much {
            self.pipe = None;
        }
        too_much.then_some(End::TooMuch)
    }

    /// Reads what is there already, as far as it can be the command's own.
    fn drain(&mut self) -> Option<End> {
        let before = self.bytes.len();
        while self.bytes.len() - before < PIPE_BYTES
            && sys::wait_readable([self.descriptor()], Duration::ZERO)[0]
        {
            if let Some(end) = self.read() {
                return Some(end);
            }
        }
        None
    }
}

/// What one output takes of `MAX_OUTPUTS_BYTES`.
struct Share<'a> {
    all: &'a AtomicUsize,
    bytes: usize,
}

impl Share<'_> {
    /// Counts these bytes, if there is room for them.
    fn grow(&mut self, part: &[u8]) -> bool {
        let more = part.iter().map(|byte| in_json(*byte)).sum();
        if self.all.fetch_add(more, Ordering::Relaxed) + more > MAX_OUTPUTS_BYTES {
            self.all.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        self.bytes += more;
        true
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What a byte takes in a JSON text at the most; one that is no UTF-8 is shown by a sign of three bytes.
fn in_json(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        0..0x20 => 6,
        0x80.. => 3,
        _ => 1,
    }
}
