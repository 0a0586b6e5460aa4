//! `GET /metrics` of all three: what Prometheus' own tool says of it, what the docs say of it, that it counts, and that
//! it comes when nothing else does.

#![cfg(target_os = "linux")] // what /proc tells and prlimit sets

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::codex::Codex;
use e2e::figures;
use e2e::golden::golden;
use e2e::http::{Events, KeptAlive, get, metric, post, request};
use e2e::node::{Node, conductor, status_api};
use e2e::process::{Daemon, kill_pid};
use e2e::wait::{SOON, eventually};
use e2e::websocket::Socket;
use serde_json::json;

fn bench() -> (Node, Daemon) {
    let node = Node::start(&Codex::Fake, &[]);
    node.ready();
    let conductor = conductor(&node.dir, node.codexd.url());
    (node, conductor)
}

/// Waits until a sample has this value: what the loop says comes a moment after its answers.
#[track_caller]
fn becomes(base: &str, sample: &str, value: f64) {
    eventually(&format!("{sample} {value}"), SOON, || (metric(base, sample) == Some(value)).then_some(()));
}

fn answers(base: &str, route: &str, code: u16) -> f64 {
    let sample = format!("baa_http_request_duration_seconds_count{{route=\"{route}\",code=\"{code}\"}}");
    metric(base, &sample).unwrap_or(0.0)
}

/// What `promtool check metrics` finds wrong with a page: `None` where there is no promtool.
fn promtool(page: &[u8]) -> Option<String> {
    let mut command = Command::new("promtool");
    let command = command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut child) = command.stderr(Stdio::piped()).spawn() else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "no promtool: install Debian's prometheus");
        figures::print("skipped promtool check metrics: it is not installed");
        return None;
    };
    child.stdin.take().unwrap().write_all(page).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let failed = if output.status.success() { "" } else { "it failed: " };
    Some(failed.to_owned() + &String::from_utf8_lossy(&said))
}

/// A family as a row of the docs: type and labels, and what it is.
type Family = ((String, BTreeSet<String>), String);

fn families(page: &str) -> BTreeMap<String, Family> {
    let (mut all, mut help) = (BTreeMap::<String, Family>::new(), String::new());
    for line in page.lines() {
        if let Some((_, text)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            help = text.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            all.insert(name.to_owned(), ((kind.to_owned(), BTreeSet::new()), help.clone()));
        } else if let Some((name, rest)) = line.split_once('{') {
            let name = name.trim_end_matches("_sum").trim_end_matches("_count");
            let labels = rest.split('"').step_by(2).filter_map(|part| part.strip_suffix('='));
            let labels = labels.map(|label| label.trim_start_matches(',').to_owned());
            all.get_mut(name).unwrap_or_else(|| panic!("{name} has no type")).0.1.extend(labels);
        }
    }
    all
}

#[test]
fn the_pages_are_well_formed_and_the_docs_tell_all_of_them() {
    let (node, conductor) = bench();
    node.turn(&node.session(json!({})), "[[say hello]]");
    get(&format!("{}/v1/codex/sessions/nobody", conductor.url())).failure(404, "not_found");
    let mut rows = BTreeMap::<String, (Family, Vec<&str>)>::new();
    let status = status_api(&node.dir, conductor.url(), node.codexd.url());
    get(&format!("{}/healthz", status.url()));
    for (name, daemon) in [("codexd", &node.codexd), ("conductor", &conductor), ("status-api", &status)] {
        let page = get(&format!("{}/metrics", daemon.url()));
        assert_eq!(page.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        if let Some(said) = promtool(&page.body) {
            assert_eq!(said, "", "{name}:\n{}", page.text());
        }
        for (family, what) in families(&page.text()) {
            let (known, daemons) = rows.entry(family).or_insert_with(|| (what.clone(), Vec::new()));
            assert_eq!(*known, what, "one name, one meaning");
            daemons.push(name);
        }
    }
    let mut table = "| metric | type | labels | of | what |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for (name, (((kind, labels), help), daemons)) in rows {
        let labels = labels.into_iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(" ");
        let of = if daemons.len() == 3 { "each".to_owned() } else { daemons.join(", ") };
        table += &format!("| `{name}` | {kind} | {labels} | {of} | {help} |\n");
    }
    let doc = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md")).unwrap();
    let (before, rest) = doc.split_once("| metric |").expect("docs/metrics.md has a table");
    let after = rest.split_once("\n\n").map_or("", |(_, after)| after);
    let gap = if after.is_empty() { "" } else { "\n" };
    golden("../../docs/metrics.md", &format!("{before}{table}{gap}{after}"));
}

#[test]
fn what_happens_is_counted() {
    let (mut node, conductor) = bench();
    let base = node.codexd.url().to_owned();
    let session = node.session(json!({}));
    node.session(json!({}));
    get(&node.url("/v1/codexd/sessions/nobody")).failure(404, "not_found");
    get(&node.url("/nowhere")).failure(404, "not_found");
    let large = e2e::http::raw(
        &base,
        b"POST /v1/codexd/turn HTTP/1.1\r\nhost: localhost\r\ncontent-length: 16777217\r\n\r\n",
    );
    assert!(large.starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&large));
    assert_eq!(answers(&base, "sessions.create", 201), 2.0);
    assert_eq!(answers(&base, "sessions.read", 404), 1.0);
    assert_eq!((answers(&base, "none", 404), answers(&base, "none", 413)), (1.0, 1.0));

    let ended = |status: &str| {
        metric(&base, &format!("baa_codexd_turns_ended_total{{status=\"{status}\"}}")).unwrap()
    };
    node.turn(&session, "[[say one]]");
    node.turn(&session, "[[say two]]");
    let failing = node.say(&session, "[[fail 400]]");
    assert_eq!(node.end(&session, &failing, SOON), "failed");
    let hanging = node.say(&session, "[[hang]]");
    becomes(&base, "baa_codexd_turns_running", 1.0);
    post(&node.url(&format!("/v1/codexd/sessions/{session}/interrupt")), &json!({})).data(202);
    assert_eq!(node.end(&session, &hanging, SOON), "interrupted");
    becomes(&base, "baa_codexd_turns_running", 0.0);
    assert_eq!(["completed", "failed", "interrupted"].map(ended), [2.0, 1.0, 1.0]);
    let syncs = metric(&base, "baa_log_sync_duration_seconds_count").unwrap();
    let longest = metric(&base, "baa_log_longest_sync_seconds").unwrap();
    let all = metric(&base, "baa_log_sync_duration_seconds_sum").unwrap();
    assert!(syncs >= 10.0 && longest > 0.0 && all >= longest, "{syncs} {longest} {all}");
    assert!(metric(&base, "baa_log_latest_seq").unwrap() >= 10.0);

    // the death of the child is a restart, and another turn that did not end well
    let running = node.say(&session, "[[hang]]");
    let child = node.status()["snapshot"]["daemon"]["child"].take();
    kill_pid(child["pid"].as_u64().unwrap().try_into().unwrap());
    becomes(&base, "baa_codexd_child_restarts_total", 1.0);
    becomes(&base, "baa_codexd_child_up", 1.0);
    assert_eq!(node.end(&session, &running, SOON), "interrupted");
    assert_eq!(ended("interrupted"), 2.0);

    let key = [("idempotency-key", "one"), ("content-type", "application/json")];
    for _ in 0..2 {
        request("POST", &node.url("/v1/codexd/sessions"), &key, b"{}").data(201);
    }
    becomes(&base, "baa_codexd_idempotency_keys", 1.0);
    becomes(&base, "baa_codexd_sessions{status=\"active\"}", 3.0);
    post(&node.url(&format!("/v1/codexd/sessions/{session}/close")), &json!({})).data(200);
    becomes(&base, "baa_codexd_sessions{status=\"closed\"}", 1.0);

    let front = conductor.url();
    let events = Events::open("GET", &format!("{front}/v1/codex/events"), &[], b"");
    let socket = Socket::connect(&node.url("/v1/codexd/events"), &[]).unwrap();
    becomes(&base, "baa_codexd_readers{kind=\"sse\"}", 1.0);
    becomes(&base, "baa_codexd_readers{kind=\"websocket\"}", 1.0);
    assert_eq!(metric(&base, "baa_http_streams_open"), Some(1.0));
    assert_eq!(metric(&base, "baa_http_websockets_open"), Some(1.0));
    assert_eq!(metric(front, "baa_conductor_upstream_streams_open"), Some(1.0));
    get(&format!("{front}/v1/codex/sessions/nobody")).failure(404, "not_found");
    node.codexd.kill();
    drop((events, socket));
    get(&format!("{front}/v1/codex")).failure(503, "codexd_unavailable");
    let calls = |outcome: &str| {
        let name = "baa_conductor_upstream_request_duration_seconds_count";
        metric(front, &format!("{name}{{outcome=\"{outcome}\"}}")).unwrap()
    };
    assert_eq!(["ok", "refused", "invalid", "unavailable"].map(calls), [1.0, 1.0, 0.0, 1.0]);
}

#[test]
fn what_the_agent_waits_for_is_counted() {
    let node = Node::start(&Codex::Fake, &[]);
    let session = node.session(json!({"approvalPolicy": "untrusted", "sandbox": "read-only"}));
    node.say(&session, "[[exec touch x]]");
    becomes(node.codexd.url(), "baa_codexd_approvals_pending", 1.0);
}

/// As many connections as there may be, but for the last 16, which serve probes.
#[test]
fn a_full_node_still_tells() {
    const RESERVED: usize = 16;
    let pid = std::process::id().to_string();
    let _ = Command::new("prlimit").args(["--pid", &pid, "--nofile=4096"]).status(); // where it is not enough already
    let (node, conductor) = bench();
    for (daemon, path) in [(&node.codexd, "/v1/codexd/sessions"), (&conductor, "/version")] {
        let (base, most) =
            (daemon.url(), metric(daemon.url(), "baa_http_connections_limit").unwrap() as usize);
        eventually("an empty node", SOON, || {
            (metric(base, "baa_http_connections_open")? == 1.0).then_some(())
        });
        let mut crowd = Vec::new();
        for n in 0..most - RESERVED {
            let mut connection = KeptAlive::open(base).unwrap_or_else(|error| panic!("{n}: {error}"));
            connection.ask("/healthz", "crowd").unwrap();
            assert_eq!(connection.answer().unwrap().status, 200, "{n}");
            crowd.push(connection);
        }
        get(&format!("{base}{path}")).failure(503, "overloaded");
        // The one that was refused may take a moment to be gone.
        eventually("the crowd, and who asks", SOON, || {
            (metric(base, "baa_http_connections_open")? == (most - RESERVED + 1) as f64).then_some(())
        });
        let refused = eventually("no place at all", SOON, || {
            let _last: Vec<_> = (0..RESERVED).map(|_| KeptAlive::open(base)).collect();
            let mut past = KeptAlive::open(base).ok()?;
            past.answer().ok().filter(|answer| answer.status == 503)
        });
        refused.failure(503, "overloaded");
        drop(crowd);
        eventually("a free node", SOON, || {
            let answer = e2e::http::try_request("GET", &format!("{base}{path}"), &[], b"").ok()?;
            (answer.status == 200).then_some(())
        });
        assert!(metric(base, "baa_http_connections_refused_total").unwrap() >= 1.0);
    }
}

#[test]
fn a_page_costs_no_more_than_a_status() {
    let (node, conductor) = bench();
    for _ in 0..50 {
        node.session(json!({}));
    }
    let median = |url: &str| {
        let mut times: Vec<_> = (0..101)
            .map(|_| {
                let begun = std::time::Instant::now();
                assert_eq!(get(url).status, 200);
                begun.elapsed()
            })
            .collect();
        times.sort();
        times[50]
    };
    // Other tests run beside this one: what counts is what it takes when they let it.
    for (page, status) in [
        (node.url("/metrics"), node.url("/v1/codexd/status")),
        (format!("{}/metrics", conductor.url()), format!("{}/v1/codex", conductor.url())),
    ] {
        let fits = || {
            let (page, status) = (median(&page), median(&status));
            (page <= status).then_some((page, status))
        };
        let (page, status) = (0..20).find_map(|_| fits()).unwrap_or((Duration::MAX, Duration::ZERO));
        assert!(page <= status, "metrics cost more than a status");
        figures::print(&format!("metrics {page:.0?}, status {status:.0?}"));
    }
}
