//! The program itself: what it prints, how it ends, and that it stops when asked.

#![allow(clippy::unwrap_used)] // helpers of tests are no tests to clippy

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

fn conductor(args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conductor"));
    command.args(args.split_whitespace()).env_clear().stdin(Stdio::null());
    command
}

fn run(args: &str) -> Output {
    conductor(args).output().unwrap()
}

/// A running conductor; ended by force if a test fails.
struct Running {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
    url: String,
    dir: PathBuf,
}

impl Running {
    fn start(args: &str) -> Running {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("baa-cli-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&dir).unwrap();
        let mut child = conductor(&format!("start --local-api http://127.0.0.1:0 {args}"))
            .current_dir(&dir)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening url=") {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended before it listened");
        }
        let url = line.trim().split_once("url=").unwrap().1.to_string();
        Running { child, stderr, url, dir }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.url.trim_start_matches("http://")).unwrap()
    }

    /// Asks it to stop; how it ended, after how long, and what it said.
    fn stop(mut self, signal: &str) -> (Option<i32>, Duration, String) {
        let since = Instant::now();
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), since.elapsed(), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn wrong_flags_end_with_2_and_name_themselves() {
    for (args, name) in [
        ("start", "--local-api (BAA_CONDUCTOR_LOCAL_API) is required"),
        ("start --local-api http://0.0.0.0:4317", "--local-api (BAA_CONDUCTOR_LOCAL_API)"),
        ("start --local-api http://100.71.210.78:4317", "allowed hosts do not list"),
        ("config --codexd-local-api http://10.0.0.1:4319", "--codexd-local-api (BAA_CODEXD_LOCAL_API_BASE)"),
        ("config --prioritty 1", "unknown flag --prioritty; did you mean --priority?"),
        ("config now", "unexpected argument `now`"),
        ("status", "--local-api (BAA_CONDUCTOR_LOCAL_API) is required"),
        ("sing", "unknown command `sing`"),
        ("", "no command"),
    ] {
        let output = run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args}: {said}");
        assert!(said.starts_with("conductor: ") && said.contains(name), "{args}: {said}");
    }
}

#[test]
fn what_is_asked_is_printed() {
    let printed = |args: &str| {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0), "{args}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(printed("version"), format!("conductor {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(printed("--version"), printed("version"));
    assert!(printed("start --help").contains("  --codexd-local-api URL"));
    assert!(printed("config --role standby").starts_with("identity: mini-main@mini(standby)\n"));
    let json: serde_json::Value =
        serde_json::from_str(&printed("config --json --shared-token s3cr3t")).unwrap();
    assert_eq!(
        (&json["shared_token"], &json["local_api_base"]),
        (&"configured".into(), &serde_json::Value::Null)
    );
}

#[test]
fn status_asks_the_running_one() {
    let running = Running::start("--node-id n-1");
    let status = |args: &str| run(&format!("status --local-api {} {args}", running.url));
    let text = String::from_utf8(status("").stdout).unwrap();
    assert!(text.starts_with("identity: n-1@mini(primary)\nlease_state: leader\n"), "{text}");
    assert!(text.contains(&format!("\nlocal_api_base: {}\n", running.url)), "{text}");
    assert!(text.contains("\nwarning: BAA_CODEXD_LOCAL_API_BASE is not configured;"), "{text}");
    let json: serde_json::Value = serde_json::from_slice(&status("--json").stdout).unwrap();
    assert_eq!(
        (&json["identity"], &json["runtime"]["pid"]),
        (&"n-1@mini(primary)".into(), &running.child.id().into())
    );
}

#[test]
fn status_of_nobody_ends_with_69() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = run(&format!("status --local-api http://{address}"));
    assert_eq!((output.status.code(), output.stdout.len()), (Some(69), 0));
}

#[test]
fn a_port_that_is_taken_ends_with_1() {
    let running = Running::start("");
    let output = run(&format!("start --local-api {}", running.url));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr).unwrap().contains("conductor: cannot listen at http://127.0.0.1:")
    );
}

#[test]
fn it_stops_when_asked() {
    for signal in ["-TERM", "-INT"] {
        let running = Running::start("");
        let idle = running.connect();
        let (code, _, said) = running.stop(signal);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(&format!("stopping reason=SIG{}", &signal[1..])), "{said}");
        drop(idle);
    }
}

#[test]
fn a_call_in_flight_is_answered_before_the_end() {
    let codexd = TcpListener::bind("127.0.0.1:0").unwrap();
    let running = Running::start(&format!("--codexd-local-api http://{}", codexd.local_addr().unwrap()));
    let mut client = running.connect();
    client.write_all(b"GET /v1/codex/sessions HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let (mut upstream, _) = codexd.accept().unwrap();
    let answer = std::thread::spawn(move || {
        let mut reader = BufReader::new(upstream.try_clone().unwrap());
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap() > 2 {
            line.clear();
        }
        std::thread::sleep(Duration::from_millis(300));
        upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{\"ok\":true,\"data\":7}").unwrap();
    });
    let (code, _, said) = running.stop("-TERM");
    assert_eq!(code, Some(0), "{said}");
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("\"data\": 7"), "{text}");
    answer.join().unwrap();
}

#[test]
fn a_stream_does_not_hold_the_end_up() {
    let codexd = TcpListener::bind("127.0.0.1:0").unwrap();
    let running = Running::start(&format!("--codexd-local-api http://{}", codexd.local_addr().unwrap()));
    let mut client = running.connect();
    let stream = b"GET /v1/codex/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";
    client.write_all(stream).unwrap();
    let (mut upstream, _) = codexd.accept().unwrap();
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n: \n\r\n";
    upstream.write_all(head).unwrap();
    let mut reader = BufReader::new(client);
    let mut line = String::new();
    while line != ": \n" {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the stream did not begin");
    }
    let (code, took, said) = running.stop("-TERM");
    assert_eq!(code, Some(0), "{said}");
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn a_call_that_does_not_end_is_cut_after_the_grace() {
    let codexd = TcpListener::bind("127.0.0.1:0").unwrap();
    let running = Running::start(&format!("--codexd-local-api http://{}", codexd.local_addr().unwrap()));
    let mut client = running.connect();
    client.write_all(b"GET /v1/codex/sessions HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let _upstream = codexd.accept().unwrap();
    let (code, took, said) = running.stop("-TERM");
    assert_eq!(code, Some(0), "{said}");
    assert!(took < Duration::from_secs(9), "{took:?}");
}
