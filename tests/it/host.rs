//! Host operations by the daemon itself: what a command sees and leaves behind, files under other users and under
//! `kill -9`, and an audit that two daemons share.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use e2e::figures;
use e2e::http::{request, try_request};
use e2e::node::conductor_launch;
use e2e::process::{Daemon, Launch, binary};
use e2e::temp::TempDir;
use e2e::wait::{SOON, eventually};
use serde_json::{Value, json};

const TOKEN: &str = "s3cret-of-the-host";
const NOBODY: &str = "http://127.0.0.1:9";

fn launch(dir: &TempDir) -> Launch {
    conductor_launch(Launch::of("conductor", dir.path()), NOBODY)
}

fn start(dir: &TempDir) -> Daemon {
    Daemon::start(&launch(dir).env("BAA_SHARED_TOKEN", TOKEN))
}

const RIGHT: [(&str, &str); 2] =
    [("content-type", "application/json"), ("authorization", "Bearer s3cret-of-the-host")];

/// What a host operation answers with.
#[track_caller]
fn union(daemon: &Daemon, path: &str, body: &Value) -> Value {
    request("POST", &format!("{}{path}", daemon.url()), &RIGHT, body.to_string().as_bytes()).data(200)
}

#[track_caller]
fn exec(daemon: &Daemon, command: &str) -> Value {
    union(daemon, "/v1/exec", &json!({ "command": command }))
}

fn code(union: &Value) -> &str {
    union["error"]["code"].as_str().unwrap_or("ok")
}

/// A command that lasts, told apart by its number from every other one and from those of another run of the tests.
fn long_sleep(number: u8) -> String {
    format!("sleep 1000.{number}{}", std::process::id())
}

/// Commands hide from the harness, since their environment is not the daemon's: they are known by their arguments.
fn runs(mark: &str) -> bool {
    let listed = Command::new("ps").args(["-axo", "stat=,args="]).output().unwrap();
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    text.lines().any(|line| line.contains(mark) && !line.trim_start().starts_with('Z'))
}

#[test]
fn a_command_that_is_killed_takes_its_group_along_at_once() {
    let dir = TempDir::new();
    let daemon = start(&dir);
    let times = (0..5).map(|_| {
        let sleep = long_sleep(61);
        let body = json!({ "command": format!("{sleep} & {sleep}"), "timeoutMs": 200 });
        let begun = Instant::now();
        let union = union(&daemon, "/v1/exec", &body);
        let took = begun.elapsed();
        assert_eq!((code(&union), &union["result"]["timedOut"]), ("EXEC_TIMEOUT", &json!(true)));
        assert!(!runs(&sleep));
        took
    });
    let best = times.min().unwrap(); // other tests run beside this one
    assert!(best < Duration::from_millis(500), "{best:?}");
    figures::print(&format!("exec with 200 ms, over with its whole group after {best:.1?}"));
    let begun = Instant::now();
    let endless = exec(&daemon, "yes");
    assert_eq!(code(&endless), "EXEC_OUTPUT_LIMIT");
    assert_eq!(endless["result"]["stdout"].as_str().unwrap().len(), 10 * 1024 * 1024);
    figures::print(&format!("exec of `yes`, ended at 10 MiB after {:.1?}", begun.elapsed()));
}

#[test]
fn a_command_sees_nothing_of_the_daemons_own() {
    let dir = TempDir::new();
    let file = dir.path().join("token");
    fs::write(&file, TOKEN).unwrap();
    let launch = launch(&dir)
        .env("BAA_SHARED_TOKEN_FILE", &file)
        .env("BAA_LOG", "debug")
        .env("COPY_OF_IT", TOKEN)
        .env("HARMLESS", "stays");
    let daemon = Daemon::start(&launch);
    let union = exec(&daemon, "env; ls -l /dev/fd/");
    let seen = union["result"]["stdout"].as_str().unwrap();
    assert!(seen.contains("HARMLESS=stays\n") && seen.contains("PATH="), "{seen}");
    assert!(!seen.contains("BAA_") && !seen.contains(TOKEN), "{seen}");
    assert!(!seen.contains("socket:"), "it has no connection of the daemon's: {seen}");
    assert_eq!(exec(&daemon, "cat; tty")["result"]["stdout"], "not a tty\n", "no input, no terminal");
}

#[test]
fn a_daemon_that_stops_takes_its_commands_along() {
    let dir = TempDir::new();
    let mut daemon = start(&dir);
    let url = format!("{}/v1/exec", daemon.url());
    let sleep = long_sleep(62);
    let body = json!({ "command": format!("{sleep} & {sleep}") }).to_string();
    let waiting = thread::spawn(move || request("POST", &url, &RIGHT, body.as_bytes()).data(200));
    eventually("a command that runs", SOON, || runs(&sleep).then_some(()));
    let begun = Instant::now();
    assert_eq!(daemon.terminate(SOON).code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(!runs(&sleep));
    let union = waiting.join().unwrap();
    assert_eq!((code(&union), &union["error"]["retryable"]), ("EXEC_FAILED", &json!(false)));
}

#[test]
fn a_crash_cannot_hide_what_began() {
    let dir = TempDir::new();
    let mut daemon = start(&dir);
    let url = format!("{}/v1/exec", daemon.url());
    let body = json!({ "command": "sleep 5.63" }).to_string();
    let waiting = thread::spawn(move || try_request("POST", &url, &RIGHT, body.as_bytes()).is_err());
    eventually("a command that runs", SOON, || runs("sleep 5.63").then_some(()));
    daemon.kill();
    assert!(waiting.join().unwrap());
    let lines = lines(&dir.path().join("logs/conductor/audit.jsonl"));
    assert_eq!(
        (lines.len(), &lines[0]["outcome"], &lines[0]["what"]),
        (1, &json!("started"), &json!("sleep 5.63"))
    );
    let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().mode() & 0o777;
    assert_eq!((mode("logs/conductor"), mode("logs/conductor/audit.jsonl")), (0o700, 0o600));
}

#[test]
fn a_killed_daemon_leaves_the_old_file_or_the_new_one() {
    let dir = TempDir::new();
    let path = dir.path().join("file");
    let contents = ["a", "b"].map(|letter| letter.repeat(4 * 1024 * 1024));
    fs::write(&path, &contents[0]).unwrap();
    let whole = || {
        let found = fs::read_to_string(&path).unwrap();
        assert!(contents.contains(&found), "{} bytes", found.len());
    };
    for round in 0..5 {
        let mut daemon = start(&dir);
        let (url, written) = (format!("{}/v1/files/write", daemon.url()), Arc::new(AtomicUsize::new(0)));
        let bodies = contents.clone().map(|content| json!({ "path": path, "content": content }).to_string());
        let count = written.clone();
        let writing = thread::spawn(move || {
            let mut bodies = bodies.iter().cycle();
            while try_request("POST", &url, &RIGHT, bodies.next().unwrap().as_bytes()).is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let begun = Instant::now();
        eventually("some writes", SOON, || {
            whole();
            let long = begun.elapsed() > Duration::from_millis(60 + 17 * round);
            (long && written.load(Ordering::SeqCst) > 1).then_some(())
        });
        daemon.kill();
        writing.join().unwrap();
        whole();
    }
}

/// One that leads and one that stands by append to one audit, and none of them loses a line or takes the other's.
#[test]
fn two_daemons_share_an_audit_through_its_rotation() {
    let dir = TempDir::new();
    let (logs, state) = (dir.folder("logs"), dir.folder("state"));
    let daemons: Vec<_> = ["one", "two"]
        .map(|name| dir.folder(name))
        .into_iter()
        .map(|folder| {
            let launch = Launch::of("conductor", &folder);
            let launch = conductor_launch(launch, NOBODY)
                .args(["--logs-dir".into(), logs.clone().into_os_string()])
                .args(["--state-dir".into(), state.clone().into_os_string()]);
            Daemon::start(&launch.env("BAA_SHARED_TOKEN", TOKEN))
        })
        .collect();
    const EACH: usize = 100;
    let padding = "x".repeat(127 * 1024);
    thread::scope(|scope| {
        for (n, daemon) in daemons.iter().enumerate() {
            let padding = &padding;
            scope.spawn(move || {
                for m in 0..EACH {
                    let union =
                        union(daemon, "/v1/files/read", &json!({ "path": format!("{n} {m} {padding}") }));
                    assert_eq!(code(&union), "INVALID_INPUT");
                }
            });
        }
    });
    let (new, old) = (logs.join("conductor/audit.jsonl"), logs.join("conductor/audit.jsonl.1"));
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for path in [&old, &new] {
        assert!(fs::metadata(path).unwrap().len() <= 16 * 1024 * 1024);
        let whats = lines(path).into_iter().map(|line| line["what"].as_str().unwrap()[..5].to_owned());
        whats.for_each(|what| assert!(seen.insert(what)));
    }
    assert_eq!(seen.len(), 2 * EACH);
    assert!(fs::metadata(&old).unwrap().len() > 15 * 1024 * 1024, "none before it was full");
}

/// Permissions mean nothing to root, so the daemon runs as somebody else.
#[test]
fn what_another_users_daemon_may_not_it_does_not() {
    let id = |flag: &str| {
        let output = Command::new("id").args([flag, "nobody"]).output();
        output
            .ok()
            .filter(|output| output.status.success())
            .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
    };
    let root = fs::metadata("/proc/self").is_ok_and(|data| data.uid() == 0);
    let has_setpriv = Command::new("setpriv").arg("--version").output().is_ok();
    let (true, true, Some(uid), Some(gid)) = (root, has_setpriv, id("-u"), id("-g")) else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "no root, or no setpriv");
        return figures::print("skipped the permissions of another user: they need root and setpriv");
    };
    let dir = TempDir::new();
    let (own, closed, program) = (dir.folder("own"), dir.folder("closed"), dir.path().join("conductor"));
    fs::copy(binary("conductor"), &program).unwrap(); // where this is built others may not be let in
    std::os::unix::fs::chown(&own, uid.parse().ok(), gid.parse().ok()).unwrap();
    fs::write(closed.join("file"), "x").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(dir.path().join("readable"), "mine").unwrap();
    let mut launch = Launch::of("conductor", &own);
    launch.program = "setpriv".into();
    let ids = [format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()];
    let launch = launch.args(ids).args([program]).env("BAA_SHARED_TOKEN", TOKEN);
    let daemon = Daemon::start(&conductor_launch(launch, NOBODY));
    let ask = |path: &str, body: Value| code(&union(&daemon, path, &body)).to_owned();

    assert_eq!(ask("/v1/exec", json!({ "command": "true", "cwd": closed })), "PERMISSION_DENIED");
    assert_eq!(ask("/v1/files/read", json!({ "path": closed.join("file") })), "PERMISSION_DENIED");
    for overwrite in [true, false] {
        let body = json!({ "path": closed.join("new"), "content": "", "overwrite": overwrite });
        assert_eq!(ask("/v1/files/write", body), "PERMISSION_DENIED");
    }
    let body = json!({ "path": dir.path().join("a/b"), "content": "", "createParents": true });
    assert_eq!(ask("/v1/files/write", body), "PERMISSION_DENIED");
    assert_eq!(ask("/v1/files/read", json!({ "path": "../readable" })), "ok", "from the daemon's folder");
    // Its folder would let it be replaced; that it may not be written counts.
    let protected = own.join("protected");
    fs::write(&protected, "mine").unwrap();
    assert_eq!(ask("/v1/files/write", json!({ "path": "protected", "content": "x" })), "PERMISSION_DENIED");
    assert_eq!(fs::read_to_string(&protected).unwrap(), "mine");
    fs::set_permissions(&protected, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(ask("/v1/files/write", json!({ "path": "protected", "content": "x" })), "ok");
    assert_eq!(fs::metadata(&protected).unwrap().mode() & 0o777, 0o666);
    audit_belongs_to(&own, uid.parse().unwrap());
}

fn audit_belongs_to(own: &Path, uid: u32) {
    let data = fs::metadata(own.join("logs/conductor/audit.jsonl")).unwrap();
    assert_eq!((data.uid(), data.mode() & 0o777), (uid, 0o600));
}

fn lines(path: &PathBuf) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
