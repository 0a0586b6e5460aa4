//! No descriptors left: who comes is refused in words or waits, and is served when others have gone.

#![cfg(target_os = "linux")] // what /proc tells and prlimit sets

use std::process::Command;

use e2e::codex::Codex;
use e2e::http::{KeptAlive, Response, get, try_request};
use e2e::node::{Node, conductor, conductor_launch};
use e2e::process::{Daemon, Launch, binary};
use e2e::temp::TempDir;
use e2e::wait::{SOON, eventually};
use serde_json::json;

/// So few descriptors that 64 connections are all there can be, the last 16 of them for probes.
fn confined(name: &str, dir: &TempDir) -> Launch {
    let launch =
        Launch { program: "/bin/sh".into(), args: Vec::new(), env: Vec::new(), dir: dir.path().to_owned() };
    launch.args(["-c", r#"ulimit -n 160; exec "$0" "$@""#]).args([binary(name)])
}

fn descriptors(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

fn ask(daemon: &Daemon, path: &str) -> Option<Response> {
    try_request("GET", &format!("{}{path}", daemon.url()), &[], b"").ok()
}

/// Fills it with clients that say nothing: others are refused in words, probes are still answered, and when the crowd
/// has gone everything is as before.
#[track_caller]
fn crowd(daemon: &Daemon, path: &str) {
    let before = descriptors(daemon);
    let crowd: Vec<_> = (0..300).map(|_| KeptAlive::open(daemon.url()).unwrap()).collect();
    let refused = eventually("a refusal", SOON, || ask(daemon, path));
    refused.failure(503, "overloaded");
    assert!(refused.header("retry-after").is_some(), "{:?}", refused.headers);
    eventually("a probe", SOON, || ask(daemon, "/healthz").filter(|answer| answer.status == 200));
    ask(daemon, path).unwrap().failure(503, "overloaded");
    drop(crowd);
    eventually("service", SOON, || ask(daemon, path).filter(|answer| answer.status == 200));
    eventually("descriptors given back", SOON, || (descriptors(daemon) <= before).then_some(()));
}

#[test]
fn a_crowd_that_takes_all_descriptors_is_refused_and_forgotten() {
    let dir = TempDir::new();
    let launch = confined("codexd", &dir);
    let node = Node::with(&Codex::Fake, dir, launch, &[]);
    node.ready();
    crowd(&node.codexd, "/v1/codexd/sessions");

    let dir = TempDir::new();
    let conductor = Daemon::start(&conductor_launch(confined("conductor", &dir), node.codexd.url()));
    crowd(&conductor, "/version");
    assert_eq!(get(&format!("{}/v1/codex/sessions", conductor.url())).status, 200);
}

/// Takes descriptors away from under it: clients wait in the system's queue, and are served as soon as others leave.
#[track_caller]
fn starve(daemon: &Daemon) {
    let most = descriptors(daemon) + 2;
    let limit = format!("--nofile={most}:{most}");
    let set = Command::new("prlimit").args(["--pid", &daemon.pid().to_string(), &limit]).status();
    assert!(set.unwrap().success(), "prlimit of util-linux");

    let mut waiting: Vec<_> = (0..20).map(|_| KeptAlive::open(daemon.url()).unwrap()).collect();
    for (n, connection) in waiting.iter_mut().enumerate() {
        connection.ask("/healthz", &n.to_string()).unwrap();
    }
    eventually("a failed accept", SOON, || daemon.stderr().contains("could not be accepted").then_some(()));
    for (n, mut connection) in waiting.into_iter().enumerate() {
        let answer = connection.answer().unwrap_or_else(|error| panic!("{n}: {error}"));
        assert_eq!((answer.status, answer.header("x-request-id")), (200, Some(n.to_string().as_str())));
    }
    eventually("service", SOON, || ask(daemon, "/healthz").filter(|answer| answer.status == 200));
}

#[test]
fn no_descriptor_to_accept_with_is_waited_out() {
    let node = Node::start(&Codex::Fake, &[]);
    let conductor = conductor(&node.dir, node.codexd.url());
    node.ready();
    let session = node.session(json!({}));
    starve(&node.codexd);
    starve(&conductor);
    node.turn(&session, "[[say still here]]");
}
