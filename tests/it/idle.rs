//! What the daemons cost when nothing happens: no wake-up, little memory; and a start that nobody waits for.
//!
//! The figures are those of the release build, so it is what runs here where a fresh one lies beside the test's own
//! (`cargo build --release`); else the dev build runs, and its memory is printed but not judged. `CI=true` insists on
//! the release build and on strace.

#![cfg(target_os = "linux")] // what /proc and strace tell

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use e2e::codex::Codex;
use e2e::figures;
use e2e::http::{Events, get, metric, post, try_request};
use e2e::node::{Node, conductor, conductor_launch, status_api_launch};
use e2e::process::{Daemon, Launch, Process, released, resident_kb};
use e2e::reader::Reader;
use e2e::temp::TempDir;
use e2e::wait::{SOON, eventually};
use serde_json::{Value, json};

/// How long nothing may happen.
const WATCH: Duration = Duration::from_secs(10);
/// What a daemon may hold in memory: half of it is the program itself, as far as it has run.
const MOST_RESIDENT_KB: u64 = 6 * 1024 + 512;
/// From its start to its first answer.
const FIRST_ANSWER: Duration = Duration::from_millis(50);

#[test]
fn codexd_without_clients_does_not_wake_up() {
    let dir = TempDir::new();
    let codex = Codex::both().pop().unwrap(); // the real one where there is one
    let (launch, release) = build("codexd", &dir);
    let node = Node::with(&codex, dir, launch, &[]);
    let session = node.session(json!({}));
    let mut readers: Vec<_> = (0..8).map(|_| Reader::open(&node, None)).collect();
    let mut events = Events::open("GET", &node.url("/v1/codexd/events"), &[], b"");
    node.turn(&session, "[[say hello]]");
    readers.iter_mut().for_each(|reader| assert!(reader.read_on() > 0));
    assert!(events.next_data().is_some());
    drop((readers, events));
    let child = node.status()["snapshot"]["daemon"]["child"].take();
    assert_eq!(child["status"], "running", "{child}");
    let name = if codex == Codex::Fake { "codexd (fake child)" } else { "codexd (real child)" };
    sleeps(&node.codexd, name, release);
}

#[test]
fn conductor_without_clients_does_not_wake_up() {
    let node = Node::start(&Codex::Fake, &[]);
    let dir = TempDir::new();
    let (launch, release) = build("conductor", &dir);
    // Heartbeat and renewal are its only timers; here they are too rare to be seen.
    let launch = conductor_launch(launch, node.codexd.url())
        .args(["--heartbeat-interval-ms", "3600000", "--lease-renew-interval-ms", "3600000"])
        .args(["--lease-ttl-sec", "86400"]);
    let conductor = Daemon::start(&launch);
    for path in ["/health", "/v1/codex", "/v1/codex/sessions"] {
        get(&format!("{}{path}", conductor.url())).data(200);
    }
    let mut events = Events::open("GET", &format!("{}/v1/codex/events", conductor.url()), &[], b"");
    assert!(events.next_data().is_some());
    drop(events);
    node.turn(&node.session(json!({})), "[[say nobody hears it]]"); // so that conductor finds its reader gone
    let task = |more: Value| {
        let body = json!({"steps": [{"kind": "codex", "input": "[[say done]]"}], "not_before": more});
        let task = post(&format!("{}/v1/tasks", conductor.url()), &body).data(201)["task"].take();
        format!("{}/v1/tasks/{}", conductor.url(), task["task_id"].as_str().unwrap())
    };
    task(json!("2999-01-01T00:00:00.000Z")); // its time is not waited for by looking at the clock
    let done = task(Value::Null);
    eventually("a task that is done", SOON, || {
        (get(&done).data(200)["task"]["status"] == "completed").then_some(())
    });
    eventually("no stream that is held", SOON, || {
        (metric(node.codexd.url(), "baa_codexd_readers{kind=\"sse\"}") == Some(0.0)).then_some(())
    });
    sleeps(&conductor, "conductor", release);
}

#[test]
fn status_api_without_readers_does_not_wake_up() {
    let node = Node::start(&Codex::Fake, &[]);
    let dir = TempDir::new();
    let (launch, release) = build("status-api", &dir);
    let conductor = conductor(&dir, node.codexd.url());
    let status = Daemon::start(&status_api_launch(launch, conductor.url(), node.codexd.url()));
    node.ready();
    let session = node.session(json!({}));
    for path in ["/v1/status", "/"] {
        assert_eq!(get(&format!("{}{path}", status.url())).status, 200);
    }
    let mut events = Events::open("GET", &format!("{}/v1/events", status.url()), &[], b"");
    assert!(events.next_data().is_some());
    drop(events);
    node.turn(&session, "[[say nobody hears it]]"); // so that it finds its reader gone
    sleeps(&status, "status-api", release);
}

#[test]
fn the_first_answer_comes_at_once() {
    for (name, base) in
        [("codexd", "--local-api-base"), ("conductor", "--local-api"), ("status-api", "--local-api")]
    {
        // Other tests run beside this one: what counts is what it takes when they let it.
        let mut tries = (0..20).map(|_| first_answer(name, base));
        let best = tries.find(|time| *time < FIRST_ANSWER);
        let best = best.unwrap_or_else(|| panic!("none of 20 starts of {name} answered in {FIRST_ANSWER:?}"));
        figures::print(&format!("{name}: first answer {best:.1?} after its start"));
    }
}

/// The release build if there is one (and that it is), else the dev build.
pub(crate) fn build(name: &str, dir: &TempDir) -> (Launch, bool) {
    let release = released(name);
    assert!(
        release.is_some() || !ci(),
        "no fresh release build of {name}: run `cargo build --release` first"
    );
    let mut launch = Launch::of(name, dir.path());
    let found = release.is_some();
    launch.program = release.unwrap_or(launch.program);
    (launch, found)
}

/// Spawns it on a free port and asks until it says `ok`.
fn first_answer(name: &str, base: &str) -> Duration {
    let dir = TempDir::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let mut launch = build(name, &dir).0.args(["start", base, &url]);
    if name == "codexd" {
        let (program, args) = Codex::Fake.command();
        launch = launch.args(["--server-command".into(), program.into_os_string()]);
        launch = launch.args(args.into_iter().flat_map(|arg| ["--server-arg", arg]));
        launch = launch.env("CODEX_HOME", dir.folder("home"));
    }
    let start = Instant::now();
    let _daemon = Process::start(&launch);
    loop {
        match try_request("GET", &format!("{url}/healthz"), &[], b"") {
            Ok(answer) if answer.status == 200 => return start.elapsed(),
            _ => assert!(start.elapsed() < SOON, "{name} does not answer"),
        }
        thread::sleep(Duration::from_micros(200));
    }
}

/// Two proofs at once: no thread of it was switched to, and no system call of it returned.
#[track_caller]
fn sleeps(daemon: &Daemon, name: &str, release: bool) {
    eventually("a quiet time", Duration::from_secs(60), || is_quiet(daemon, Duration::from_secs(1)));
    let resident = resident_kb(daemon.pid());
    let strace = Strace::attach(daemon);
    eventually("the same with strace", Duration::from_secs(60), || is_quiet(daemon, Duration::from_secs(1)));
    let returns = strace.as_ref().map_or(0, Strace::returns); // of its own coming
    assert!(is_quiet(daemon, WATCH).is_some(), "a thread of {name} was woken: {:?}", switches(daemon));
    if let Some(strace) = strace {
        let threads = switches(daemon).len();
        let trace = strace.detach();
        assert!(trace.lines().count() >= threads, "not every thread was watched:\n{trace}");
        assert_eq!(trace.lines().filter(|line| is_return(line)).count(), returns, "{trace}");
    }
    let build = if release { "release" } else { "dev" };
    figures::print(&format!("{name}, {build} build: no wake-up in {WATCH:?}, {resident} KB resident"));
    assert!(resident > 0 && (!release || resident < MOST_RESIDENT_KB), "{name} holds {resident} KB");
}

/// Each thread's context switches, wanted and not.
fn switches(daemon: &Daemon) -> BTreeMap<String, Vec<String>> {
    let status = |task: PathBuf| {
        let text = fs::read_to_string(task.join("status")).unwrap_or_default();
        let lines = text.lines().filter(|line| line.starts_with("Name:") || line.contains("ctxt_switches"));
        (task.to_string_lossy().into_owned(), lines.map(str::to_owned).collect())
    };
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    tasks.flatten().map(|task| status(task.path())).collect()
}

fn is_quiet(daemon: &Daemon, time: Duration) -> Option<()> {
    let before = switches(daemon);
    thread::sleep(time);
    (switches(daemon) == before).then_some(())
}

fn ci() -> bool {
    std::env::var("CI").as_deref() == Ok("true")
}

/// An strace that watches all threads of a daemon.
struct Strace {
    process: Process,
    _dir: TempDir,
    trace: PathBuf,
}

impl Strace {
    /// `None`, in one line, where it is missing or not allowed.
    fn attach(daemon: &Daemon) -> Option<Strace> {
        let dir = TempDir::new();
        let trace = dir.path().join("trace");
        let launch = Launch {
            program: "strace".into(),
            args: Vec::new(),
            env: Vec::new(),
            dir: dir.path().to_owned(),
        };
        let pid = daemon.pid().to_string();
        let why = if std::process::Command::new("strace").arg("-V").output().is_err() {
            "it is not installed".to_owned()
        } else {
            let mut process = Process::start(&launch.args(["-f", "-p", &pid, "-o"]).args([&trace]));
            let attached = eventually("an strace that watches", SOON, || {
                let over = process.wait(Duration::ZERO).is_some();
                (over || is_watched(daemon)).then_some(!over)
            });
            if attached {
                return Some(Strace { process, _dir: dir, trace });
            }
            process.stderr()
        };
        assert!(!ci(), "no strace: {why}");
        figures::print(&format!("skipped the watch of system calls by strace: {}", why.trim()));
        None
    }

    fn returns(&self) -> usize {
        let trace = fs::read_to_string(&self.trace).unwrap_or_default();
        trace
            .split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'))
            .filter(|line| is_return(line))
            .count()
    }

    /// All that it has seen.
    fn detach(mut self) -> String {
        self.process.signal("INT");
        self.process.wait(SOON).unwrap();
        fs::read_to_string(&self.trace).unwrap()
    }
}

/// Whether every thread has a tracer.
fn is_watched(daemon: &Daemon) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let mut texts =
        tasks.flatten().map(|task| fs::read_to_string(task.path().join("status")).unwrap_or_default());
    texts.all(|text| text.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0")))
}

/// A line that tells anything but a call that still lasts.
fn is_return(line: &str) -> bool {
    !line.ends_with("<unfinished ...>") && !line.ends_with("<detached ...>")
}
