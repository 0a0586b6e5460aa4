//! status-api: what it says when all is well, when a source is down or frozen, and its page in a real browser.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use common::time::Timestamp;
use e2e::browser::{Browser, Page};
use e2e::codex::Codex;
use e2e::http::{Events, get, request};
use e2e::node::{Node, conductor, status_api};
use e2e::process::{Daemon, Launch};
use e2e::stub::{Reply, Stub};
use e2e::temp::TempDir;
use e2e::wait::{SOON, eventually};
use serde_json::{Value, json};

/// A frozen source costs its deadline of 1 s, and a loaded machine a little.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A whole node on ports that stay, so that a daemon comes back where it was.
struct Bench {
    node: Node,
    conductor: Daemon,
    status: Daemon,
}

impl Bench {
    fn start() -> Bench {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (dir, base) = (TempDir::new(), format!("http://127.0.0.1:{port}"));
        let launch = Launch::of("codexd", dir.path());
        let node = Node::at(&base, &Codex::Fake, dir, launch, &[]);
        let conductor = conductor(&node.dir, node.codexd.url());
        let status = status_api(&node.dir, conductor.url(), node.codexd.url());
        node.ready();
        Bench { node, conductor, status }
    }

    #[track_caller]
    fn seen(&self) -> Value {
        get(&format!("{}/v1/status", self.status.url())).data(200)
    }
}

fn ago(seconds: u64) -> String {
    Timestamp::from_millis(Timestamp::now().millis() - seconds * 1000).to_string()
}

fn ahead(seconds: u64) -> String {
    Timestamp::from_millis(Timestamp::now().millis() + seconds * 1000).to_string()
}

#[test]
fn it_says_how_both_daemons_are_and_keeps_what_it_knew() {
    let mut bench = Bench::start();
    let session = bench.node.session(json!({"metadata": {"title": "night work", "deep": {"er": 1}}}));
    bench.node.turn(&session, "[[say done]]");
    let seen = eventually("the turn", SOON, || {
        let seen = bench.seen();
        (seen["codexd"]["sessions"][0]["lastTurnStatus"] == "completed").then_some(seen)
    });
    assert_eq!((&seen["conductor"]["ok"], &seen["codexd"]["ok"]), (&json!(true), &json!(true)), "{seen}");
    assert_eq!(seen["conductor"]["runtime"]["identity"], "mini-main@mini(primary)");
    assert_eq!(seen["codexd"]["daemon"]["child"]["status"], "running");
    assert_eq!(seen["codexd"]["sessions"][0]["metadata"], json!({"title": "night work", "deep": null}));
    assert_eq!(seen["codexd"]["session_count"], 1);
    assert!(
        seen["codexd"]["recent_events"][0]["seq"].as_u64()
            > seen["codexd"]["recent_events"][1]["seq"].as_u64()
    );

    bench.node.codexd.kill();
    let down = eventually("the end of codexd", SOON, || {
        let seen = bench.seen();
        (seen["codexd"]["ok"] == false).then_some(seen)
    });
    assert_eq!(down["conductor"]["ok"], true, "{down}");
    assert!(down["codexd"]["error"].as_str().unwrap().contains("/v1/codexd/status"), "{down}");
    assert_eq!(down["codexd"]["sessions"][0]["sessionId"], json!(session), "what was known stays");
    let first = down["codexd"]["age_ms"].as_u64().unwrap();
    eventually("facts that grow old", SOON, || {
        (bench.seen()["codexd"]["age_ms"].as_u64().unwrap() > first + 500).then_some(())
    });

    bench.node.crash();
    let back = eventually("codexd again", SOON, || {
        let seen = bench.seen();
        (seen["codexd"]["ok"] == true).then_some(seen)
    });
    assert_eq!((&back["codexd"]["error"], &back["codexd"]["session_count"]), (&Value::Null, &json!(1)));
    assert!(back["codexd"]["age_ms"].as_u64().unwrap() < 500, "{back}");
    assert_eq!(bench.status.terminate(SOON).code(), Some(0));
}

#[test]
fn a_source_that_is_frozen_or_not_configured_holds_nobody_up() {
    let stub = Stub::start(|path| match path {
        "/v1/runtime" => Reply::Data(json!({"identity": "n@h(primary)"})),
        "/v1/system/state" => Reply::Data(json!({"mode": "paused", "queued_tasks": 3, "drained": false})),
        "/v1/tasks?status=queued&limit=20" => {
            Reply::Data(json!({"count": 1, "tasks": [{"task_id": "t", "steps": [1, 2]}]}))
        }
        _ => Reply::Failure(404),
    });
    let (dir, frozen) = (TempDir::new(), Stub::start(|_| Reply::Silence));
    let status = status_api(&dir, &stub.url(), &frozen.url());
    let url = format!("{}/v1/status", status.url());
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let seen = get(&url).data(200);
                assert_eq!((&seen["conductor"]["ok"], &seen["codexd"]["ok"]), (&json!(true), &json!(false)));
                assert_eq!((&seen["codexd"]["age_ms"], &seen["codexd"]["sessions"]), (&Value::Null, &Value::Null));
                let queue = json!({"mode": "paused", "queued_tasks": 3, "active_runs": null, "drained": false, "runs": []});
                for (name, value) in queue.as_object().unwrap() {
                    assert_eq!(seen["queue"][name], *value, "{name}");
                }
                assert_eq!(seen["queue"]["tasks"][0]["task_id"], "t");
                assert_eq!(seen["queue"]["tasks"][0].get("steps"), None);
                assert_eq!(get(&format!("{}/healthz", status.url())).text(), "ok\n");
            });
        }
    });
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    assert_eq!(frozen.asked().len(), 1, "sixteen that ask at once cost one call");

    let launch = Launch::of("status-api", dir.path()).args(["start", "--local-api", "http://127.0.0.1:0"]);
    let alone = Daemon::start(&launch);
    let seen = get(&format!("{}/v1/status", alone.url())).data(200);
    assert_eq!(seen["codexd"]["error"], "BAA_CODEXD_LOCAL_API_BASE is not configured");
    assert_eq!(seen["queue"]["error"], "BAA_CONDUCTOR_LOCAL_API is not configured");
    assert_eq!(get(&format!("{}/", alone.url())).status, 200);
}

#[test]
fn an_answer_that_is_too_large_or_makes_no_sense_is_an_error_of_that_source_alone() {
    let huge = Stub::start(|_| Reply::Data(json!({"identity": "x".repeat(17 * 1024 * 1024)})));
    let odd = Stub::start(|_| Reply::Data(json!("no object")));
    let dir = TempDir::new();
    let status = status_api(&dir, &huge.url(), &odd.url());
    let seen = get(&format!("{}/v1/status", status.url())).data(200);
    assert!(seen["conductor"]["error"].as_str().unwrap().ends_with("is over its bound"), "{seen}");
    assert!(seen["codexd"]["error"].as_str().unwrap().ends_with("answers HTTP 200: no data"), "{seen}");
    let refusing = Stub::start(|_| Reply::Failure(401));
    let status = status_api(&dir, &refusing.url(), &odd.url());
    let seen = get(&format!("{}/v1/status", status.url())).data(200);
    assert!(seen["queue"]["error"].as_str().unwrap().ends_with("HTTP 401: The stub says no."), "{seen}");
}

#[test]
fn both_are_asked_at_the_same_time() {
    let both = Arc::new(Barrier::new(2)); // neither answers before the other is asked
    let meets = |path: &'static str| {
        let both = Arc::clone(&both);
        move |asked: &str| {
            if asked == path {
                both.wait();
            }
            Reply::Data(json!({}))
        }
    };
    let (conductor, codexd) = (Stub::start(meets("/v1/runtime")), Stub::start(meets("/v1/codexd/status")));
    let dir = TempDir::new();
    let status = status_api(&dir, &conductor.url(), &codexd.url());
    let seen = get(&format!("{}/v1/status", status.url())).data(200);
    for part in ["conductor", "codexd", "queue"] {
        assert_eq!(seen[part]["ok"], true, "{seen}");
    }
}

#[test]
fn nothing_can_be_changed_and_no_stranger_asks() {
    let bench = Bench::start();
    let url = bench.status.url();
    for path in ["/v1/status", "/", "/v1/events"] {
        let answer = request("POST", &format!("{url}{path}"), &[], b"");
        answer.failure(405, "method_not_allowed");
    }
    request("POST", &format!("{url}/v1/codex/sessions"), &[], b"").failure(404, "not_found");
    let page = get(&format!("{url}/"));
    let policy = page.header("content-security-policy").unwrap();
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert!(
        policy.starts_with("default-src 'none'; ") && policy.contains("frame-ancestors 'none'"),
        "{policy}"
    );
    assert_eq!(page.text().matches(&format!("nonce=\"{nonce}\"")).count(), 2);
    let other = get(&format!("{url}/"));
    assert!(!other.text().contains(nonce), "each page has its own word");
    assert_eq!(request("HEAD", &format!("{url}/"), &[], b"").status, 200);
}

#[test]
fn events_pass_through_and_end_with_either_side() {
    let mut bench = Bench::start();
    let events = format!("{}/v1/events?type=app-server.turn.*&after=0", bench.status.url());
    let session = bench.node.session(json!({}));
    let mut stream = Events::open("GET", &events, &[], b"");
    assert_eq!(stream.next_data().unwrap().json()["type"], "stream.hello");
    bench.node.turn(&session, "[[say through]]");
    assert_eq!(stream.next_data().unwrap().json()["type"], "app-server.turn.started");
    let delta = stream.next_data().unwrap().json();
    assert_eq!(
        (&delta["type"], &delta["detail"]["sessionId"]),
        (&json!("app-server.turn.message.delta"), &json!(session))
    );
    let left = Events::open("GET", &events, &[], b"");
    drop(left);
    bench.node.codexd.kill();
    while stream.try_next_block().is_ok_and(|block| block.is_some()) {}
    request("GET", &events, &[("accept", "text/event-stream")], b"").failure(503, "codexd_unavailable");
    bench.node.crash();
    let mut stream = Events::open("GET", &events, &[], b"");
    assert!(stream.next_data().is_some());
    let start = Instant::now();
    assert_eq!(bench.status.terminate(SOON).code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(2), "it waits for its streams: {:?}", start.elapsed());
    while stream.try_next_block().is_ok_and(|block| block.is_some()) {}
}

#[test]
fn the_page_follows_a_live_node() {
    let Some(browser) = Browser::start() else { return };
    let mut bench = Bench::start();
    let mut page = browser.open(&format!("{}/", bench.status.url()));
    page.resize(1280, 900);
    page.shows("mini-main@mini(primary)");
    page.shows("No session yet.");
    page.shows("All is well");
    wide_enough(&mut page);
    let talks = bench.node.session(json!({"cwd": bench.node.dir.folder("talks")}));
    let asks =
        bench.node.session(json!({"cwd": bench.node.dir.folder("asks"), "approvalPolicy": "untrusted"}));
    let words: Vec<String> = (0..200).map(|n| format!("word{n}")).collect();
    bench.node.say(&talks, &format!("[[say-slow 100 {}]]", words.join(" ")));
    bench.node.say(&asks, "[[exec touch never.txt]]");
    page.shows(&talks);
    page.shows("word7");
    // A word comes each 100 ms, and is shown before the page asks again how all is.
    let lengths = page.eval(
        "new Promise(done => {
            const seen = new Set(), text = [...document.querySelectorAll('.text')].find(it => it.textContent.includes('word'));
            const look = setInterval(() => seen.add(text.textContent.length), 20);
            setTimeout(() => { clearInterval(look); done(seen.size); }, 1500);
        })",
    );
    assert!(lengths.as_u64() > Some(4), "{lengths} lengths of a text that grows");
    page.shows("Wants to run a command");
    page.shows("touch never.txt");
    page.shows("One thing waits for you");
    let waits = "document.querySelector('#approvals time').textContent";
    let waited = page.eval(waits);
    page.until("a clock that runs", &format!("{waits} !== {waited}"));
    page.picture("live-desktop");
    keeps_what_is_open(&mut page);
    shows_what_is_down(&mut page, &mut bench, &talks);
}

/// What a reader has opened, and where the keyboard is, stay while the page goes on.
#[track_caller]
fn keeps_what_is_open(page: &mut Page) {
    page.eval("document.querySelector('#approvals details').open = true");
    page.eval("document.querySelector('#approvals summary').focus()");
    page.shows("/v1/codex/approvals/approval-");
    let looked = page.eval("heard");
    page.until("two more looks", &format!("heard > {looked} + 2500"));
    assert_eq!(page.eval("document.querySelector('#approvals details').open"), true);
    assert_eq!(page.eval("document.activeElement.tagName"), "SUMMARY");
}

/// One daemon after the other ends, and the first comes back.
#[track_caller]
fn shows_what_is_down(page: &mut Page, bench: &mut Bench, talks: &str) {
    bench.node.codexd.kill();
    page.shows("codexd is down; last heard");
    page.shows("Below is what was known last.");
    page.shows(talks);
    page.until("an age", "/^[0-9]+ s ago$/.test(document.querySelector('#codexd time').textContent)");
    page.picture("codexd-down-desktop");
    page.resize(375, 800);
    page.scheme("dark");
    page.picture("codexd-down-phone-dark");
    page.until("the end of its events", "!stream || stream.readyState === EventSource.CLOSED");
    bench.node.crash();
    page.until("codexd again", "!document.getElementById('codexd').classList.contains('down')");
    bench.node.ready();
    bench.node.say(talks, "[[say-slow 100 back again and again and again]]");
    page.shows("back again"); // the text streams again, too

    bench.conductor.kill();
    page.shows("conductor is down; last heard");
    bench.status.kill();
    page.shows("status-api does not answer");
    page.picture("status-api-gone-phone-dark");
}

/// No horizontal scroll.
#[track_caller]
fn wide_enough(page: &mut Page) {
    let widths = page.eval("[document.documentElement.scrollWidth, innerWidth]");
    assert!(widths[0].as_u64() <= widths[1].as_u64(), "{widths}");
}

/// A text that would run if it were ever markup, an attribute or a URL.
const HOSTILE: &str = "\"><img src=x onerror=\"window.hacked=1\"><script>window.hacked=1</script>' onmouseover='window.hacked=1";

fn hostile_sessions() -> Vec<Value> {
    let ends = ["completed", "completed", "failed", "interrupted", "completed"];
    let session = |n: u64| {
        let cwd = match n {
            0 => format!("/home/{HOSTILE}"),
            1 => format!("/home/{}", "a-very-long-name-without-any-space".repeat(12)),
            _ => format!("/Users/mini/code/project-{}", n % 17),
        };
        json!({
            "sessionId": format!("session-8335570a-{n}"), "purpose": if n.is_multiple_of(3) { "worker" } else { "duplex" },
            "status": if n % 5 == 4 { "closed" } else { "active" }, "cwd": cwd, "model": "gpt-5.5",
            "currentTurnId": if n == 0 { json!("turn-0") } else { Value::Null },
            "lastTurnId": format!("turn-{n}"), "lastTurnStatus": ends[n as usize % 5],
            "createdAt": ago(n * 400 + 60), "updatedAt": ago(n * 400 + 7),
            "metadata": if n == 0 { json!({"title": HOSTILE, HOSTILE: HOSTILE}) } else { Value::Null },
        })
    };
    (0..200).map(session).collect()
}

fn hostile_codexd(path: &str) -> Reply {
    let request = json!({"command": format!("rm -rf build && {HOSTILE}"), "cwd": "/Users/mini/code/project-3", "reason": HOSTILE});
    let approval = |n: u64, kind: &str, request: Value| {
        json!({"approvalId": format!("approval-8335570a-{n}"), "kind": kind, "sessionId": "session-8335570a-0",
            "turnId": "turn-0", "requestedAt": ago(90 + n), "deadlineAt": ahead(420 + n), "request": request})
    };
    let question = json!({"questions": [{"id": "q1", "question": "Which of the two?", "options": [{"label": "the old"}, {"label": HOSTILE}]}]});
    let event = |seq: u64, level: &str, kind: &str, message: &str, detail: Value| json!({"seq": seq, "createdAt": ago(1000 - seq * 9), "level": level, "type": kind, "message": message, "detail": detail});
    match path.split('?').next().unwrap() {
        "/v1/codexd/status" => Reply::Data(json!({"snapshot": {
            "identity": {"daemonId": "codexd-1", "nodeId": "mini-main", "version": "0.1.0"},
            "daemon": {"pid": 4242, "startedAt": ago(100_000), "child": {"status": "running", "pid": 4243, "version": "0.169.0",
                "restarts": 1, "lastError": HOSTILE, "loginRequired": false, "warning": null}},
            "disk": {"latestSeq": 100, "logBytes": 12_345_678, "transcriptsBytes": 234_567_890},
            "sessionRegistry": {"count": 1204, "activeCount": 160, "sessions": hostile_sessions()},
            "recentEvents": {"events": [
                event(97, "info", "turn.accepted", "Turn turn-0 accepted.", json!({"sessionId": "session-8335570a-0", "turnId": "turn-0"})),
                event(98, "warn", "child.exited", "app-server ended (signal 9).", json!({"reason": HOSTILE})),
                event(99, "info", HOSTILE, HOSTILE, json!({"sessionId": HOSTILE, "status": HOSTILE})),
                event(100, "info", "app-server.turn.completed", "app-server sent turn/completed.",
                    json!({"sessionId": "session-8335570a-2", "turnId": "turn-2", "turn": {"status": "failed", "error": {"message": "stream disconnected before completion"}}})),
            ]},
        }})),
        "/v1/codexd/approvals" => Reply::Data(json!({"approvals": [
            approval(1, "command", request), approval(2, "question", question), approval(3, HOSTILE, json!({"reason": HOSTILE})),
        ]})),
        "/v1/codexd/events" => {
            let delta = json!({"seq": 98, "createdAt": ago(1), "type": "app-server.turn.message.delta", "detail":
                {"sessionId": "session-8335570a-0", "turnId": "turn-0", "itemId": "i", "delta": format!("I read {HOSTILE} and go on.\n")}});
            Reply::Events(format!("id: 98\ndata: {delta}\n\n"))
        }
        _ => Reply::Failure(404),
    }
}

fn hostile_conductor(path: &str) -> Reply {
    let task = |n: u64, status: &str, error: Value| {
        json!({"task_id": format!("task-8335570a-{n}"), "title": if n == 1 { HOSTILE } else { "Bring the changelog up to date" },
            "status": status, "attempts": n, "failures": n - 1, "max_attempts": 3, "step_index": 1, "steps": [{}, {}, {}],
            "run_id": format!("run-8335570a-{n}"), "canceling": false, "priority": n - 1, "created_at": ago(5000), "started_at": ago(4000),
            "finished_at": if n > 2 { json!(ago(300)) } else { Value::Null }, "error": error})
    };
    match path.split('?').next().unwrap() {
        "/v1/runtime" => {
            Reply::Data(json!({"identity": "mini-main@mini(primary)", "daemon": {"leaseState": "leader"},
            "runtime": {"pid": 4241, "startedAt": ago(100_000), "version": "0.1.0"},
            "warnings": ["BAA_SHARED_TOKEN is not configured; what asks for the token is refused."]}))
        }
        "/v1/system/state" => {
            Reply::Data(json!({"mode": "draining", "holder_id": "mini-main", "holder_host": "mini",
            "lease_state": "leader", "lease_expires_at": ahead(25), "term": 7, "requested_by": "operator", "reason": HOSTILE,
            "updated_at": ago(500), "queued_tasks": 3, "active_runs": 1, "drained": false}))
        }
        "/v1/tasks" => {
            let has = |status: &str| path.contains(&format!("status={status}&"));
            let all = [
                task(1, "running", Value::Null),
                task(2, "queued", json!({"code": "turn_failed", "message": "The stream was cut."})),
                task(
                    3,
                    "failed",
                    json!({"code": "EXEC_EXIT_NON_ZERO", "message": "The command ended with 101."}),
                ),
                task(4, "completed", Value::Null),
            ];
            Reply::Data(
                json!({"tasks": all.into_iter().filter(|task| has(task["status"].as_str().unwrap())).collect::<Vec<_>>()}),
            )
        }
        "/v1/runs" => Reply::Data(
            json!({"runs": [{"run_id": "run-8335570a-1", "last_line": "Step 2 of 3: $ make test", "task_id": "task-8335570a-1", "attempt": 1,
            "status": "running", "session_id": "session-8335570a-0", "started_at": ago(3000)}]}),
        ),
        _ => Reply::Failure(404),
    }
}

#[test]
fn the_page_is_readable_with_200_sessions_and_runs_nothing_of_theirs() {
    let Some(browser) = Browser::start() else { return };
    let (dir, codexd_is_up) = (TempDir::new(), Arc::new(AtomicBool::new(true)));
    let up = Arc::clone(&codexd_is_up);
    let codexd =
        Stub::start(
            move |path| if up.load(Ordering::SeqCst) { hostile_codexd(path) } else { Reply::Failure(500) },
        );
    let conductor = Stub::start(hostile_conductor);
    let status = status_api(&dir, &conductor.url(), &codexd.url());
    let mut page = browser.open(&format!("{}/", status.url()));
    page.shows("draining");
    page.shows("3 things wait for you");
    page.shows("Show all 200");
    page.shows("160 active of 1204");
    page.shows("The command ended with 101.");
    page.shows("step 2 of 3 · attempt 1 · session-8335570a-0");
    page.shows("1 of 3 steps done · attempt 2, 1 of 3 failed");
    page.shows("Step 2 of 3: $ make test");
    page.shows("The attempt before: The stream was cut.");
    page.shows("stream disconnected before completion");
    page.shows("and go on.");
    page.until("20 rows", "document.querySelectorAll('#sessions li').length === 20");
    for scheme in ["light", "dark"] {
        page.scheme(scheme);
        for (kind, width) in [("phone", 375), ("desktop", 1280)] {
            page.resize(width, 800);
            page.picture(&format!("full-{kind}-{scheme}"));
        }
    }
    page.eval("document.getElementById('all-sessions').click()");
    page.until("200 rows", "document.querySelectorAll('#sessions li').length === 200");
    page.eval("document.querySelectorAll('details').forEach(it => { it.open = true; })");
    for width in [320, 375, 768, 1280] {
        page.resize(width, 800);
        wide_enough(&mut page);
    }
    assert_ne!(background(&mut page, "light"), background(&mut page, "dark"));
    assert_eq!(page.eval("window.hacked"), Value::Null);
    assert_eq!(page.eval("document.querySelectorAll('img, iframe, [onmouseover]').length"), 0);
    assert_eq!(page.eval("document.scripts.length"), 1);
    // Even markup would run nothing: the page forbids it to itself.
    let forbidden =
        "(() => { try { document.body.innerHTML = '<b>x</b>'; return false } catch { return true } })()";
    assert_eq!(page.eval(forbidden), true);

    codexd_is_up.store(false, Ordering::SeqCst);
    page.shows("codexd is down; last heard");
    wide_enough(&mut page);
}

#[track_caller]
fn background(page: &mut Page, scheme: &str) -> Value {
    page.scheme(scheme);
    page.eval("getComputedStyle(document.body).backgroundColor")
}

#[test]
fn the_page_follows_tasks_from_the_queue_to_their_end() {
    let Some(browser) = Browser::start() else { return };
    let bench = Bench::start();
    let submit = |task: Value| {
        let task =
            e2e::http::post(&format!("{}/v1/tasks", bench.conductor.url()), &task).data(201)["task"].take();
        task["task_id"].as_str().unwrap().to_owned()
    };
    let mut page = browser.open(&format!("{}/", bench.status.url()));
    page.resize(390, 844);
    page.shows("All is well, nothing runs");
    let slow = json!({"kind": "codex", "input": "[[say looked around]] [[say-slow 4000 a b]]"});
    let runs = submit(
        json!({"title": "Night work", "steps": [slow, {"kind": "codex", "input": "[[say and done]]"}]}),
    );
    let hangs = submit(json!({"steps": [{"kind": "codex", "input": "[[hang]]"}], "priority": 1}));
    let waits = submit(json!({"title": "One for later", "steps": [slow], "not_before": ahead(7200)}));
    let fails = json!({"title": "No luck", "steps": [{"kind": "codex", "input": "[[fail 400]]"}], "max_attempts": 1, "priority": 9});
    page.shows("step 1 of 2 · attempt 1 · session-");
    page.shows("looked around"); // its newest line
    page.shows("[[hang]]"); // a task without a title has its first step for one
    page.shows("due in 1 h 59 min");
    page.shows("All is well, 2 turns run, 2 tasks run");
    let cancel = format!("{}/v1/tasks/{hangs}/cancel", bench.conductor.url());
    e2e::http::post(&cancel, &json!({})).data(200);
    let fails = submit(fails);
    page.shows("One task failed within 24 hours");
    page.shows("2 of 2 steps done");
    let order = "[...document.querySelectorAll('#tasks > li')].map(it => it.dataset.key)";
    let ended = format!("JSON.stringify({order}.slice(0, 2)) === JSON.stringify(['{waits}', '{runs}'])");
    page.until("what waits, then what ended last", &ended);
    let chips =
        page.eval("[...document.querySelectorAll('#tasks > li .chip')].map(it => it.textContent).sort()");
    assert_eq!(chips, json!(["canceled", "completed", "failed", "queued"]));
    assert_eq!(page.eval(order).as_array().unwrap().iter().filter(|id| *id == &json!(fails)).count(), 1);
    for scheme in ["light", "dark"] {
        page.scheme(scheme);
        page.picture(&format!("tasks-phone-{scheme}"));
    }
    wide_enough(&mut page);
}
