//! A disk without room, and one that cannot be written: nothing is acknowledged that is not there afterwards, what is
//! there is shown, and once there is room everything goes on as if nothing had been.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use e2e::codex::Codex;
use e2e::http::{Response, get, metric, post};
use e2e::node::Node;
use e2e::process::Launch;
use e2e::reader::{Reader, seq};
use e2e::temp::TempDir;
use e2e::tmpfs::Tmpfs;
use e2e::wait::{SOON, eventually};
use serde_json::{Value, json};

/// A codexd whose state and logs, and nothing else, are on a small disk.
struct Bench {
    node: Node,
    disk: Tmpfs, // unmounted when nobody writes there any more
}

impl Bench {
    /// `None` where nothing may be mounted.
    fn new(args: &[&str]) -> Option<Bench> {
        let dir = TempDir::new();
        let disk = Tmpfs::mount(&dir.path().join("disk"), "6m")?;
        for name in ["state", "logs"] {
            fs::create_dir(disk.path().join(name)).unwrap();
            std::os::unix::fs::symlink(disk.path().join(name), dir.path().join(name)).unwrap();
        }
        let launch = Launch::of("codexd", dir.path());
        let node = Node::with(&Codex::Fake, dir, launch, args);
        Some(Bench { node, disk })
    }

    fn readyz(&self) -> (u16, String) {
        let answer = get(&self.node.url("/readyz"));
        (answer.status, answer.text())
    }

    fn create(&self) -> Response {
        post(&self.node.url("/v1/codexd/sessions"), &json!({"cwd": self.node.dir.path()}))
    }

    /// Fills the disk, and makes sessions until nothing can be made durable any more: those that were acknowledged, and
    /// when the first was refused. What little room is left in the log's last page takes a few, and the daemon's own
    /// first words.
    fn exhaust(&self) -> (Vec<String>, Instant) {
        let (mut made, mut refused) = (Vec::new(), None);
        for _ in 0..1000 {
            self.disk.fill();
            let answer = self.create();
            if answer.status == 201 {
                made.push(answer.json()["data"]["session"]["sessionId"].as_str().unwrap().to_owned());
                continue;
            }
            answer.failure(507, "storage_failed");
            let refused = *refused.get_or_insert_with(Instant::now);
            if self.stays_refusing() {
                return (made, refused);
            }
        }
        panic!("the disk takes everything");
    }

    /// Whether it has tried to go on, in vain.
    fn stays_refusing(&self) -> bool {
        let until = Instant::now() + Duration::from_millis(1200);
        while self.readyz().1 == "not_ready: storage\n" {
            if Instant::now() > until {
                return true;
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// What must hold while nothing can be written: `sessions` are all there are.
    fn refuses(&self, sessions: &[String]) {
        let begun = Instant::now();
        // For longer than one try to go on takes.
        while begun.elapsed() < Duration::from_millis(1500) {
            self.create().failure(507, "storage_failed");
            let turn = json!({"sessionId": sessions[0], "input": "in vain"});
            post(&self.node.url("/v1/codexd/turn"), &turn).failure(507, "storage_failed");
            assert_eq!(listed(&self.node), sessions, "reads are answered, from what is durable");
            assert_eq!(self.node.read(&sessions[0])["sessionId"], *sessions[0]);
            self.node.status();
            assert_eq!(get(&self.node.url("/healthz")).text(), "ok\n");
            assert_eq!(self.readyz(), (503, "not_ready: storage\n".to_owned()));
        }
        assert_eq!(self.node.codexd.descendants(), Vec::<u32>::new(), "no child works for nobody");
        let child = self.node.status()["snapshot"]["daemon"]["child"].take();
        assert_eq!((&child["status"], &child["pid"]), (&json!("stopped"), &json!(null)), "{child}");
        assert_eq!(from_disk(&self.node), sessions, "`codexd status` reads the same");
        let metric = |sample: &str| metric(self.node.codexd.url(), sample).unwrap();
        assert!(metric("baa_codexd_storage_failures_total") >= 1.0);
        assert_eq!(metric("baa_codexd_sessions{status=\"active\"}"), sessions.len() as f64);
        assert_eq!(metric("baa_codexd_child_up"), 0.0);
    }

    /// What must hold once there is room.
    fn serves(&self, sessions: &[String]) {
        let ready = || Some(self.readyz()).filter(|(status, _)| *status == 200);
        eventually("a node that is ready again", SOON, ready);
        assert_eq!(listed(&self.node), sessions);
        for session in [sessions.first(), sessions.last()].into_iter().flatten() {
            self.node.turn(session, "[[say after all]]");
        }
        let made = self.create().data(201)["session"]["sessionId"].as_str().unwrap().to_owned();
        assert_eq!(from_disk(&self.node), [sessions, &[made]].concat());
        gapless(&self.node);
    }
}

fn listed(node: &Node) -> Vec<String> {
    ids(&get(&node.url("/v1/codexd/sessions")).data(200)["sessions"])
}

/// What `codexd status` says, daemon or not.
fn from_disk(node: &Node) -> Vec<String> {
    let launch = Launch::of("codexd", node.dir.path());
    let mut launch = launch.args(["status", "--json", "--repo-root"]).args([node.dir.path()]);
    launch.dir = node.dir.folder("status"); // its output is not that of the daemon
    let (status, out, err) = launch.run(SOON);
    assert_eq!(status.code(), Some(0), "{err}");
    let said: Value = serde_json::from_str(&out).unwrap();
    fs::remove_dir_all(node.dir.path().join("status")).unwrap();
    ids(&said["sessionRegistry"]["sessions"])
}

fn ids(sessions: &Value) -> Vec<String> {
    let ids = sessions.as_array().unwrap().iter();
    ids.map(|session| session["sessionId"].as_str().unwrap().to_owned()).collect()
}

fn gapless(node: &Node) {
    let lines = node.lines();
    assert_eq!(seq(&lines[0]), 1);
    assert!(lines.windows(2).all(|pair| seq(&pair[0]) + 1 == seq(&pair[1])));
}

#[test]
fn a_disk_that_fills_up_under_way() {
    let Some(bench) = Bench::new(&[]) else { return };
    let node = &bench.node;
    let mut reader = Reader::open(node, Some(0));
    let mut sessions = vec![node.session(json!({}))];
    for round in 0..3 {
        let running = node.say(&sessions[0], "[[hang]]");
        thread::scope(|scope| {
            let url = node.url(&format!("/v1/codexd/turns/{running}?waitMs=60000"));
            let waiting = scope.spawn(move || (get(&url), Instant::now()));
            let (made, refused) = bench.exhaust();
            sessions.extend(made);
            let (answer, told) = waiting.join().unwrap();
            // Who asks only when nothing can be written any more gets what is durable.
            assert!([200, 507].contains(&answer.status), "{}", answer.text());
            assert!(told < refused + Duration::from_secs(5), "who waits is told at once");
        });
        bench.refuses(&sessions);
        bench.disk.free();
        eventually("a settled turn", SOON, || {
            (node.read(&sessions[0])["lastTurnStatus"] == "interrupted").then_some(())
        });
        assert_eq!(node.read(&sessions[0])["lastTurnId"], running, "round {round}");
        bench.serves(&sessions);
        sessions = listed(node);
    }
    let latest = node.latest();
    reader.read_to(latest); // and it held on the whole time
    assert_eq!((reader.count, reader.gaps), (latest, vec![]));
    let settled = |line: &String| line.contains(r#""type":"turn.interrupted""#);
    assert_eq!(node.lines().iter().filter(|line| settled(line)).count(), 3);
}

/// Callers and a child that talks, all at once, while the room comes and goes.
#[test]
fn a_disk_that_fills_up_under_load() {
    let Some(bench) = Bench::new(&["--log-segment-bytes", "1048576", "--log-total-bytes", "2097152"]) else {
        return;
    };
    let (bench, over) = (&bench, &AtomicBool::new(false));
    let talker = bench.node.session(json!({}));
    let made: Vec<String> = thread::scope(|scope| {
        let callers: Vec<_> = (0..4).map(|_| scope.spawn(move || create_until(bench, over))).collect();
        for _ in 0..4 {
            // Filled by the child's own words, then by all; what does not fit is refused, and what does may go on.
            let body = json!({"sessionId": talker, "input": "[[items 2000 1000]]"});
            let taken = post(&bench.node.url("/v1/codexd/turn"), &body).status;
            assert!([202, 409, 503, 507].contains(&taken), "{taken}");
            bench.disk.fill();
            eventually("a full disk", SOON, || (bench.readyz().1 == "not_ready: storage\n").then_some(()));
            bench.disk.free();
            eventually("a node that is ready again", SOON, || (bench.readyz().0 == 200).then_some(()));
        }
        over.store(true, Ordering::Relaxed);
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    });
    assert!(made.len() > 4, "{made:?}");
    let there = listed(&bench.node);
    assert_eq!(there.len(), made.len() + 1, "what was refused is not there");
    assert!(made.iter().all(|id| there.contains(id)), "what was acknowledged is");
    let lines = bench.node.lines();
    assert!(lines.windows(2).all(|pair| seq(&pair[0]) + 1 == seq(&pair[1])));
}

fn create_until(bench: &Bench, over: &AtomicBool) -> Vec<String> {
    let mut made = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let answer = bench.create();
        match answer.status {
            201 => made.push(answer.json()["data"]["session"]["sessionId"].as_str().unwrap().to_owned()),
            status => assert!([503, 507].contains(&status), "{}", answer.text()),
        }
        thread::sleep(Duration::from_millis(5));
    }
    made
}

#[test]
fn a_start_on_a_full_disk() {
    let Some(mut bench) = Bench::new(&[]) else { return };
    let mut sessions = vec![bench.node.session(json!({})), bench.node.session(json!({}))];
    let running = bench.node.say(&sessions[0], "[[hang]]");
    bench.node.codexd.kill();
    bench.disk.fill();
    bench.node.crash();
    sessions.extend(bench.exhaust().0);
    bench.refuses(&sessions);
    assert_eq!(bench.node.read(&sessions[0])["lastTurnId"], running);
    bench.disk.free();
    bench.serves(&sessions);
}

/// Under a daemon that has its log open to write, the system does not let a disk become read-only: at its start it can
/// be, after a fault of the disk or a restart of the machine.
#[test]
fn a_start_on_a_read_only_disk() {
    let Some(mut bench) = Bench::new(&[]) else { return };
    let sessions = vec![bench.node.session(json!({})), bench.node.session(json!({}))];
    let running = bench.node.say(&sessions[0], "[[hang]]");
    bench.node.codexd.kill_all();
    let torn = bench.node.segments().pop().unwrap();
    fs::OpenOptions::new().append(true).open(torn).unwrap().write_all(b"{\"seq\":99,\"cre").unwrap();
    bench.disk.read_only();
    bench.node.crash();
    assert!(bench.stays_refusing());
    bench.refuses(&sessions);
    assert_eq!(bench.node.read(&sessions[0])["currentTurnId"], running, "what is durable, and no more");
    let mut reader = Reader::open(&bench.node, Some(0));
    bench.disk.writable();
    bench.serves(&sessions);
    assert_eq!(bench.node.read(&sessions[0])["lastTurnStatus"], "completed");
    reader.read_to(bench.node.latest());
    assert_eq!(reader.gaps, []);
    bench.node.crash();
    assert_eq!(listed(&bench.node)[..2], sessions[..]);
}

/// Without a log there is nothing to show: it says so and ends.
#[test]
fn a_first_start_on_a_read_only_disk() {
    let dir = TempDir::new();
    let Some(disk) = Tmpfs::mount(&dir.path().join("disk"), "1m") else { return };
    disk.read_only();
    let launch = Launch::of("codexd", dir.path()).args(["start", "--local-api-base", "http://127.0.0.1:0"]);
    let (status, _, err) = launch.args(["--repo-root".into(), disk.path().as_os_str().to_owned()]).run(SOON);
    assert_eq!(status.code(), Some(1));
    assert!(err.contains("cannot be made: Read-only file system"), "{err}");
}
