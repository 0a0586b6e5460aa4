//! `doctor` of both daemons in real situations: what is wrong is named, with what to do, and nothing is left behind.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use e2e::codex::VERSIONS;
use e2e::figures;
use e2e::http::get;
use e2e::process::{Daemon, Launch, binary};
use e2e::temp::TempDir;
use e2e::tmpfs::Tmpfs;
use e2e::wait::{SOON, eventually};
use serde_json::Value;

const TOKEN: &str = "a-token-that-is-long-enough";

/// What a doctor found, by the name of the check.
struct Report(BTreeMap<String, Value>);

impl Report {
    /// Runs it, and looks whether text, JSON and exit code say the same.
    #[track_caller]
    fn of(launch: Launch) -> Report {
        let out = TempDir::new(); // a daemon of the same name may write where the launch says
        let launch = Launch { dir: out.path().to_owned(), ..launch.args(["--json"]) };
        let (status, stdout, stderr) = launch.run(SOON * 3);
        let answer: Value = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}\n{stderr}"));
        let failed =
            answer["checks"].as_array().unwrap().iter().filter(|check| check["status"] == "fail").count();
        assert_eq!((status.code(), &answer["ok"]), (Some(i32::from(failed > 0)), &Value::from(failed == 0)));
        assert_eq!(stderr.contains(&format!("{failed} of ")), failed > 0, "{stderr}");
        let checks = answer["checks"].as_array().unwrap().iter();
        for check in checks.clone() {
            assert_eq!(check["hint"].is_null(), check["status"] == "ok", "{check}");
        }
        Report(checks.map(|check| (check["name"].as_str().unwrap().to_owned(), check.clone())).collect())
    }

    #[track_caller]
    fn is(&self, name: &str, status: &str, says: &str) {
        let check = self.0.get(name).unwrap_or_else(|| panic!("no {name}: {:?}", self.0.keys()));
        let message = check["message"].as_str().unwrap();
        assert!(check["status"] == status && message.contains(says), "{check}");
    }

    /// Those that are not well, but for what depends on the machine that the tests run on.
    fn not_well(&self) -> Vec<&str> {
        let well = |check: &Value| check["status"] == "ok";
        let wrong = self.0.iter().filter(|(_, check)| !well(check)).map(|(name, _)| name.as_str());
        wrong.filter(|name| !["disk", "descriptors"].contains(name)).collect()
    }
}

/// A node's folder with a `codex` in it, and an address where nobody listens.
struct Bench {
    base: String,
    dir: TempDir,
}

impl Bench {
    fn new(version: &str) -> Bench {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let bench = Bench { base: format!("http://{free}"), dir: TempDir::new() };
        bench.dir.folder("home");
        let fake = binary("fake-app-server");
        bench.script(&format!(
            "[ \"$1\" != --version ] || exec echo codex-cli {version}\nexec {} \"$@\"\n",
            fake.display()
        ));
        bench
    }

    fn codex(&self) -> PathBuf {
        self.dir.path().join("codex")
    }

    fn script(&self, text: &str) {
        fs::write(self.codex(), format!("#!/bin/sh\n{text}")).unwrap();
        fs::set_permissions(self.codex(), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn codexd(&self, command: &str) -> Launch {
        self.codexd_of(self.dir.path(), command)
    }

    /// The same on other directories.
    fn codexd_of(&self, root: &Path, command: &str) -> Launch {
        let launch = Launch::of("codexd", self.dir.path());
        let launch = launch.args([command, "--local-api-base", &self.base]);
        let launch = launch.args(["--repo-root".into(), root.as_os_str().to_owned()]);
        let launch = launch.args(["--server-command".into(), self.codex().into_os_string()]);
        launch.env("CODEX_HOME", self.dir.path().join("home"))
    }

    /// A conductor before it, at a port of its own.
    fn conductor(&self, command: &str, base: &str) -> Launch {
        let path = |name: &str| self.dir.path().join(name).into_os_string();
        let launch = Launch::of("conductor", self.dir.path());
        let launch = launch.args([command, "--local-api", base, "--codexd-local-api", &self.base]);
        launch
            .args(["--runs-dir".into(), path("runs")])
            .env("BAA_STATE_DIR", path("state"))
            .env("BAA_LOGS_DIR", path("logs"))
    }

    fn token(&self, text: &str, mode: u32) -> PathBuf {
        let file = self.dir.path().join("token");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[track_caller]
    fn start(&self) -> Daemon {
        let daemon = Daemon::start(&self.codexd("start"));
        let ready = || (get(&format!("{}/readyz", daemon.url())).status == 200).then_some(());
        eventually("a child that is up", SOON, ready);
        daemon
    }

    fn files(&self) -> Vec<PathBuf> {
        let own = |path: &PathBuf| !path.extension().is_some_and(|kind| kind == "stdout" || kind == "stderr");
        let mut all: Vec<PathBuf> = vec![self.dir.path().to_owned()];
        let mut at = 0;
        while let Some(path) = all.get(at).cloned() {
            all.extend(fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()));
            at += 1;
        }
        all.into_iter().filter(own).collect()
    }
}

#[test]
fn a_node_that_is_well_is_said_to_be_and_nothing_is_left_behind() {
    let bench = Bench::new(VERSIONS[2]);
    let file = bench.token(TOKEN, 0o600);
    let before = bench.files();
    let report = Report::of(bench.codexd("doctor"));
    assert_eq!(report.not_well(), ["codexd", "login"], "{:?}", report.0);
    report.is("codexd", "warn", "none runs");
    report.is("login", "warn", "auth.json");
    report.is("state", "ok", "can be made");
    report.is("codex", "ok", VERSIONS[2]);
    assert_eq!(bench.files(), before);

    let codexd = bench.start();
    let report = Report::of(bench.codexd("doctor"));
    assert_eq!(report.not_well(), [""; 0], "{:?}", report.0);
    report.is("port", "ok", "this codexd listens");
    report.is("locks", "ok", "held by the codexd that runs");
    report.is("login", "ok", "needs none");
    report.is("codex-config", "ok", "took it");

    let conductor = bench.conductor("start", "http://127.0.0.1:0").env("BAA_SHARED_TOKEN_FILE", &file);
    let conductor = Daemon::start(&conductor);
    let doctor = || bench.conductor("doctor", conductor.url()).env("BAA_SHARED_TOKEN_FILE", &file);
    let report = Report::of(doctor());
    assert_eq!(report.not_well(), [""; 0], "{:?}", report.0);
    report.is("lease", "ok", &format!("mini-main on mini, pid {}, term 1 leads", conductor.pid()));
    report.is("codexd", "ok", "runs and is ready");
    let (status, stdout, stderr) = Launch { dir: bench.dir.folder("text"), ..doctor() }.run(SOON);
    assert!(status.success() && stderr.is_empty(), "{stdout}{stderr}");
    assert!(stdout.lines().any(|line| line.starts_with("ok    token        there is one")), "{stdout}");
    assert!(!stdout.contains(TOKEN), "{stdout}");
    drop(codexd);
}

#[test]
fn a_codex_that_is_missing_or_was_never_tested_shows() {
    let bench = Bench::new("0.99.0");
    let codex = |status, says| {
        let report = Report::of(bench.codexd("doctor"));
        report.is("codex", status, says);
        report.0["codex"]["hint"].as_str().unwrap_or_default().to_owned()
    };
    assert!(codex("fail", "0.99.0 is too old").contains(&VERSIONS.join(", ")));
    bench.script("echo codex-cli 0.107.0");
    codex("warn", "0.107.0 has faults");
    bench.script("echo codex-cli 0.168.0");
    codex("warn", "0.168.0 was never tested");
    bench.script("echo hello");
    codex("warn", "says no version: hello");
    bench.script("echo it is broken >&2; exit 9");
    codex("fail", "exit status: 9 it is broken");
    bench.script("echo codex-cli 0.116.0");
    codex("ok", "0.116.0");
    let strict =
        bench.codexd("doctor").args(["--server-arg", "app-server", "--server-arg", "--strict-config"]);
    Report::of(strict).is("codex", "fail", "0.116.0 does not know --strict-config");
    fs::remove_file(bench.codex()).unwrap();
    assert!(codex("fail", "there is no program").contains("--server-command"));
}

/// The one answers something, the other takes connections and says nothing.
#[test]
fn a_stranger_at_the_port_is_told_from_a_daemon() {
    for answer in [Some("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"), None] {
        let mut bench = Bench::new(VERSIONS[2]);
        let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
        bench.base = format!("http://{}", stranger.local_addr().unwrap());
        thread::spawn(move || {
            let mut held = Vec::new();
            for stream in stranger.incoming().flatten() {
                held.push(stream);
                let (Some(answer), Some(stream)) = (answer, held.last_mut()) else { continue };
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
                held.pop();
            }
        });
        let begun = Instant::now();
        let report = Report::of(bench.codexd("doctor"));
        report.is("port", "fail", "somebody listens who is no codexd");
        report.is(
            "codexd",
            "fail",
            if answer.is_some() { "HTTP 200 to /v1/codexd/status" } else { "timeout" },
        );
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let report = Report::of(bench.conductor("doctor", &format!("http://{free}")));
        report.is("codexd", "fail", "no codexd answers");
    }
}

#[test]
fn another_codexd_is_told_from_this_one() {
    let bench = Bench::new(VERSIONS[2]);
    let daemon = bench.start();
    let elsewhere = Bench::new(VERSIONS[2]);
    for used in [false, true] {
        let report = Report::of(bench.codexd_of(elsewhere.dir.path(), "doctor"));
        report.is("port", "fail", "a codexd of other directories listens");
        report.is("locks", "ok", "free");
        if !used {
            elsewhere.start().terminate(SOON); // from now on these have a name of their own
        }
    }
    let report = Report::of(elsewhere.codexd_of(bench.dir.path(), "doctor"));
    report.is("locks", "fail", "another codexd works on it");
    report.is("codexd", "warn", "none runs");

    daemon.signal("STOP");
    let report = Report::of(bench.codexd("doctor"));
    report.is("codexd", "fail", "no codexd answers");
    report.is("locks", "fail", "does not answer");
    daemon.signal("CONT");
}

#[test]
fn a_codexd_that_is_down_or_not_ready_fails_conductor() {
    let bench = Bench::new(VERSIONS[2]);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let conductor = || bench.conductor("doctor", &format!("http://{free}"));
    let report = Report::of(conductor());
    report.is("codexd", "fail", "none runs");
    report.is("conductor", "warn", "none runs");
    bench.script("exit 3");
    let daemon = Daemon::start(&bench.codexd("start"));
    let not_ready = || (get(&format!("{}/readyz", daemon.url())).status == 503).then_some(());
    eventually("a child that does not come up", SOON, not_ready);
    Report::of(conductor()).is("codexd", "fail", "is not ready: not_ready");
    Report::of(bench.codexd("doctor")).is("codexd", "fail", "is not ready");
}

#[test]
fn a_login_that_is_missing_shows() {
    let bench = Bench::new(VERSIONS[2]);
    let file = bench.dir.path().join("home/auth.json");
    fs::write(&file, "{}").unwrap();
    for (mode, status) in [(0o644, "warn"), (0o600, "ok")] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        Report::of(bench.codexd("doctor")).is("login", status, "auth.json");
    }
    let login_required = ["--server-arg", "app-server", "--server-arg", "--login-required"];
    let daemon = Daemon::start(&bench.codexd("start").args(login_required));
    let ready = || (get(&format!("{}/readyz", daemon.url())).status == 200).then_some(());
    eventually("a child that is up", SOON, ready);
    Report::of(bench.codexd("doctor")).is("login", "fail", "not logged in");
}

#[test]
fn a_token_that_others_know_or_can_guess_fails() {
    let bench = Bench::new(VERSIONS[2]);
    let look = |text: &str, mode| {
        let launch =
            bench.conductor("doctor", &bench.base).env("BAA_SHARED_TOKEN_FILE", bench.token(text, mode));
        Report::of(launch)
    };
    look("replace-me", 0o600).is("token", "fail", "placeholder");
    look(TOKEN, 0o644).is("token", "fail", "mode 644 lets other users");
    look("short", 0o600).is("token", "warn", "fewer than 16");
    look(TOKEN, 0o600).is("token", "ok", "there is one");
    let report = Report::of(bench.conductor("doctor", &bench.base));
    report.is("token", "warn", "there is none");
    report.is("settings", "ok", "");
    Report::of(bench.conductor("doctor", &bench.base).args(["--lease-ttl-sec", "1"])).is(
        "settings",
        "warn",
        "lease TTL",
    );
}

#[test]
fn folders_that_others_may_enter_and_things_in_the_way_show() {
    let bench = Bench::new(VERSIONS[2]);
    let state = bench.dir.folder("state/codexd");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(bench.dir.path().join("logs"), "").unwrap();
    let report = Report::of(bench.codexd("doctor").args(["--server-cwd", "/nowhere"]));
    report.is("state", "warn", "mode 755 lets other users in");
    report.is("logs", "fail", "");
    report.is("server-cwd", "fail", "/nowhere");
}

/// Permissions mean nothing to root, so the doctor is somebody else.
#[test]
fn another_user_without_rights_is_told_so() {
    let id = |flag: &str| {
        let output = Command::new("id").args([flag, "nobody"]).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()).filter(|id| !id.is_empty())
    };
    let root = fs::metadata("/proc/self").is_ok_and(|data| data.uid() == 0);
    let has_setpriv = Command::new("setpriv").arg("--version").output().is_ok();
    let (true, true, Some(uid), Some(gid)) = (root, has_setpriv, id("-u"), id("-g")) else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "no root, or no setpriv");
        return figures::print("skipped the doctor of another user: it needs root and setpriv");
    };
    let bench = Bench::new(VERSIONS[2]);
    let _daemon = bench.start();
    let as_nobody = |name: &str, launch: Launch| {
        let program = bench.dir.path().join("as-nobody").join(name);
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::copy(binary(name), &program).unwrap(); // where this is built others may not be let in
        let ids = [format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()];
        let args =
            ids.map(Into::into).into_iter().chain([program.into_os_string()]).chain(launch.args).collect();
        Report::of(Launch { program: "setpriv".into(), args, ..launch })
    };
    let report = as_nobody("codexd", bench.codexd("doctor"));
    for name in ["state", "logs", "locks"] {
        report.is(name, "fail", "Permission denied");
    }
    report.is("codexd", "ok", "runs and is ready");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let report = as_nobody("conductor", bench.conductor("doctor", &format!("http://{free}")));
    report.is("state", "fail", "Permission denied");
    report.is("codexd", "ok", "runs and is ready");
}

#[test]
fn a_disk_without_room_or_read_only_fails() {
    let bench = Bench::new(VERSIONS[2]);
    let Some(disk) = Tmpfs::mount(&bench.dir.path().join("disk"), "100m") else { return };
    let dirs = |launch: Launch| {
        let path = |name: &str| disk.path().join(name).into_os_string();
        launch.args(["--state-dir".into(), path("state"), "--logs-dir".into(), path("logs")])
    };
    let codexd = || Report::of(dirs(bench.codexd("doctor")));
    codexd().is("disk", "warn", "100 MiB free, logs and state may grow by 1280 MiB");
    let small = [
        "--log-segment-bytes",
        "1048576",
        "--log-total-bytes",
        "4194304",
        "--transcripts-total-bytes",
        "1048576",
    ];
    Report::of(dirs(bench.codexd("doctor").args(small))).is("disk", "ok", "may grow by 5 MiB");
    disk.fill();
    codexd().is("disk", "fail", " 0 MiB free");
    Report::of(dirs(bench.conductor("doctor", &bench.base))).is("disk", "fail", " 0 MiB free");
    disk.free();
    disk.read_only();
    codexd().is("state", "fail", "Read-only file system");
}

#[test]
fn wrong_settings_are_told_as_everywhere() {
    let bench = Bench::new(VERSIONS[2]);
    let pipe = bench.dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (launch, said) in [
        (bench.codexd("doctor").args(["--log-total-bytes", "1"]), "--log-total-bytes"),
        (bench.conductor("doctor", "http://10.0.0.1:80"), "neither loopback"),
        (
            bench.conductor("doctor", &bench.base).env("BAA_SHARED_TOKEN_FILE", "/nowhere"),
            "BAA_SHARED_TOKEN_FILE",
        ),
        (bench.conductor("doctor", &bench.base).env("BAA_SHARED_TOKEN_FILE", pipe), "is no file"),
    ] {
        let (status, stdout, stderr) = launch.run(SOON);
        assert_eq!((status.code(), stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
    assert!(!Path::new(&bench.dir.path().join("state")).exists());
}
