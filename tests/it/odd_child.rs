//! codexd with a child that misbehaves as only the fake can.

use std::fs;
use std::time::{Duration, Instant};

use e2e::codex::Codex;
use e2e::http::{get, post};
use e2e::process::{Daemon, Launch, Process};
use e2e::wait::{SOON, eventually};
use serde_json::{Value, json};

use crate::codexd::{self, Codexd};
use crate::driver::{Bench, Driver};
use crate::scenarios::{completed, ended};

fn with(child: &[&str]) -> Codexd {
    Codexd::with(Bench::new(Codex::Fake), child)
}

fn readyz(codexd: &Codexd) -> (u16, String) {
    let answer = get(&format!("{}/readyz", codexd.daemon.url()));
    (answer.status, answer.text())
}

fn child(codexd: &Codexd) -> Value {
    get(&codexd.url("status")).data(200)["snapshot"]["daemon"]["child"].take()
}

fn said(codexd: &Codexd, method: &str) -> Vec<Value> {
    codexd.events().into_iter().filter(|event| event.is(method)).map(|event| event.params).collect()
}

#[test]
fn garbage_half_lines_and_long_lines() {
    let mut codexd = with(&["--banner"]);
    let session = codexd.open(json!({}));
    let text = "[[garbage no { json]] [[stderr a word aside]] [[half]] [[line 20971520]] [[line 70000000]] [[say fine]]";
    let turn = codexd.say(&session, text, json!({}));
    assert_eq!(completed(&mut codexd, &turn), "fine");
    assert_eq!(said(&codexd, "fake/half").len(), 1);
    let long = said(&codexd, "fake/line");
    assert_eq!(long.len(), 1, "one over 64 MiB is dropped");
    assert!(long[0].to_string().len() < 300 * 1024, "and a shorter one is cut");
    assert_eq!(long[0]["turnId"], turn);
    let logs = codexd.bench.dir.path().join("logs/codexd");
    let log = |name: &str| fs::read_to_string(logs.join(name)).unwrap();
    let holds = |name: &str, what: &str| eventually(what, SOON, || log(name).contains(what).then_some(()));
    holds("stdout.log", "fake app-server ready");
    holds("stdout.log", "no { json");
    holds("stderr.log", "fake app-server says hello");
    holds("stderr.log", "a word aside");
    assert!(!log("stdout.log").contains("\"method\""), "protocol is no output");
}

#[test]
fn a_message_of_20_mib() {
    let mut codexd = with(&[]);
    let session = codexd.open(json!({}));
    let turn = codexd.say(&session, "[[big 20971520]]", json!({}));
    ended(&mut codexd, &turn, "completed");
    assert!(get(&codexd.url(&format!("sessions/{session}"))).body.len() < 1 << 20);
    let next = codexd.say(&session, "[[say small]]", json!({}));
    assert_eq!(completed(&mut codexd, &next), "small");
}

#[test]
fn floods_are_merged_and_lose_nothing() {
    let mut codexd = with(&[]);
    let session = codexd.open(json!({}));
    let turn = codexd.say(&session, "[[flood 20000 10]]", json!({}));
    ended(&mut codexd, &turn, "completed");
    let deltas = said(&codexd, "item/agentMessage/delta");
    assert_eq!(deltas.iter().map(|delta| delta["delta"].as_str().unwrap().len()).sum::<usize>(), 200_000);
    assert!(deltas.len() < 2000, "{} events for 20000 deltas", deltas.len());
    let turn = codexd.say(&session, "[[items 5000 100]]", json!({}));
    ended(&mut codexd, &turn, "completed");
    let ids = said(&codexd, "item/completed").into_iter().filter(|params| params["turnId"] == turn.as_str());
    let ids = ids.map(|params| params["item"]["id"].to_string()).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(ids.len(), 5000 + 2);
}

#[test]
fn a_request_that_nobody_knows_is_refused() {
    let mut codexd = with(&[]);
    let session = codexd.open(json!({}));
    let turn = codexd.say(&session, "[[request fake/ask]]", json!({}));
    assert!(completed(&mut codexd, &turn).contains("\"code\""), "the child got an error and went on");
}

#[test]
fn a_death_in_mid_turn() {
    let mut codexd = with(&[]);
    let (session, other) = (codexd.open(json!({})), codexd.open(json!({})));
    let turn = codexd.say(&session, "[[say so far]] [[exit 9]]", json!({}));
    codexd.wait_log("the child's end", |event| event["type"] == "child.exited");
    eventually("a settled turn", SOON, || {
        (codexd.session(&session)["currentTurnId"].is_null()).then_some(())
    });
    let settled = codexd.session(&session);
    assert_eq!((&settled["lastTurnId"], &settled["lastTurnStatus"]), (&json!(turn), &json!("interrupted")));
    for session in [session, other] {
        let next = codexd.say(&session, "[[say again]]", json!({}));
        assert_eq!(completed(&mut codexd, &next), "again");
    }
    assert!(child(&codexd)["restarts"].as_u64().unwrap() >= 1);
}

#[test]
fn an_overloaded_child_harms_no_session() {
    let mut codexd = with(&["--on", "turn/start=overload:2"]);
    let session = codexd.open(json!({}));
    // Twice it is asked again, and nobody notices.
    let turn = codexd.say(&session, "[[say after all]]", json!({}));
    assert_eq!(completed(&mut codexd, &turn), "after all");
}

#[test]
fn starts_that_fail_are_repeated() {
    let codexd = with(&["--on", "initialize=exit:3", "--faulty-starts", "2"]);
    eventually("a good start", SOON, || (readyz(&codexd).0 == 200).then_some(()));
    assert_eq!(child(&codexd)["restarts"], 2);
}

#[test]
fn what_cannot_work_says_why() {
    for (args, why) in [
        (&["--broken-config"][..], "onfiguration"),
        (&["--version", "0.100.0"][..], "codex 0.100.0 is too old; install @openai/codex 0.101.0 or newer"),
        (&["--nope"][..], "--nope"),
    ] {
        let codexd = with(args);
        let (status, text) =
            eventually("a reason", SOON, || Some(readyz(&codexd)).filter(|ready| ready.1.contains(why)));
        assert_eq!(status, 503);
        assert!(text.starts_with("not_ready: "), "{text}");
        assert!(child(&codexd)["lastError"].as_str().unwrap().contains(why));
        assert_eq!(get(&format!("{}/healthz", codexd.daemon.url())).text(), "ok\n");
        let begun = Instant::now();
        post(&codexd.url("sessions"), &json!({})).failure(503, "app_server_unavailable");
        assert!(begun.elapsed() < Duration::from_secs(15));
    }
}

/// One that works, with faults that codexd works around, is taken with a word to whoever looks.
#[test]
fn an_old_version_is_taken_with_a_warning() {
    for (version, warned) in [("0.101.0", true), ("0.114.0", true), ("0.115.0", false), ("9.0.0", false)] {
        let mut codexd = with(&["--version", version]);
        let ready = codexd.wait_log("a start", |event| event["type"] == "child.ready");
        let warning = ready["detail"]["warning"].as_str().unwrap_or_default();
        let told =
            |text: &str| text.contains(&format!("codex {version} has faults")) && text.contains("0.115.0");
        assert_eq!((told(warning), !ready["detail"]["warning"].is_null()), (warned, warned), "{ready}");
        assert_eq!(ready["level"], if warned { "warn" } else { "info" });
        let line =
            || codexd.daemon.stderr().lines().find(|line| line.contains("is ready")).map(str::to_owned);
        let line = eventually("a line on stderr", SOON, line);
        assert_eq!((told(&line), line.contains(" warn ")), (warned, warned), "{line}");
        assert_eq!(readyz(&codexd).0, 200);
    }
}

#[test]
fn a_missing_login_shows() {
    let codexd = with(&["--login-required"]);
    eventually("a start", SOON, || (readyz(&codexd).0 == 200).then_some(()));
    assert_eq!(child(&codexd)["loginRequired"], true);
}

const STUBBORN: &[&str] = &["--wrapped", "--ignore-eof", "--ignore-term"];

#[test]
fn a_stop_leaves_nobody_behind() {
    let mut codexd = with(STUBBORN);
    let session = codexd.open(json!({}));
    codexd.say(&session, "[[hang]]", json!({}));
    assert!(codexd.daemon.descendants().len() >= 2, "a wrapper and the app-server");
    let status = codexd.daemon.terminate(Duration::from_secs(11));
    assert_eq!(status.code(), Some(0));
    assert_eq!(codexd.daemon.descendants(), Vec::<u32>::new());
}

#[test]
fn a_child_of_a_dead_codexd_is_ended_first() {
    let mut codexd = with(STUBBORN);
    let session = codexd.open(json!({}));
    let turn = codexd.say(&session, "[[say one]]", json!({}));
    completed(&mut codexd, &turn);
    let old = codexd.daemon.descendants();
    codexd.kill();
    let left = old.iter().filter(|pid| is_alive(**pid)).count();
    assert!(left > 0, "the old child holds out");
    // Not `start_again`: dropping the old handle would end the old child for it.
    let launch = codexd::launch(&codexd.bench, STUBBORN);
    let second = Daemon::start(&launch);
    let url = format!("{}/v1/codexd/turn", second.url());
    let body = json!({"sessionId": session, "input": "[[say two]]"});
    assert_eq!(post(&url, &body).status, 202, "the thread is free again");
    assert!(old.iter().all(|pid| !is_alive(*pid)), "none of the old ones lives beside the new");
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[test]
fn one_state_directory_has_one_codexd() {
    let codexd = with(&[]);
    eventually("a start", SOON, || (readyz(&codexd).0 == 200).then_some(()));
    let mut second = Process::start(&codexd::launch(&codexd.bench, &[]));
    let status = second.wait(SOON).unwrap();
    assert_eq!(status.code(), Some(1));
    assert_eq!(readyz(&codexd).0, 200, "the first does not mind");
}

#[test]
fn a_stop_in_mid_turn_is_told_and_settled() {
    let mut codexd = with(&[]);
    let session = codexd.open(json!({}));
    let turn = codexd.say(&session, "[[say-slow 60000 a b]]", json!({}));
    codexd.wait("the first word", &|event| event.is("item/agentMessage/delta"));
    assert_eq!(codexd.daemon.terminate(Duration::from_secs(10)).code(), Some(0));
    codexd.wait_log("its goodbye", |event| event["type"] == "daemon.stopping");
    codexd.start_again();
    let settled = codexd.session(&session);
    assert_eq!((&settled["lastTurnId"], &settled["lastTurnStatus"]), (&json!(turn), &json!("interrupted")));
    crate::through_codexd::gapless(codexd.log());
}

/// The program that shall be run is not there.
#[test]
fn a_child_that_does_not_exist() {
    let bench = Bench::new(Codex::Fake);
    let launch =
        Launch::of("codexd", bench.dir.path()).args(["start", "--local-api-base", "http://127.0.0.1:0"]);
    let daemon = Daemon::start(&launch.args(["--server-command", "/no/such/codex"]));
    let why = eventually("a reason", SOON, || {
        Some(get(&format!("{}/readyz", daemon.url())).text()).filter(|text| text.contains("/no/such/codex"))
    });
    assert!(why.starts_with("not_ready: "), "{why}");
}
