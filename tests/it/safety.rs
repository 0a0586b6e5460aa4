//! The limits of the daemons as they run: that both have them, with the figures that the code names. How each of them works
//! is proven on the server alone, in common/tests/sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::http::{BODY_WITHIN, HEAD_WITHIN, MAX_BODIES_BYTES, MAX_BODY_BYTES, MAX_HEAD_BYTES, MAX_HEADERS};
use common::websocket::MAX_MESSAGE_BYTES;
use e2e::codex::Codex;
use e2e::figures;
use e2e::http::{Response, metric, raw};
use e2e::node::{Node, conductor};
use e2e::process::{Daemon, Launch, binary};
use e2e::temp::TempDir;
use e2e::wait::{SOON, eventually};
use e2e::websocket::{Got, Socket};

/// Both daemons, each with a route to read, one to write and one for WebSockets.
struct Bench {
    node: Node,
    conductor: Daemon,
}

struct Place<'a> {
    base: &'a str,
    read: &'static str,
    write: &'static str,
    socket: &'static str,
}

impl Bench {
    fn start() -> Bench {
        let node = Node::start(&Codex::Fake, &[]);
        node.ready();
        let conductor = conductor(&node.dir, node.codexd.url());
        Bench { node, conductor }
    }

    fn places(&self) -> [Place<'_>; 2] {
        let place = |base, read, write, socket| Place { base, read, write, socket };
        [
            place(self.node.codexd.url(), "/v1/codexd/sessions", "/v1/codexd/sessions", "/v1/codexd/events"),
            place(self.conductor.url(), "/v1/codex/sessions", "/v1/codex/sessions", "/v1/codex/events"),
        ]
    }
}

impl Place<'_> {
    /// One request; no answer, whatever it says, lets a web page read it.
    #[track_caller]
    fn ask(&self, line: &str, headers: &str, body: &str) -> Response {
        let host = if headers.to_ascii_lowercase().contains("host:") { "" } else { "Host: localhost\r\n" };
        let length = match line.starts_with("POST") {
            true if !headers.contains("Content-Length:") => format!("Content-Length: {}\r\n", body.len()),
            _ => String::new(),
        };
        let request = format!("{line} HTTP/1.1\r\n{host}Connection: close\r\n{length}{headers}\r\n{body}");
        let response = parse(&raw(self.base, request.as_bytes()));
        let cors = response.headers.iter().find(|(name, _)| name.starts_with("access-control"));
        assert_eq!(cors, None, "{request}");
        assert!(response.header("x-request-id").is_some(), "{request}");
        response
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.base.trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }
}

fn parse(bytes: &[u8]) -> Response {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text}"));
    let pair =
        |line: &str| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    Response {
        status: head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0),
        headers: head.lines().skip(1).filter_map(pair).collect(),
        body: body.as_bytes().to_vec(),
    }
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn no_rebound_name_and_no_web_page_gets_anything() {
    let bench = Bench::start();
    for place in bench.places() {
        let (read, write) = (format!("GET {}", place.read), format!("POST {}", place.write));
        let socket = format!("GET {}", place.socket);
        for line in
            [&read, &write, &socket, "GET /healthz", "GET /metrics", "GET /nowhere", "OPTIONS /healthz"]
        {
            for host in [
                "evil.example",
                "127.0.0.1.evil.example",
                "169.254.169.254",
                "0.0.0.0",
                "control.example.test",
            ] {
                let headers = format!("Host: {host}\r\n{UPGRADE}");
                place.ask(line, &headers, "").failure(403, "forbidden_host");
            }
        }
        let own = place.base;
        for origin in ["https://evil.example", "null", "http://localhost:1", &format!("{own}.evil.example")] {
            let headers = format!("Host: {}\r\nOrigin: {origin}\r\n", own.trim_start_matches("http://"));
            place.ask(&write, &headers, "{}").failure(403, "forbidden_origin");
            place.ask(&socket, &format!("{headers}{UPGRADE}"), "").failure(403, "forbidden_origin");
            // it may ask, and is shown nothing
            assert_eq!(place.ask(&read, &headers, "").status, 200);
            for line in [&read, &write, &socket] {
                let preflight = format!(
                    "{headers}Access-Control-Request-Method: POST\r\nAccess-Control-Request-Private-Network: true\r\n"
                );
                let line = line.replace("GET", "OPTIONS").replace("POST", "OPTIONS");
                let answer = place.ask(&line, &preflight, "");
                answer.failure(405, "method_not_allowed");
                assert!(answer.header("allow").is_some());
            }
        }
        // what a page's form may send without being asked
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
            place
                .ask(&write, &format!("Content-Type: {kind}\r\n"), "{}")
                .failure(415, "unsupported_media_type");
        }
        for origin in [own, "moz-extension://0d5f"] {
            let headers = format!("Host: {}\r\nOrigin: {origin}\r\n", own.trim_start_matches("http://"));
            assert_eq!(place.ask(&write, &headers, "{}").status, 201);
        }
        assert_eq!(place.ask(&write, "Content-Type: application/json; charset=utf-8\r\n", "{}").status, 201);
    }
}

#[test]
fn heads_bodies_and_messages_have_their_bounds() {
    let bench = Bench::start();
    for place in bench.places() {
        let (read, write) = (format!("GET {}", place.read), format!("POST {}", place.write));
        let filler = format!("X-Filler: {}\r\n", "x".repeat(MAX_HEAD_BYTES));
        place.ask(&read, &filler, "").failure(431, "headers_too_large");
        place
            .ask(&format!("{read}?{}", "x".repeat(MAX_HEAD_BYTES)), "", "")
            .failure(431, "headers_too_large");
        place.ask(&read, &"A: b\r\n".repeat(MAX_HEADERS), "").failure(431, "headers_too_large");
        let length = format!("Content-Length: {}\r\n", MAX_BODY_BYTES + 1);
        place.ask(&write, &length, "").failure(413, "payload_too_large");
        let mut socket = Socket::connect(&format!("{}{}", place.base, place.socket), &[]).unwrap();
        socket.text(SOON); // hello
        socket.send(&"x".repeat(MAX_MESSAGE_BYTES + 1));
        let end = eventually("the end of it", SOON, || match socket.next(Duration::from_secs(1)) {
            Got::Closed(code, _) => Some(code),
            _ => None,
        });
        assert_eq!(end, 1009, "too large");
    }
}

#[test]
fn bodies_in_flight_have_a_bound_together() {
    const BODIES: usize = MAX_BODIES_BYTES / MAX_BODY_BYTES;
    let bench = Bench::start();
    for place in bench.places() {
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: ",
            place.write
        );
        let begin = || {
            let mut stream = place.connect();
            stream.write_all(format!("{head}{MAX_BODY_BYTES}\r\n\r\n").as_bytes()).unwrap();
            stream.write_all(&vec![b' '; MAX_BODY_BYTES - 1]).unwrap();
            stream
        };
        let held: Vec<_> = (0..BODIES).map(|_| begin()).collect();
        eventually("four of the largest", SOON, || {
            (metric(place.base, "baa_http_request_bodies_bytes")? == MAX_BODIES_BYTES as f64).then_some(())
        });
        let refused = place.ask(&format!("POST {}", place.write), "", "{}");
        refused.failure(503, "overloaded");
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(place.ask("GET /healthz", "", "").status, 200);
        drop(held);
        eventually("room again", SOON, || {
            (place.ask(&format!("POST {}", place.write), "", "{}").status == 201).then_some(())
        });
    }
}

/// What dribbles in is cut at its deadline, answered; what is silent from the first, without a word.
#[test]
fn heads_and_bodies_have_their_time() {
    let bench = Bench::start();
    let places = bench.places();
    thread::scope(|scope| {
        for place in &places {
            let dribble = |begin: String, within: Duration| {
                let mut stream = place.connect();
                stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                let start = Instant::now();
                stream.write_all(begin.as_bytes()).unwrap();
                let mut answer = Vec::new();
                let mut part = [0; 4096];
                loop {
                    assert!(start.elapsed() < within + SOON, "not cut");
                    match stream.read(&mut part) {
                        Ok(0) => break,
                        Ok(read) => answer.extend_from_slice(&part[..read]),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => drop(stream.write_all(b"x")),
                        Err(error) if error.kind() == ErrorKind::ConnectionReset && !answer.is_empty() => {
                            break;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                let took = start.elapsed();
                assert!(took >= within && took < within + SOON / 2, "{took:?}, not {within:?}");
                answer
            };
            let write = place.write;
            scope.spawn(move || {
                let answer = dribble("GET / HTTP/1.1\r\nHost: ".to_owned(), HEAD_WITHIN);
                parse(&answer).failure(408, "request_timeout");
            });
            scope.spawn(move || {
                let head =
                    format!("POST {write} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n");
                parse(&dribble(head, BODY_WITHIN)).failure(408, "request_timeout");
            });
            scope.spawn(move || {
                let (start, mut answer) = (Instant::now(), Vec::new());
                place.connect().read_to_end(&mut answer).unwrap();
                assert!(answer.is_empty() && start.elapsed() >= HEAD_WITHIN);
            });
        }
    });
}

#[test]
fn neither_listens_where_it_must_not() {
    let dir = TempDir::new();
    for (name, flag) in [("codexd", "--local-api-base"), ("conductor", "--local-api")] {
        for host in ["0.0.0.0", "192.168.1.5", "100.64.0.7", "[::]", "example.com"] {
            let launch = Launch::of(name, dir.path()).args(["start", flag, &format!("http://{host}:0")]);
            let (status, _, stderr) = launch.run(SOON);
            assert_eq!(status.code(), Some(2), "{name} {host}: {stderr}");
            assert!(stderr.contains("loopback") || stderr.contains("Tailscale"), "{name} {host}: {stderr}");
        }
    }
}

/// Asks a conductor at a Tailscale address, in a network of its own where that address can be had.
const OUTSIDE: &str = r#"
set -eu
ip link set lo up
ip addr add 100.64.0.7/32 dev lo
at=http://100.64.0.7:4317
ask() { printf '%s ' "$(curl -s -o answer -w '%{http_code}' "$@")"; }
export BAA_CONDUCTOR_LOCAL_API_ALLOWED_HOSTS=100.64.0.7
for token in secret replace-me; do
    "$CONDUCTOR" start --local-api "$at" --state-dir state --logs-dir logs --shared-token "$token" &
    for _ in $(seq 200); do curl -so answer "$at/healthz" && break; sleep 0.05; done
    ask "$at/healthz"
    ask "$at/v1/codex/sessions"
    ask "$at/v1/codex/sessions" -H 'Host: evil.example'
    ask "$at/v1/codex/sessions" -d '{}' -H 'Content-Type: application/json'
    ask "$at/v1/codex/sessions" -d '{}' -H 'Content-Type: application/json' -H 'Host: 127.0.0.1'
    ask "$at/v1/codex/sessions" -d '{}' -H 'Content-Type: application/json' -H "Authorization: Bearer $token"
    kill $!
    wait $! || true
    echo
done
"#;

/// 503 is that of a conductor without a codexd: whoever gets it has passed.
#[test]
fn a_tailscale_address_asks_for_the_token_to_write_and_takes_no_placeholder() {
    let namespace =
        Command::new("unshare").args(["-n", "sh", "-c", "ip link set lo up && command -v curl"]).output();
    if !namespace.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "no network namespace, ip or curl");
        return figures::print(
            "skipped a conductor at a Tailscale address: no network namespace, ip or curl",
        );
    }
    let dir = TempDir::new();
    let launch = Launch {
        program: PathBuf::from("unshare"),
        args: Vec::new(),
        env: Vec::new(),
        dir: dir.path().into(),
    };
    let launch = launch.env("CONDUCTOR", binary("conductor")).args(["-n", "sh", "-c", OUTSIDE]);
    let (status, stdout, stderr) = launch.run(SOON * 2);
    assert!(status.success(), "{stdout}\n{stderr}");
    assert_eq!(stdout, "200 503 403 401 401 503 \n200 503 403 401 401 401 \n", "{stderr}");
}
