//! What a page of somebody else can do to a node from within a real browser on the same machine: nothing.

use e2e::browser::{Browser, Page};
use e2e::codex::Codex;
use e2e::http::{get, metric, raw, request};
use e2e::node::{Node, conductor, status_api};
use e2e::process::Daemon;
use e2e::stub::{Reply, Stub};
use serde_json::{Value, json};

/// Every way in which a page can send something without asking its user; each says whether it was heard to fail.
/// The body is one that a daemon would take, and an empty one makes a session, too.
const SEND: &str = r#"async url => {
    const heard = [], body = '{"cwd": "/tmp"}', kinds = ['application/json', 'text/plain', 'application/x-www-form-urlencoded', null];
    for (const mode of ['cors', 'no-cors']) for (const kind of kinds) for (const text of [body, '']) {
        const headers = kind ? { 'content-type': kind } : {};
        const sent = fetch(url, { method: 'POST', mode, headers, body: text, credentials: 'include' });
        heard.push(await sent.then(answer => answer.type === 'opaque' ? 'opaque' : 'status ' + answer.status, () => 'refused'));
    }
    navigator.sendBeacon(url, body);
    navigator.sendBeacon(url, new Blob([body], { type: 'text/plain' }));
    for (const enctype of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data']) {
        const frame = document.createElement('iframe'), form = document.createElement('form'), field = document.createElement('input');
        frame.name = 'f' + Math.random();
        Object.assign(form, { method: 'POST', action: url, enctype, target: frame.name });
        [field.name, field.value] = ['{"cwd": "/tmp", "metadata": {"a": "', '"}}'];
        form.append(field);
        document.body.append(frame, form);
        const loaded = new Promise(done => { frame.onload = done; setTimeout(done, 3000); });
        form.submit();
        await loaded;
    }
    return heard;
}"#;

/// What a page can read of an answer: its text, or that it got none.
const READ: &str = r#"async url => {
    const heard = [];
    for (const mode of ['cors', 'no-cors']) {
        heard.push(await fetch(url, { mode }).then(answer => answer.text(), () => ''));
    }
    const stream = new EventSource(url);
    heard.push(await new Promise(done => { stream.onmessage = event => done(event.data); stream.onerror = () => done(''); }));
    stream.close();
    return heard;
}"#;

/// Whether a WebSocket opens.
const OPEN: &str = r#"url => new Promise(done => {
    const socket = new WebSocket(url.replace('http', 'ws'));
    socket.onopen = () => { socket.close(); done('open'); };
    socket.onerror = () => done('refused');
})"#;

/// Asks for the events twenty times, without wanting to read them, and holds on to what comes.
const HOLD: &str = r#"(async url => {
    const ask = () => fetch(url, { mode: "no-cors", headers: { accept: "text/event-stream" } }).catch(() => null);
    window.held = await Promise.all([...Array(20)].map(ask));
    return "asked";
})"#;

/// Where an extension of the user's own browser may connect to.
const FOR_EXTENSIONS: &[&str] = &["/v1/codex/events", "/ws/firefox"];

struct Bench {
    node: Node,
    conductor: Daemon,
    status: Daemon,
}

impl Bench {
    fn start() -> Bench {
        let node = Node::start(&Codex::Fake, &[]);
        let conductor = conductor(&node.dir, node.codexd.url());
        let status = status_api(&node.dir, conductor.url(), node.codexd.url());
        node.ready();
        Bench { node, conductor, status }
    }

    fn sessions(&self) -> Value {
        self.node.status()["snapshot"]["sessionRegistry"]["count"].take()
    }
}

#[track_caller]
fn run(page: &mut Page, script: &str, url: &str) -> Value {
    page.eval(&format!("({script})({})", json!(url)))
}

#[test]
fn a_page_of_another_origin_can_do_nothing_and_read_nothing() {
    let Some(browser) = Browser::start() else { return };
    let bench = Bench::start();
    let (front, codexd, status) = (bench.conductor.url(), bench.node.codexd.url(), bench.status.url());
    let stranger = Stub::start(|path| {
        let page = "<!doctype html><title>stranger</title><body>".to_owned();
        if path == "/sandboxed" { Reply::Sandboxed(page) } else { Reply::Html(page) }
    });
    // Another port, another name of this machine, a name that was bound to it, and no origin at all.
    let origins = [
        stranger.url(),
        stranger.by_name("localhost"),
        stranger.by_name("evil.example"),
        stranger.url() + "/sandboxed",
    ];
    for origin in origins {
        let mut page = browser.open(&origin);
        for url in [format!("{front}/v1/codex/sessions"), format!("{codexd}/v1/codexd/sessions")] {
            let heard = run(&mut page, SEND, &url);
            assert!(
                heard.as_array().unwrap().iter().all(|it| it == "refused" || it == "opaque"),
                "{origin}: {heard}"
            );
        }
        assert_eq!(bench.sessions(), 0, "{origin}");
        for url in [
            format!("{front}/v1/codex/sessions"),
            format!("{front}/v1/codex/events"),
            format!("{codexd}/v1/codexd/status"),
            format!("{codexd}/v1/codexd/events"),
            format!("{status}/v1/status"),
            format!("{status}/v1/events"),
        ] {
            assert_eq!(run(&mut page, READ, &url), json!(["", "", ""]), "{origin}: {url}");
        }
        for url in [
            format!("{front}/v1/codex/events"),
            format!("{front}/ws/firefox"),
            format!("{codexd}/v1/codexd/events"),
            format!("{status}/v1/events"),
        ] {
            assert_eq!(run(&mut page, OPEN, &url), "refused", "{origin}: {url}");
        }
    }
    assert_eq!(bench.sessions(), 0, "nor later");
    let mut page = browser.open(&stranger.by_name("localhost"));
    for (base, events) in [(codexd, "/v1/codexd/events"), (front, "/v1/codex/events"), (status, "/v1/events")]
    {
        assert_eq!(run(&mut page, HOLD, &format!("{base}{events}")), "asked");
        assert_eq!(metric(base, "baa_http_streams_open"), Some(0.0), "it holds no place of those who wait");
    }
    // The same from conductor's own origin works: what failed above failed because of where it came from.
    let mut own = browser.open(&format!("{front}/v1/codex"));
    let heard = run(&mut own, SEND, &format!("{front}/v1/codex/sessions"));
    assert!(heard.as_array().unwrap().iter().any(|it| it == "status 201"), "{heard}");
    assert_ne!(bench.sessions(), 0);
    let read = run(&mut own, READ, &format!("{front}/v1/codex/events"));
    assert!(read[0].as_str().unwrap().contains("session.created"), "{read}");
    assert!(read[2].as_str().unwrap().contains("stream.hello"), "{read}");
    assert_eq!(run(&mut own, OPEN, &format!("{front}/v1/codex/events")), "open");
}

#[test]
fn a_name_that_was_bound_to_this_machine_is_served_by_none_of_the_three() {
    let bench = Bench::start();
    for (url, path) in [
        (bench.conductor.url(), "/v1/codex"),
        (bench.node.codexd.url(), "/v1/codexd/status"),
        (bench.status.url(), "/v1/status"),
    ] {
        for host in ["evil.example", "evil.example:4317", "localhost.evil.example"] {
            for path in [path, "/healthz", "/"] {
                request("GET", &format!("{url}{path}"), &[], b""); // it is there
                let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
                let answer = String::from_utf8(raw(url, head.as_bytes())).unwrap();
                assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("forbidden_host"), "{answer}");
            }
        }
    }
    let Some(browser) = Browser::start() else { return };
    for url in [bench.conductor.url(), bench.node.codexd.url(), bench.status.url()] {
        let mut page = browser.open(&url.replace("127.0.0.1", "evil.example"));
        page.shows("forbidden_host");
    }
    get(&format!("{}/v1/codex", bench.conductor.url())).data(200);
}

#[test]
fn an_extension_of_the_users_own_browser_is_let_in() {
    let bench = Bench::start();
    for path in FOR_EXTENSIONS {
        for (origin, status) in [
            ("moz-extension://7c3bd5a8-1f0a-4b57-8d6e-2f0e9a6d1c11", "101"),
            ("https://evil.example", "403"),
            ("null", "403"),
        ] {
            let head = format!(
                "GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\norigin: {origin}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            let answer = e2e::http::raw_head(bench.conductor.url(), head.as_bytes());
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {origin}: {answer}");
        }
    }
}
