//! `POST /v1/exec` under an `Idempotency-Key`: each command runs once, whatever becomes of callers and daemons.

use std::fs;
use std::thread;

use e2e::http::{Response, request};
use e2e::process::{Daemon, Launch};
use e2e::temp::TempDir;
use e2e::tmpfs::Tmpfs;
use e2e::wait::{SOON, eventually};
use serde_json::{Value, json};

fn launch(dir: &TempDir, node: &str) -> Launch {
    Launch::of("conductor", dir.path()).args([
        "start",
        "--local-api",
        "http://127.0.0.1:0",
        "--shared-token",
        "secret",
        "--node-id",
        node,
    ])
}

fn exec(conductor: &Daemon, key: &str, body: &Value) -> Response {
    let headers =
        [("authorization", "Bearer secret"), ("content-type", "application/json"), ("idempotency-key", key)];
    request("POST", &format!("{}/v1/exec", conductor.url()), &headers, body.to_string().as_bytes())
}

/// How often the command has run: each appends a line.
fn runs(dir: &TempDir) -> usize {
    fs::read_to_string(dir.path().join("ran")).unwrap_or_default().lines().count()
}

#[test]
fn the_same_key_runs_a_command_once_and_all_get_its_answer() {
    let dir = TempDir::new();
    let mut conductor = Daemon::start(&launch(&dir, "n"));
    let body =
        json!({ "command": "echo x >>ran; sleep 0.3; echo said; echo wrong >&2; exit 3", "cwd": dir.path() });
    let answers: Vec<Value> = thread::scope(|scope| {
        let asked: Vec<_> = (0..20).map(|_| scope.spawn(|| exec(&conductor, "k", &body).data(200))).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    assert_eq!(runs(&dir), 1);
    let first = &answers[0];
    let facts =
        (&first["ok"], &first["error"]["code"], &first["result"]["stdout"], &first["result"]["exitCode"]);
    assert_eq!(facts, (&json!(false), &json!("EXEC_EXIT_NON_ZERO"), &json!("said\n"), &json!(3)));
    assert!(answers.iter().all(|answer| answer == first), "{answers:#?}");

    let other = json!({ "command": "echo x >>ran", "cwd": dir.path() });
    exec(&conductor, "k", &other).failure(409, "conflict");
    exec(&conductor, "k\u{e4}", &body).failure(400, "invalid_request");
    conductor.kill();
    conductor = Daemon::start(&launch(&dir, "n"));
    assert_eq!(&exec(&conductor, "k", &body).data(200), first, "across a restart");
    assert_eq!(runs(&dir), 1);

    let folder = dir.path().join("state/conductor/exec-results");
    let kept: Vec<_> = fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.path()).collect();
    assert_eq!(kept.len(), 1);
    fs::remove_file(&kept[0]).unwrap();
    assert_eq!(exec(&conductor, "k", &body).data(200)["error"]["code"], "EXEC_FAILED");
    assert_eq!(runs(&dir), 1, "not even if somebody has removed what is kept");
}

#[cfg(target_os = "linux")] // what /proc tells
#[test]
fn a_command_that_a_crash_cut_off_says_so_and_does_not_run_again() {
    let dir = TempDir::new();
    let mut conductor = Daemon::start(&launch(&dir, "n"));
    let body =
        json!({ "command": "echo $$ >pid; echo x >>ran; sleep 60", "cwd": dir.path(), "timeoutMs": 600_000 });
    thread::scope(|scope| {
        let url = conductor.url().to_owned();
        scope.spawn(move || {
            let headers = [("authorization", "Bearer secret"), ("idempotency-key", "k")];
            e2e::http::try_request("POST", &format!("{url}/v1/exec"), &headers, body.to_string().as_bytes())
        });
        eventually("the command", SOON, || (runs(&dir) == 1).then_some(()));
        conductor.kill();
    });
    let body =
        json!({ "command": "echo $$ >pid; echo x >>ran; sleep 60", "cwd": dir.path(), "timeoutMs": 600_000 });
    let sleeper = fs::read_to_string(dir.path().join("pid")).unwrap();
    let lives = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", sleeper.trim())).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ") // whoever inherits it may take its time to reap it
    };
    assert!(lives());
    let again = Daemon::start(&launch(&dir, "n"));
    assert!(!lives(), "what the dead one left running is ended");
    for _ in 0..2 {
        let answer = exec(&again, "k", &body).data(200);
        assert_eq!((&answer["ok"], &answer["operation"]), (&json!(false), &json!("exec")));
        assert_eq!(
            (&answer["error"]["code"], &answer["error"]["retryable"]),
            (&json!("EXEC_FAILED"), &json!(false))
        );
        assert_eq!(answer["result"]["stdout"], "");
    }
    assert_eq!(runs(&dir), 1);
}

#[test]
fn what_is_kept_is_cut_and_says_so_and_what_did_not_run_is_not_kept() {
    let dir = TempDir::new();
    let conductor = Daemon::start(&launch(&dir, "n"));
    let body = json!({ "command": "echo x >>ran; head -c 100000 /dev/zero | tr '\\0' y", "cwd": dir.path() });
    let first = exec(&conductor, "k", &body).data(200);
    assert_eq!(first["result"]["stdout"].as_str().unwrap().len(), 100_000, "who asks first gets all");
    let second = exec(&conductor, "k", &body).data(200);
    assert_eq!(second["result"]["stdout"].as_str().unwrap().len(), 64 * 1024);
    assert_eq!((&second["result"]["stdoutTruncated"], &second["ok"]), (&json!(true), &json!(true)));
    for _ in 0..2 {
        let nothing = exec(&conductor, "l", &json!({ "command": "" })).data(200);
        assert_eq!(nothing["error"]["code"], "INVALID_INPUT");
    }
    let body = json!({ "command": "echo x >>ran", "cwd": dir.path() });
    assert_eq!(exec(&conductor, "l", &body).data(200)["ok"], true, "the key is free");
    assert_eq!(runs(&dir), 2);
}

#[test]
fn a_node_that_stands_by_keeps_no_keys() {
    let (shared, dir) = (TempDir::new(), TempDir::new());
    let _first = Daemon::start(&launch(&shared, "first"));
    let second = launch(&dir, "second")
        .args(["--state-dir".into(), shared.path().join("state").into_os_string()])
        .args(["--logs-dir".into(), shared.path().join("logs").into_os_string()]);
    let second = Daemon::start(&second);
    let body = json!({ "command": "echo x >>ran", "cwd": shared.path() });
    let refused = exec(&second, "k", &body).failure(409, "conflict");
    assert_eq!(refused["details"]["holder_id"], "first");
    assert_eq!(runs(&shared), 0);
}

#[test]
fn a_command_that_ends_on_a_full_disk_ran_and_does_not_run_again() {
    let dir = TempDir::new();
    let Some(disk) = Tmpfs::mount(&dir.path().join("disk"), "3m") else { return };
    let launch = launch(&dir, "n").args(["--state-dir".into(), disk.path().join("state").into_os_string()]);
    let conductor =
        Daemon::start(&launch.args(["--logs-dir".into(), disk.path().join("logs").into_os_string()]));
    let body = json!({ "command": "echo x >>ran; while [ -e wait ]; do sleep 0.05; done; echo said", "cwd": dir.path() });
    fs::write(dir.path().join("wait"), "").unwrap();
    thread::scope(|scope| {
        let first = scope.spawn(|| exec(&conductor, "k", &body));
        eventually("the command", SOON, || (runs(&dir) == 1).then_some(()));
        let second = scope.spawn(|| exec(&conductor, "k", &body));
        let pause = format!("{}/v1/system/pause", conductor.url());
        eventually("a disk that takes nothing more", SOON, || {
            disk.fill();
            let reason = json!({ "reason": "x".repeat(1000) });
            (e2e::http::post(&pause, &reason).status == 507).then_some(())
        });
        fs::remove_file(dir.path().join("wait")).unwrap();
        assert_eq!(first.join().unwrap().data(200)["result"]["stdout"], "said\n", "it ran");
        let second = second.join().unwrap();
        assert!(second.status == 409 || second.data(200)["operation"] == "exec", "{}", second.text());
    });
    disk.free();
    let again = eventually("its end to be written down", SOON, || {
        let answer = exec(&conductor, "k", &body);
        (answer.status == 200).then(|| answer.data(200))
    });
    assert!(again["error"]["retryable"] == false || again["ok"] == true, "{again}");
    assert_eq!(runs(&dir), 1);
}
