//! Real processes that never outlive their test.
//!
//! A daemon's children have process groups of their own, so a group is not enough to find them: each process carries a
//! mark in its environment, its children inherit it, and on drop all that carry the mark are killed. Should the test
//! itself be killed, one watchdog of the test program does the same.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::wait::{SOON, eventually};

/// The variable that holds the mark.
const MARK: &str = "BAA_TEST_RUN";

/// What to start.
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables added to this process's own.
    pub env: Vec<(OsString, OsString)>,
    /// Its working directory; `stderr` and `stdout` are kept there.
    pub dir: PathBuf,
}

impl Launch {
    /// A program of this workspace, by name; panics when it is not built.
    #[track_caller]
    pub fn of(name: &str, dir: &Path) -> Launch {
        Launch { program: binary(name), args: Vec::new(), env: Vec::new(), dir: dir.to_owned() }
    }

    /// The same with more arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Launch {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// The same with one more variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Launch {
        self.env.push((name.into(), value.into()));
        self
    }

    fn output(&self, kind: &str) -> PathBuf {
        let name = self.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.dir.join(format!("{name}.{kind}"))
    }

    fn command(&self, mark: &str) -> Command {
        watchdog();
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.env(MARK, mark).current_dir(&self.dir).process_group(0);
        command
    }

    /// Runs it to its end, without stdin: exit status, stdout, stderr. Panics if it takes longer than `within`.
    #[track_caller]
    pub fn run(&self, within: Duration) -> (ExitStatus, String, String) {
        let mut process = Process::start(self);
        let status = process.wait(within);
        let status =
            status.unwrap_or_else(|| panic!("{} still runs after {within:?}", self.program.display()));
        (status, process.stdout(), process.stderr())
    }
}

/// A running process with its output in files; it and all that it started die with this value.
pub struct Process {
    child: Child,
    mark: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts it without stdin; panics if it cannot be started.
    #[track_caller]
    pub fn start(launch: &Launch) -> Process {
        let out = append(&launch.output("stdout"));
        Process::spawn(launch, Stdio::null(), out.into())
    }

    /// Starts it with its stdin and stdout held by the caller, and stderr in a file.
    #[track_caller]
    pub(crate) fn start_piped(
        launch: &Launch,
    ) -> (Process, std::process::ChildStdin, std::process::ChildStdout) {
        let mut process = Process::spawn(launch, Stdio::piped(), Stdio::piped());
        match (process.child.stdin.take(), process.child.stdout.take()) {
            (Some(stdin), Some(stdout)) => (process, stdin, stdout),
            _ => panic!("no pipes"),
        }
    }

    #[track_caller]
    fn spawn(launch: &Launch, stdin: Stdio, stdout: Stdio) -> Process {
        let mark = new_mark();
        let (out, err) = (launch.output("stdout"), launch.output("stderr"));
        let spawned = launch.command(&mark).stdin(stdin).stdout(stdout).stderr(append(&err)).spawn();
        let child =
            spawned.unwrap_or_else(|error| panic!("cannot start {}: {error}", launch.program.display()));
        Process { child, mark, stdout: out, stderr: err }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stdout.
    pub fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// What it has written to stderr.
    pub fn stderr(&self) -> String {
        read_lossy(&self.stderr)
    }

    /// Sends a signal, by name (`TERM`), to it alone.
    pub fn signal(&self, name: &str) {
        signal(name, &self.pid().to_string());
    }

    /// `kill -9` of it alone; what it started lives on until drop. Waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// `kill -9` of all that carries its mark.
    pub fn kill_all(&mut self) {
        self.kill();
        kill_marked(&format!("{MARK}={}\0", self.mark));
    }

    /// Sends TERM and waits for the end; panics if that takes longer than `within`.
    #[track_caller]
    pub fn terminate(&mut self, within: Duration) -> ExitStatus {
        self.signal("TERM");
        self.wait(within).unwrap_or_else(|| panic!("it still runs {within:?} after TERM\n{}", self.stderr()))
    }

    /// How it ended, or `None` if it still runs after `within`.
    pub fn wait(&mut self, within: Duration) -> Option<ExitStatus> {
        let end = std::time::Instant::now() + within;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                _ if std::time::Instant::now() >= end => return None,
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// The process ids of what it started and what that started, itself left out.
    pub fn descendants(&self) -> Vec<u32> {
        let mut all = marked(&format!("{MARK}={}\0", self.mark));
        all.retain(|pid| *pid != self.pid());
        all
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_all();
        if std::thread::panicking() {
            let text = self.stderr();
            let from = text.len().saturating_sub(4000);
            let tail = text.get(from..).unwrap_or(&text);
            let _ = writeln!(io::stderr(), "--- {} says last:\n{tail}\n---", self.stderr.display());
        }
    }
}

/// A daemon of ours that serves HTTP.
pub struct Daemon {
    process: Process,
    url: String,
}

impl Daemon {
    /// Starts it and waits for the trace line that says where it listens; panics if that does not come.
    #[track_caller]
    pub fn start(launch: &Launch) -> Daemon {
        // An earlier life in the same folder left its lines in the same file.
        let before = read_lossy(&launch.output("stderr")).len();
        let mut process = Process::start(launch);
        let url = eventually("a daemon that listens", SOON, || {
            let text = process.stderr().split_off(before);
            let line = text.lines().find(|line| line.contains("listening"));
            let url = line.and_then(|line| match serde_json::from_str::<Value>(line) {
                Ok(line) => line["url"].as_str().map(str::to_owned),
                Err(_) => line.split("url=").nth(1)?.split_whitespace().next().map(str::to_owned),
            });
            assert!(url.is_some() || process.wait(Duration::ZERO).is_none(), "it ended at once:\n{text}");
            url
        });
        Daemon { process, url: url.trim_end_matches('/').to_owned() }
    }

    /// Its base, `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl From<Daemon> for Process {
    fn from(daemon: Daemon) -> Process {
        daemon.process
    }
}

impl std::ops::Deref for Daemon {
    type Target = Process;
    fn deref(&self) -> &Process {
        &self.process
    }
}

impl std::ops::DerefMut for Daemon {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// A program of this workspace, beside the running test; panics when it is not built.
#[track_caller]
pub fn binary(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_else(|error| panic!("no path of this test: {error}"));
    let folder = exe.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).unwrap_or(Path::new("."));
    let path = folder.join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace` first", path.display());
    path
}

/// The release build of a program of this workspace, if there is one that is newer than all the code it was made of.
pub fn released(name: &str) -> Option<PathBuf> {
    let path = binary(name).parent()?.parent()?.join("release").join(name);
    let changed = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    let built = changed(&path)?;
    // `PROGRAM: FILE FILE …`, written by cargo; a space within a name is `\ `.
    let made_of = fs::read_to_string(path.with_extension("d")).ok()?.replace("\\ ", "\0");
    let mut files = made_of.trim_end().split_once(": ")?.1.split(' ').map(|file| file.replace('\0', " "));
    files.all(|file| changed(file.as_ref()).is_some_and(|changed| changed <= built)).then_some(path)
}

fn new_mark() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}-", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn signal(name: &str, target: &str) {
    let _ = Command::new("kill").args(["-s", name, "--", target]).stderr(Stdio::null()).status();
}

/// Memory of a process that is in use, in KB, as `ps` tells it; 0 of one that is not there.
pub fn resident_kb(pid: u32) -> u64 {
    let listed = Command::new("ps").args(["-o", "rss=", "-p", &pid.to_string()]).output();
    let text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// `kill -9` of one process by its number.
pub fn kill_pid(pid: u32) {
    signal("KILL", &pid.to_string());
}

fn kill_marked(mark: &str) {
    // Again and again: one that was just forked may have been missed.
    loop {
        let pids = marked(mark);
        if pids.is_empty() {
            return;
        }
        for pid in pids {
            signal("KILL", &pid.to_string());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Living processes whose environment holds `mark`.
#[cfg(target_os = "linux")]
fn marked(mark: &str) -> Vec<u32> {
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = folders.filter_map(|folder| folder.file_name().to_str()?.parse().ok());
    let holds = |pid: &u32| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default(); // empty for a zombie
        environ.windows(mark.len()).any(|part| part == mark.as_bytes())
    };
    pids.filter(holds).collect()
}

#[cfg(not(target_os = "linux"))]
fn marked(mark: &str) -> Vec<u32> {
    let mark = mark.trim_end_matches('\0');
    let listed = Command::new("ps").args(["-axEww", "-o", "pid=,command="]).output();
    let text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let lines = text.lines().filter(|line| line.contains(mark));
    lines.filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}

/// One shell that waits for the end of this test program, however it comes, then kills what still has its mark and
/// unmounts what is still mounted in its folders.
pub(crate) fn watchdog() {
    static STDIN: OnceLock<Option<std::process::ChildStdin>> = OnceLock::new();
    const SCRIPT: &str = r#"cat >/dev/null
        for environ in /proc/[0-9]*/environ; do
            pid=${environ#/proc/}
            tr '\0' '\n' <"$environ" 2>/dev/null | grep -q "^$0" && kill -s KILL "${pid%/environ}"
        done
        grep -o " [^ ]*/baa-test-$1-[^ ]* " /proc/mounts 2>/dev/null | while read -r path; do umount -l "$path"; done"#;
    STDIN.get_or_init(|| {
        let mark = format!("{MARK}={}-", std::process::id());
        let mut command = Command::new("sh");
        let pid = std::process::id().to_string();
        command
            .args(["-c", SCRIPT, &mark, &pid])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.process_group(0).spawn().ok().and_then(|mut child| child.stdin.take())
    });
}

fn append(path: &Path) -> File {
    let opened = File::options().create(true).append(true).open(path);
    opened.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read_lossy(path: &Path) -> String {
    let mut bytes = Vec::new();
    let _ = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}
