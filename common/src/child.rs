//! A child process in a group of its own, its lines, and the end of the whole group.
//!
//! Owns the pipes' framing and who may signal whom. Knows nothing of what lines mean.

use std::io::{self, BufRead};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys;

/// How far two readings of one start time may differ: Linux counts in hundredths, macOS tells an age in seconds.
const SLACK_TICKS: u64 = if cfg!(target_os = "linux") { 1 } else { 2 };

/// A signal that ends a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Asks.
    Term,
    /// Does not ask.
    Kill,
}

/// A started child: its pipes, and the handle by which others signal it.
pub struct Started {
    /// For `reap`, on a thread of its own.
    pub process: Child,
    /// What the child reads.
    pub stdin: ChildStdin,
    /// What the child answers.
    pub stdout: ChildStdout,
    /// What the child complains of.
    pub stderr: ChildStderr,
    /// For everybody else.
    pub group: Group,
}

/// The child's process group, which may be signalled as long as its leader is not reaped: after that the number may be
/// somebody else's.
#[derive(Clone)]
pub struct Group {
    pgid: u32,
    reaped: Arc<Mutex<bool>>,
}

/// Starts `command` in a group of its own with three pipes.
///
/// # Errors
/// What `spawn` says.
pub fn start(command: &mut Command) -> io::Result<Started> {
    let (mut process, group) =
        spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    match (process.stdin.take(), process.stdout.take(), process.stderr.take()) {
        (Some(stdin), Some(stdout), Some(stderr)) => Ok(Started { process, stdin, stdout, stderr, group }),
        _ => Err(io::Error::other("a pipe of the child is missing")),
    }
}

/// Starts `command` in a group of its own, with what it was given for input and outputs.
///
/// # Errors
/// What `spawn` says.
pub fn spawn(command: &mut Command) -> io::Result<(Child, Group)> {
    let process = command.process_group(0).spawn()?;
    let group = Group { pgid: process.id(), reaped: Arc::default() };
    Ok((process, group))
}

impl Group {
    /// The group's number, which is the pid of its leader.
    pub fn pgid(&self) -> u32 {
        self.pgid
    }

    /// Signals every member, if the leader is not reaped yet. Members that are gone are no error.
    pub fn signal(&self, signal: Signal) {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if !*reaped {
            let _ = sys::signal_group(self.pgid, number(signal));
        }
    }

    /// Waits until the leader has ended, kills what is left of its group while its pid is still taken, and reaps it.
    ///
    /// # Errors
    /// What `wait` says.
    pub fn reap(&self, process: &mut Child) -> io::Result<ExitStatus> {
        sys::wait_until_zombie(self.pgid)?;
        let mut reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = sys::signal_group(self.pgid, number(Signal::Kill));
        let status = process.wait()?;
        *reaped = true;
        Ok(status)
    }
}

/// Waits until no member of the group lives, at most `patience`; says whether that is so.
pub fn wait_until_gone(pgid: u32, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    loop {
        // The system's own answer is cheap; it counts zombies that nobody has reaped, too.
        let nobody = sys::signal_group(pgid, 0).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH));
        if nobody || members(pgid).is_empty() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Kills a group that a process of an earlier life of ours left behind, and waits until it is gone.
///
/// `mark` is what `start_mark` said when its leader was started. A group in which nobody is as old as that is not ours
/// any more: the number was given out again.
pub fn end_leftover(pgid: u32, mark: &str) -> bool {
    let Some(leader) = parse_mark(mark) else { return false };
    let members = members(pgid);
    let ours = |member: &Process| match member.pid == pgid {
        true => member.ticks.abs_diff(leader.ticks) <= SLACK_TICKS,
        false => member.ticks + SLACK_TICKS >= leader.ticks,
    };
    if members.is_empty() || boot_id() != leader.boot || !members.iter().all(ours) {
        return false;
    }
    let _ = sys::signal_group(pgid, number(Signal::Kill));
    wait_until_gone(pgid, Duration::from_secs(2))
}

/// Whether the process that `start_mark` named so still runs.
pub fn is_alive(pid: u32, mark: &str) -> bool {
    let (Some(found), Some(known)) = (process(pid), parse_mark(mark)) else { return false };
    !found.zombie && boot_id() == known.boot && found.ticks.abs_diff(known.ticks) <= SLACK_TICKS
}

/// Names a process by boot and start time, so that a number given out again is not mistaken for it; `None` if it is gone.
pub fn start_mark(pid: u32) -> Option<String> {
    process(pid).map(|found| format!("{}/{}", boot_id(), found.ticks))
}

fn number(signal: Signal) -> i32 {
    match signal {
        Signal::Term => libc::SIGTERM,
        Signal::Kill => libc::SIGKILL,
    }
}

struct Mark {
    boot: String,
    ticks: u64,
}

fn parse_mark(mark: &str) -> Option<Mark> {
    let (boot, ticks) = mark.rsplit_once('/')?;
    Some(Mark { boot: boot.to_owned(), ticks: ticks.parse().ok()? })
}

struct Process {
    pid: u32,
    pgid: u32,
    zombie: bool,
    ticks: u64,
}

fn members(pgid: u32) -> Vec<Process> {
    processes().into_iter().filter(|process| process.pgid == pgid && !process.zombie).collect()
}

#[cfg(target_os = "linux")]
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(target_os = "linux")]
fn processes() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| process(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// proc_pid_stat(5): the command may hold spaces and brackets, so fields are counted from its last bracket.
#[cfg(target_os = "linux")]
fn process(pid: u32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let zombie = matches!(fields.next()?, "Z" | "X");
    let pgid = fields.nth(1)?.parse().ok()?;
    let ticks = fields.nth(16)?.parse().ok()?;
    Some(Process { pid, pgid, zombie, ticks })
}

#[cfg(not(target_os = "linux"))]
fn boot_id() -> String {
    let output = Command::new("/usr/sbin/sysctl").args(["-n", "kern.boottime"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().replace('/', "-")).unwrap_or_default()
}

/// macOS has no /proc; `ps` tells the start time to the second, which is what `ticks` counts there.
#[cfg(not(target_os = "linux"))]
fn processes() -> Vec<Process> {
    let output = Command::new("/bin/ps").args(["-axo", "pid=,pgid=,stat=,etime="]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let now = crate::time::Timestamp::now().millis() / 1000;
    text.lines().filter_map(|line| parse_ps(line, now)).collect()
}

#[cfg(not(target_os = "linux"))]
fn process(pid: u32) -> Option<Process> {
    processes().into_iter().find(|process| process.pid == pid)
}

/// `[[dd-]hh:]mm:ss` of elapsed time, ps(1).
#[cfg(not(target_os = "linux"))]
fn parse_ps(line: &str, now: u64) -> Option<Process> {
    let mut fields = line.split_whitespace();
    let (pid, pgid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let zombie = fields.next()?.starts_with('Z');
    let (days, clock) = match fields.next()?.split_once('-') {
        Some((days, clock)) => (days.parse::<u64>().ok()?, clock.to_owned()),
        None => (0, line.split_whitespace().nth(3)?.to_owned()),
    };
    let seconds = clock.split(':').try_fold(0, |sum, part| Some(sum * 60 + part.parse::<u64>().ok()?))?;
    Some(Process { pid, pgid, zombie, ticks: now.saturating_sub(days * 86_400 + seconds) })
}

/// A line of a pipe.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// Without its newline (and without a `\r` before it).
    Whole(&'a [u8]),
    /// Longer than the bound; all of it was dropped.
    TooLong(u64),
}

/// Hands each line of `pipe` to `each` until end of file; a line over `max` bytes is dropped as it comes, so memory
/// has a bound. A last line without a newline counts.
///
/// # Errors
/// What reading the pipe says.
pub fn lines(mut pipe: impl BufRead, max: usize, mut each: impl FnMut(Line<'_>)) -> io::Result<()> {
    let (mut line, mut dropped) = (Vec::new(), 0_u64);
    loop {
        let buffer = match pipe.fill_buf() {
            Ok(buffer) => buffer,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let at_end = buffer.is_empty();
        let newline = buffer.iter().position(|&byte| byte == b'\n');
        let part = &buffer[..newline.unwrap_or(buffer.len())];
        if dropped > 0 || line.len() + part.len() > max {
            dropped += (line.len() + part.len()) as u64;
            line = Vec::new();
        } else {
            line.extend_from_slice(part);
        }
        let used = part.len() + usize::from(newline.is_some());
        pipe.consume(used);
        if newline.is_none() && !at_end {
            continue;
        }
        if dropped > 0 {
            each(Line::TooLong(dropped));
            dropped = 0;
        } else if newline.is_some() || !line.is_empty() {
            each(Line::Whole(line.strip_suffix(b"\r").unwrap_or(&line)));
        }
        line.clear();
        line.shrink_to(64 * 1024);
        if at_end {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Read};

    fn split(text: &str, max: usize) -> Vec<String> {
        let mut seen = Vec::new();
        lines(BufReader::with_capacity(3, text.as_bytes()), max, |line| {
            seen.push(match line {
                Line::Whole(line) => String::from_utf8_lossy(line).into_owned(),
                Line::TooLong(size) => format!("<{size}>"),
            });
        })
        .unwrap();
        seen
    }

    #[test]
    fn lines_are_split_and_bounded() {
        assert_eq!(split("a\n\r\nbc\r\n\nd", 10), ["a", "", "bc", "", "d"]);
        assert_eq!(split("", 10), [""; 0]);
        assert_eq!(split("1234567890\n12345678901\nx\n", 10), ["1234567890", "<11>", "x"]);
        assert_eq!(split("123456789012345678901234567890", 10), ["<30>"]);
    }

    fn shell(script: &str) -> Started {
        start(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn the_end_of_the_leader_is_the_end_of_its_group() {
        let mut started = shell("sleep 1000 & echo ready; exit 3");
        let status = started.group.reap(&mut started.process).unwrap();
        assert_eq!(status.code(), Some(3));
        assert!(wait_until_gone(started.group.pgid(), Duration::from_secs(5)));
        let mut output = String::new();
        started.stdout.read_to_string(&mut output).unwrap(); // would block for 1 000 s if the sleeper lived
        assert_eq!(output, "ready\n");
    }

    #[test]
    fn nobody_is_signalled_after_the_leader_is_reaped() {
        let mut started = shell("exit 0");
        started.group.reap(&mut started.process).unwrap();
        assert!(*started.group.reaped.lock().unwrap());
        started.group.signal(Signal::Kill);
    }

    #[test]
    fn a_leftover_is_known_by_its_start_and_ended() {
        let mut started = shell("sleep 1000");
        let (pgid, mark) = (started.group.pgid(), start_mark(started.group.pgid()).unwrap());
        let (boot, ticks) = mark.rsplit_once('/').unwrap();
        let later = format!("{boot}/{}", ticks.parse::<u64>().unwrap() + 10);
        assert!(!end_leftover(pgid, &later), "a later process has the number");
        assert!(!end_leftover(pgid, &format!("other-boot/{ticks}")));
        assert!(is_alive(pgid, &mark) && !is_alive(pgid, &later));
        let waiter = thread::spawn(move || started.group.reap(&mut started.process));
        assert!(end_leftover(pgid, &mark));
        assert!(waiter.join().unwrap().unwrap().code().is_none());
        assert!(!end_leftover(pgid, &mark) && !is_alive(pgid, &mark), "it is gone");
    }
}
