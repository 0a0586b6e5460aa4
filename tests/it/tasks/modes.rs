//! Pause and drain: nothing new starts, what runs goes on, and a restart changes neither.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use e2e::codex::Codex;
use e2e::temp::TempDir;
use e2e::wait::{SOON, eventually};
use serde_json::{Value, json};

use super::{Conductor, appears, codex, exec, pair};

/// How long nothing may start: a task that could would take a few milliseconds.
const QUIET: Duration = Duration::from_millis(500);

/// Four tasks, of which two run and wait for the file `go`.
struct Work {
    tasks: Vec<String>,
    go: PathBuf,
}

#[track_caller]
fn begin(conductor: &Conductor, work: PathBuf) -> Work {
    let gate = exec("touch began-$PPID; until [ -e go ]; do sleep 0.02; done");
    let submit = |steps: Value| conductor.submit(steps, json!({ "cwd": work }));
    let first = [
        submit(json!([gate, exec("true")])),
        submit(json!([codex("[[say-slow 60 one two three four]]"), gate])),
    ];
    eventually("two runs", SOON, || (conductor.system()["active_runs"] == 2).then_some(()));
    let later = [submit(json!([exec("touch later")])), submit(json!([exec("touch later")]))];
    let tasks = first.into_iter().chain(later).collect();
    Work { tasks, go: work.join("go") }
}

impl Work {
    fn of(&self, conductor: &Conductor) -> Vec<String> {
        self.tasks.iter().map(|id| conductor.task(id)["status"].as_str().unwrap().to_owned()).collect()
    }

    /// What ran goes on to its end, with further steps, and nothing else starts.
    #[track_caller]
    fn runs_out(&self, conductor: &Conductor) {
        fs::write(&self.go, "").unwrap();
        self.tasks[..2].iter().for_each(|id| drop(conductor.completes(id)));
        thread::sleep(QUIET);
        self.waits(conductor);
    }

    #[track_caller]
    fn waits(&self, conductor: &Conductor) {
        assert_eq!(self.of(conductor), ["completed", "completed", "queued", "queued"]);
        let system = conductor.system();
        assert_eq!((&system["queued_tasks"], &system["active_runs"]), (&json!(2), &json!(0)), "{system}");
        assert!(!self.go.with_file_name("later").exists());
    }

    #[track_caller]
    fn goes_on(&self, conductor: &Conductor) {
        assert_eq!(conductor.post("system/resume", &json!({})).data(200)["mode"], "running");
        self.tasks.iter().for_each(|id| drop(conductor.completes(id)));
        appears(&self.go.with_file_name("later"));
    }
}

#[test]
fn a_pause_lets_go_on_what_runs_and_starts_nothing() {
    let (node, mut conductor) = pair(&Codex::Fake, &[], &[]);
    let work = begin(&conductor, node.dir.folder("work"));
    let paused = conductor.post("system/pause", &json!({ "reason": "a test" })).data(200);
    assert_eq!((&paused["active_runs"], &paused["queued_tasks"]), (&json!(2), &json!(2)), "{paused}");
    work.runs_out(&conductor);
    assert_eq!(
        conductor.system()["drained"],
        false,
        "that is what draining comes to: {}",
        conductor.system()
    );
    for end in [Conductor::crash, Conductor::restart] {
        end(&mut conductor);
        thread::sleep(QUIET);
        work.waits(&conductor);
        let system = conductor.system();
        assert_eq!((&system["mode"], &system["reason"]), (&json!("paused"), &json!("a test")));
    }
    work.goes_on(&conductor);
}

#[test]
fn a_drain_ends_in_a_node_that_says_it_is_drained() {
    let (node, mut conductor) = pair(&Codex::Fake, &[], &[]);
    let work = begin(&conductor, node.dir.folder("work"));
    let draining = conductor.post("system/drain", &json!({})).data(200);
    assert_eq!((&draining["active_runs"], &draining["drained"]), (&json!(2), &json!(false)), "{draining}");
    thread::sleep(QUIET);
    assert_eq!(conductor.system()["active_runs"], 2, "both wait for the test");
    work.runs_out(&conductor);
    assert_eq!(conductor.system()["drained"], true);
    for end in [Conductor::crash, Conductor::restart] {
        end(&mut conductor);
        thread::sleep(QUIET);
        work.waits(&conductor);
        let system = conductor.system();
        assert_eq!((&system["mode"], &system["drained"]), (&json!("draining"), &json!(true)));
    }
    work.goes_on(&conductor);
    assert_eq!(conductor.system()["drained"], false);
}

/// It may not lead any more; what it runs goes on.
#[test]
fn a_node_whose_lease_is_degraded_starts_nothing() {
    let shared = TempDir::new();
    let args = ["--lease-renew-interval-ms", "100", "--lease-ttl-sec", "1", "--max-active-runs", "1"];
    let conductor = Conductor::start(shared.path(), None, &args);
    let gate = exec("until [ -e go ]; do sleep 0.02; done");
    let running = conductor.submit(json!([gate, exec("true")]), json!({ "cwd": shared.path() }));
    let waiting = conductor.submit(json!([exec("true")]), json!({}));
    let lease = shared.path().join("state/conductor/lease.json");
    eventually("something in the way of the next renewal", SOON, || {
        let _ = fs::remove_file(&lease);
        fs::create_dir_all(lease.join("in-the-way")).is_ok().then_some(())
    });
    eventually("a degraded node", SOON, || (conductor.system()["lease_state"] == "degraded").then_some(()));
    thread::sleep(QUIET); // it is known everywhere
    fs::write(shared.path().join("go"), "").unwrap();
    conductor.completes(&running);
    thread::sleep(QUIET);
    assert_eq!(conductor.task(&waiting)["status"], "queued");
    fs::remove_dir_all(&lease).unwrap();
    conductor.completes(&waiting);
}
