//! Two conductors on one state directory: one leads, the other takes over when it is gone, and never both lead.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::figures;
use e2e::http::{get, post};
use e2e::process::{Daemon, Launch};
use e2e::temp::TempDir;
use e2e::tmpfs::Tmpfs;
use e2e::wait::{SOON, eventually};
use serde_json::{Value, json};

/// One of the two, with its output in a folder of its own.
struct Conductor {
    daemon: Daemon,
    _dir: TempDir,
}

impl Conductor {
    #[track_caller]
    fn start(shared: &Path, node: &str, args: &[&str]) -> Conductor {
        let dir = TempDir::new();
        Conductor { daemon: Daemon::start(&launch(shared, shared, node, args, &dir)), _dir: dir }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.daemon.url())
    }

    fn role(&self) -> String {
        get(&self.url("/rolez")).text()
    }

    fn system(&self) -> Value {
        get(&self.url("/v1/system/state")).data(200)
    }

    fn leads(&self) -> bool {
        self.role() == "leader\n"
    }
}

fn launch(state: &Path, logs: &Path, node: &str, args: &[&str], dir: &TempDir) -> Launch {
    Launch::of("conductor", dir.path())
        .args(["start", "--local-api", "http://127.0.0.1:0", "--node-id", node])
        .args(["--lease-renew-interval-ms", "100", "--heartbeat-interval-ms", "100", "--lease-ttl-sec", "1"])
        .args(["--state-dir".into(), state.join("state").into_os_string()])
        .args(["--logs-dir".into(), logs.join("logs").into_os_string()])
        .args(args)
}

fn expired(system: &Value) -> bool {
    system["lease_expires_at"].as_str().unwrap() < now().as_str()
}

fn now() -> String {
    common::time::Timestamp::now().to_string()
}

#[test]
fn the_one_that_stands_by_takes_over_when_the_holder_is_killed() {
    let shared = TempDir::new();
    let mut first = Conductor::start(shared.path(), "first", &[]);
    let second = Conductor::start(shared.path(), "second", &["--role", "standby", "--preferred"]);
    assert!(first.leads() && !second.leads());
    for probe in ["/healthz", "/readyz"] {
        assert_eq!(get(&second.url(probe)).status, 200, "one that stands by is well");
    }
    let change = json!({ "requested_by": "a test", "reason": "to see it move" });
    let paused = post(&first.url("/v1/system/pause"), &change).data(200);
    assert_eq!(
        (&paused["mode"], &paused["holder_id"], &paused["term"]),
        (&json!("paused"), &json!("first"), &json!(1))
    );
    let seen = second.system();
    let facts =
        [&seen["mode"], &seen["holder_id"], &seen["lease_state"], &seen["requested_by"], &seen["reason"]];
    assert_eq!(
        facts,
        ["paused", "first", "standby", "a test", "to see it move"],
        "what the leader answered is seen"
    );
    let refused = post(&second.url("/v1/system/resume"), &json!({})).failure(409, "conflict");
    assert_eq!(refused["details"], json!({ "holder_id": "first" }));

    let killed = Instant::now();
    first.daemon.kill();
    let system = eventually("a takeover", SOON, || second.leads().then(|| second.system()));
    figures::print(&format!("the other leads {:.1?} after `kill -9` of the holder", killed.elapsed()));
    let facts = (&system["mode"], &system["holder_id"], &system["term"], &system["lease_state"]);
    assert_eq!(
        facts,
        (&json!("paused"), &json!("second"), &json!(2), &json!("leader")),
        "with a higher term"
    );
    assert_eq!(post(&second.url("/v1/system/resume"), &json!({})).data(200)["mode"], "running");

    let third = Conductor::start(shared.path(), "first", &[]);
    assert!(!third.leads() && second.leads(), "it comes back, and stands by");
    let state_of = |nodes: &Value, node: &str| {
        let found = nodes["controllers"].as_array().unwrap().iter().find(|it| it["node_id"] == node);
        found.map_or(Value::Null, |found| found["lease_state"].clone())
    };
    let nodes = eventually("what both tell of themselves", SOON, || {
        let nodes = get(&third.url("/v1/controllers")).data(200);
        let told = (state_of(&nodes, "first"), state_of(&nodes, "second"));
        (told == (json!("standby"), json!("leader"))).then_some(nodes)
    });
    assert_eq!(nodes["count"], 2);
    assert!(nodes["controllers"][0]["age_ms"].as_u64().unwrap() < 20_000);
    assert_eq!(get(&third.url("/v1/controllers?limit=1")).data(200)["count"], 1);
    assert_eq!(get(&third.url("/v1/controllers?limit=0")).status, 400);
}

#[test]
fn a_frozen_holder_keeps_the_lead_and_its_lease_shows_as_expired() {
    let shared = TempDir::new();
    let first = Conductor::start(shared.path(), "first", &[]);
    let second = Conductor::start(shared.path(), "second", &[]);
    assert!(first.leads() && !second.leads());
    first.daemon.signal("STOP");
    let seen = eventually("an expired lease", SOON, || Some(second.system()).filter(expired));
    assert_eq!((&seen["holder_id"], &seen["lease_state"]), (&json!("first"), &json!("standby")));
    for _ in 0..200 {
        assert!(!second.leads(), "two lead");
    }
    first.daemon.signal("CONT");
    eventually("a renewed lease", SOON, || (first.leads() && !expired(&second.system())).then_some(()));
    assert!(!second.leads());
    assert_eq!(post(&first.url("/v1/system/drain"), &json!({})).data(200)["drained"], true);
}

#[test]
fn ended_again_and_again_there_is_never_more_than_one_and_the_mode_stays() {
    let shared = TempDir::new();
    let mut holder = Conductor::start(shared.path(), "a", &[]);
    let modes = [("pause", "paused"), ("drain", "draining"), ("resume", "running")];
    for (turn, (action, mode)) in modes.iter().cycle().take(9).enumerate() {
        let node = if turn % 2 == 0 { "b" } else { "a" };
        let other = Conductor::start(shared.path(), node, &[]);
        let answer = post(&holder.url(&format!("/v1/system/{action}")), &json!({})).data(200);
        assert_eq!((&answer["mode"], &answer["term"]), (&json!(mode), &json!(turn + 1)));
        assert!(!other.leads());
        match turn % 3 {
            0 => assert!(holder.daemon.terminate(SOON).success()),
            _ => holder.daemon.kill(),
        }
        eventually("a takeover", Duration::from_secs(5), || other.leads().then_some(()));
        assert_eq!(other.system()["mode"], *mode, "what was answered is not lost");
        holder = other;
    }
    let log = fs::read_to_string(shared.path().join("logs/conductor/events.jsonl")).unwrap();
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seqs: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=events.len() as u64).collect::<Vec<_>>(), "no gap, no number twice");
    let terms = events.iter().filter(|event| event["type"] == "lease.acquired");
    assert_eq!(
        terms.map(|event| event["detail"]["term"].as_u64().unwrap()).collect::<Vec<_>>(),
        (1..=10).collect::<Vec<_>>()
    );
}

#[test]
fn a_standby_alone_leads_after_a_while_and_a_preferred_one_at_once() {
    let shared = TempDir::new();
    let standby = Conductor::start(shared.path(), "s", &["--role", "standby"]);
    eventually("the lead", SOON, || standby.leads().then_some(()));
    let shared = TempDir::new();
    let preferred = Conductor::start(shared.path(), "p", &["--role", "standby", "--preferred"]);
    assert!(preferred.leads(), "it was announced when it led");
    let nodes = get(&preferred.url("/v1/controllers")).data(200);
    assert_eq!(nodes["controllers"][0]["lease_state"], "leader", "and told of itself");
}

#[test]
fn a_lease_that_cannot_be_written_degrades_the_node_and_a_stop_lets_it_expire() {
    let shared = TempDir::new();
    let mut node = Conductor::start(shared.path(), "n", &[]);
    let document = shared.path().join("state/conductor/lease.json");
    let read = || serde_json::from_str::<Value>(&fs::read_to_string(&document).unwrap()).unwrap();
    assert_eq!((&read()["holder_id"], &read()["term"]), (&json!("n"), &json!(1)));
    eventually("something in the way of the next renewal", SOON, || {
        let _ = fs::remove_file(&document);
        fs::create_dir_all(document.join("in-the-way")).is_ok().then_some(())
    });
    eventually("a degraded node", SOON, || (get(&node.url("/readyz")).status == 503).then_some(()));
    assert_eq!(get(&node.url("/readyz")).text(), "not_ready\n");
    assert_eq!((node.role().as_str(), get(&node.url("/healthz")).text().as_str()), ("standby\n", "ok\n"));
    assert_eq!(node.system()["lease_state"], "degraded");
    let snapshot = get(&node.url("/v1/runtime")).data(200);
    let daemon = &snapshot["daemon"];
    assert_eq!((&daemon["leaseState"], &daemon["schedulerEnabled"]), (&json!("degraded"), &json!(false)));
    fs::remove_dir_all(&document).unwrap();
    eventually("a recovery", SOON, || node.leads().then_some(()));
    assert_eq!(get(&node.url("/readyz")).status, 200);
    assert!(node.daemon.terminate(SOON).success());
    assert!(read()["expires_at"].as_str().unwrap() <= now().as_str());
}

#[test]
fn logs_that_another_conductor_writes_are_left_alone() {
    let (shared, other, dir) = (TempDir::new(), TempDir::new(), TempDir::new());
    let _first = Conductor::start(shared.path(), "first", &[]);
    let launch = launch(other.path(), shared.path(), "second", &[], &dir);
    let (status, _, stderr) = launch.run(SOON);
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("another conductor runs on"), "{stderr}");
}

#[test]
fn what_is_damaged_or_replaced_neither_stops_a_node_nor_makes_two_lead() {
    let shared = TempDir::new();
    let state = shared.path().join("state/conductor");
    let mut first = Conductor::start(shared.path(), "first", &[]);
    post(&first.url("/v1/system/drain"), &json!({ "reason": "kept" })).data(200);
    fs::remove_file(state.join("lease.lock")).unwrap();
    let second = Conductor::start(shared.path(), "second", &[]);
    assert!(!second.leads() && first.leads(), "it stands by, though the lock's file is another one");
    first.daemon.kill();
    eventually("a takeover", SOON, || second.leads().then_some(()));
    let mut second = second;
    assert_eq!(second.system()["reason"], "kept");
    second.daemon.kill();
    fs::remove_file(state.join("lease.json")).unwrap();
    fs::create_dir(state.join("lease.json")).unwrap();
    let log = shared.path().join("logs/conductor/events.jsonl");
    let mut bytes = fs::read(&log).unwrap();
    bytes[0] = 0;
    fs::write(&log, &bytes).unwrap();
    let third = Conductor::start(shared.path(), "third", &[]);
    let system = third.system();
    assert_eq!((&system["mode"], &system["source"]), (&json!("paused"), &json!("recovery")), "{system}");
    let kept = fs::read_dir(shared.path().join("logs/conductor")).unwrap().flatten();
    assert!(kept.map(|entry| entry.path()).any(|path| fs::read(&path).is_ok_and(|text| text == bytes)));
}

#[test]
fn a_disk_without_room_refuses_what_cannot_be_kept_and_loses_nothing() {
    let shared = TempDir::new();
    let Some(disk) = Tmpfs::mount(&shared.path().join("disk"), "3m") else { return };
    let mut node = Conductor::start(disk.path(), "n", &[]);
    post(&node.url("/v1/system/pause"), &json!({ "reason": "kept" })).data(200);
    let mut last = "kept".to_owned();
    for attempt in 0.. {
        disk.fill();
        let reason = format!("{attempt:01000}");
        let answer = post(&node.url("/v1/system/drain"), &json!({ "reason": reason }));
        if answer.status != 200 {
            answer.failure(507, "storage_failed");
            break;
        }
        last = reason; // the last page of a file takes a few
    }
    assert_eq!(node.system()["reason"], last.as_str(), "a refused change is not shown");
    eventually("a degraded node", SOON, || (get(&node.url("/readyz")).status == 503).then_some(()));
    disk.free();
    let resumed = || (post(&node.url("/v1/system/resume"), &json!({})).status == 200).then_some(());
    eventually("a node that goes on", SOON, resumed);
    eventually("a lease that is renewed", SOON, || node.leads().then_some(()));
    node.daemon.kill();
    let again = Conductor::start(disk.path(), "n", &[]);
    assert_eq!(again.system()["mode"], "running");
}
