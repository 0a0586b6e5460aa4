//! The program status-api itself: what it prints, and how it ends.

#![allow(clippy::unwrap_used)] // helpers of tests are no tests to clippy

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

fn status_api(args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_status-api"));
    command.args(args.split_whitespace()).env_clear().stdin(Stdio::null());
    command
}

fn run(args: &str) -> Output {
    status_api(args).output().unwrap()
}

#[test]
fn wrong_flags_end_with_2_and_name_themselves() {
    for (args, name) in [
        ("start --local-api http://0.0.0.0:4318", "--local-api (BAA_STATUS_API_LOCAL_API)"),
        ("start --local-api http://100.71.210.78:4318", "allowed hosts do not list"),
        ("config --codexd-local-api http://10.0.0.1:4319", "--codexd-local-api (BAA_CODEXD_LOCAL_API_BASE)"),
        (
            "config --conductor-local-api http://10.0.0.1:4317",
            "--conductor-local-api (BAA_CONDUCTOR_LOCAL_API)",
        ),
        ("config --conductor-local-api http://127.0.0.1:0", "has no port to connect to"),
        ("config --conducter-local-api http://127.0.0.1:1", "did you mean --conductor-local-api?"),
        ("config now", "unexpected argument `now`"),
        ("sing", "unknown command `sing`"),
        ("", "no command"),
    ] {
        let output = run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args}: {said}");
        assert!(said.starts_with("status-api: ") && said.contains(name), "{args}: {said}");
        assert!(said.contains("; see `status-api help"), "{said}");
    }
}

#[test]
fn what_is_asked_is_printed() {
    let printed = |args: &str| {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0), "{args}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(printed("version"), format!("status-api {}\n", env!("CARGO_PKG_VERSION")));
    assert!(printed("help").contains("  --conductor-local-api URL"));
    let text = "local_api_base: http://127.0.0.1:4318\nlocal_api_allowed_hosts: loopback-only\n\
        conductor_local_api_base: http://127.0.0.1:4317\ncodexd_local_api_base: not-configured\nshared_token: configured\n";
    assert_eq!(printed("config --conductor-local-api http://127.0.0.1:4317/ --shared-token s3cr3t"), text);
    let json: serde_json::Value =
        serde_json::from_str(&printed("config --json --shared-token s3cr3t")).unwrap();
    assert_eq!(
        (&json["shared_token"], &json["codexd_local_api_base"]),
        (&"configured".into(), &serde_json::Value::Null)
    );
}

#[test]
fn an_address_of_the_tailscale_network_counts_where_it_is_listed() {
    let mut command = status_api(
        "config --local-api http://100.71.210.78:4318 --conductor-local-api http://100.71.210.78:4317",
    );
    let output =
        command.env("BAA_STATUS_API_ALLOWED_HOSTS", "100.71.210.78,status.example").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("local_api_allowed_hosts: 100.71.210.78,status.example\n"), "{said}");
}

#[test]
fn a_port_that_is_taken_ends_it_with_1_and_term_with_0() {
    let start = || status_api("start --local-api http://127.0.0.1:0").stderr(Stdio::piped()).spawn().unwrap();
    let mut child = start();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    let url = line.trim().split_once("listening url=").unwrap().1.to_string();
    let second = run(&format!("start --local-api {url}"));
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    assert!(String::from_utf8(second.stderr).unwrap().contains("cannot listen at http://127.0.0.1:"));
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
