//! Turn after turn at a whole node, half of them through conductor, while it, codexd and the child are killed now and then.
//!
//! First the node is filled to its bounds, as one is that has run for months: `MAX_SESSIONS` closed sessions, keys and
//! finished tasks, and small bounds for log and transcripts; so what grows after that grows for ever. In the first part of
//! the run each of the three is killed again and again; the rest is one long life of both daemons, in which only the child
//! dies, and at whose end they must hold what they held at its begin. What callers were told is held against what the node
//! and the child wrote down, session by session.
//!
//! `BAA_SOAK_TURNS` says how many turns (100 000), `BAA_SOAK_SEED` draws the same victims again.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use common::http::PROGRESS_WITHIN;
use serde_json::{Value, json};

use crate::bench::report::Report;
use crate::codex::Codex;
use crate::figures;
use crate::http::{get, post};
use crate::node::Node;
use crate::ports::free_port;
use crate::process::{Daemon, Launch, kill_pid};
use crate::random::Random;
use crate::temp::TempDir;
use crate::wait::{SOON, eventually};

use callers::{Caller, Door, Outcomes, PATIENCE};
use followers::{Followed, follow_socket, follow_sse};
use watch::{Held, Watch};

mod callers;
mod followers;
mod watch;

/// If not said otherwise.
const TURNS: u64 = 100_000;
/// Conversations at once: each turn of the fake takes 10 ms and more, in which the others go on.
const CALLERS: usize = 32;
/// What codexd keeps of sessions; it forgets the oldest closed one then.
const MAX_SESSIONS: usize = 20_000;
/// What conductor keeps of tasks that are over.
const MAX_FINISHED: u64 = 1000;
/// A key is kept for a day, and no more than 10 000 of them: so many are used up at the begin, and so many later; each task takes
/// two more.
const KEYS: [u64; 2] = [5000, 1500];
/// So small that both are full within the first 5000 turns.
const BOUNDS: [&str; 6] = [
    "--log-segment-bytes",
    "8388608",
    "--log-total-bytes",
    "33554432",
    "--transcripts-total-bytes",
    "16777216",
];
/// Files that are open by then: older ones of the log, and the transcript that was last written.
const FILES: f64 = 6.0;
/// Looks at what the node holds, and tasks that conductor is given, in the whole run.
const LOOKS: u64 = 500;
/// Rounds in each of which all three die; they are over at this part of the run.
const ROUNDS: u64 = 4;
const KILLING: f64 = 0.4;
/// Deaths of the child in the long life.
const LATE: u64 = 5;
/// What codexd takes for a crash loop, which is another story: five deaths in five minutes.
const LOOP: (usize, Duration) = (4, Duration::from_secs(300));

/// What all threads share.
struct Board {
    codexd: String,
    conductor: String,
    /// Where the fake keeps its threads.
    threads: PathBuf,
    /// Each so many-th turn has a key.
    keyed: u64,
    outcomes: Outcomes,
    /// Nobody asks any more.
    over: AtomicBool,
    /// Up to which event everything is to be read; not known before it is over.
    last_event: AtomicU64,
}

impl Board {
    fn of(site: &Site, keyed: u64) -> Board {
        Board {
            codexd: site.node.codexd.url().to_owned(),
            conductor: site.conductor.url().to_owned(),
            threads: site.node.dir.path().join("home/fake-app-server"),
            keyed,
            outcomes: Outcomes::default(),
            over: AtomicBool::new(false),
            last_event: AtomicU64::new(u64::MAX),
        }
    }
}

/// When a check fails, nobody waits for what does not come any more.
struct Closing<'a>(&'a Board);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
        let _ = self.0.last_event.compare_exchange(u64::MAX, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Conductor,
    Codexd,
    Child,
}

/// The daemons, and who dies when.
struct Site {
    node: Node,
    conductor: Daemon,
    launch: Launch,
    /// After how many turns, and who; the first one last.
    plan: Vec<(u64, Victim)>,
    /// The child's latest deaths in this life of codexd.
    deaths: VecDeque<Instant>,
    kills: [u64; 3],
    /// What codexd holds while nobody is connected.
    fresh: Held,
}

impl Site {
    fn start(turns: u64, random: &mut Random) -> Site {
        let dir = TempDir::new();
        let base = || format!("http://127.0.0.1:{}", free_port());
        let args = [&BOUNDS[..], &["--server-arg", "--most-threads", "--server-arg", "500"]].concat();
        let launch = Launch::of("codexd", dir.path());
        let node = Node::at(&base(), &Codex::Fake, dir, launch, &args);
        let launch = Launch::of("conductor", node.dir.path())
            .args(["start", "--local-api", &base(), "--codexd-local-api", node.codexd.url()])
            .args(&BOUNDS[..4])
            .args(["--max-active-runs", "8"]);
        node.ready();
        let fresh = Held::by(node.codexd.pid());
        let conductor = Daemon::start(&launch);
        let plan = plan(turns, random);
        Site { node, conductor, launch, plan, deaths: VecDeque::new(), kills: [0; 3], fresh }
    }

    fn child(&self) -> Option<u32> {
        self.node.codexd.descendants().first().copied()
    }

    fn kill(&mut self, victim: Victim) {
        match victim {
            Victim::Conductor => {
                self.conductor.kill();
                self.conductor = Daemon::start(&self.launch);
            }
            Victim::Codexd => {
                self.node.crash();
                self.deaths.clear();
            }
            Victim::Child => {
                self.deaths.retain(|death| death.elapsed() < LOOP.1);
                if self.deaths.len() == LOOP.0 {
                    return;
                }
                self.deaths.push_back(Instant::now());
                self.child().into_iter().for_each(kill_pid);
            }
        }
        self.kills[victim as usize] += 1;
    }
}

/// Each round in an order of its own; then the child alone.
fn plan(turns: u64, random: &mut Random) -> Vec<(u64, Victim)> {
    let mut plan = Vec::new();
    for round in 0..ROUNDS {
        let mut victims = vec![Victim::Conductor, Victim::Codexd, Victim::Child];
        for at in 1..=3 {
            let share = KILLING * (3 * round + at) as f64 / (3 * ROUNDS) as f64;
            let victim = victims.swap_remove(random.below(victims.len() as u64) as usize);
            plan.push(((turns as f64 * share) as u64, victim));
        }
    }
    let late = (turns as f64 * (1.0 - KILLING)) as u64 / (LATE + 1);
    let from = turns - late * (LATE + 1);
    plan.extend((1..=LATE).map(|at| (from + at * late, Victim::Child)));
    plan.reverse();
    plan
}

/// Runs it, and reports.
pub fn run(report: &mut Report) {
    let turns = std::env::var("BAA_SOAK_TURNS").ok().and_then(|text| text.parse().ok()).unwrap_or(TURNS);
    let seed = Random::seed("BAA_SOAK_SEED");
    figures::print(&format!("soak: {turns} turns, BAA_SOAK_SEED={seed}"));
    let mut site = Site::start(turns, &mut Random::new(seed));
    let began = Instant::now();
    fill(&Board::of(&site, u64::MAX), turns);
    figures::print(&format!("soak: the node is filled after {:.0?}", began.elapsed()));
    let board = &Board::of(&site, (turns / KEYS[1]).max(2));
    let mut watch = Watch::begin();
    thread::scope(|scope| {
        let closing = Closing(board);
        let from = site.node.latest();
        let followers =
            [scope.spawn(move || follow_socket(board, from)), scope.spawn(move || follow_sse(board, from))];
        let callers =
            (0..CALLERS).map(|number| scope.spawn(move || Caller::new(board, number % 2 == 1).work()));
        let callers: Vec<_> = callers.collect();
        let tasks = scope.spawn(|| submit(board, turns));
        site.go(board, turns, &mut watch, &callers);
        let took = watch.seconds();
        board.over.store(true, Ordering::Relaxed);
        callers.into_iter().for_each(joined);
        let tasks = joined(tasks);
        let followed = end(&site, board, followers);
        drop(closing);
        tell(report, board, &site, took, tasks, &followed);
    });
    watch.report(report);
    assert!(site.conductor.terminate(SOON).success(), "conductor ends in good order");
    site.at_rest(report);
    assert!(site.node.codexd.terminate(SOON).success(), "codexd ends in good order");
}

/// What a thread came to; its panic is this one's.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// To the bounds of sessions, keys and tasks. What the run will push out first is like what takes its place: sessions that had
/// a turn, tasks that were done.
fn fill(board: &Board, turns: u64) {
    let each = MAX_SESSIONS / CALLERS;
    let with_turn = (turns as usize / callers::TURNS / CALLERS).min(each);
    let keyed = MAX_SESSIONS.div_ceil(KEYS[0] as usize);
    thread::scope(|scope| {
        for number in 0..CALLERS {
            scope.spawn(move || Caller::new(board, number % 2 == 1).fill(each, with_turn, keyed));
        }
    });
    let at = |path: &str| format!("{}/v1/{path}", board.conductor);
    let submit = || post(&at("tasks"), &task()).data(201)["task"]["task_id"].take();
    (0..LOOKS).for_each(|_| drop(submit()));
    eventually("all tasks done", PATIENCE, || {
        let state = get(&at("system/state")).data(200);
        (state["queued_tasks"] == 0 && state["active_runs"] == 0).then_some(())
    });
    post(&at("system/pause"), &json!({})).data(200);
    for _ in LOOKS..MAX_FINISHED {
        let task = submit();
        post(&at(&format!("tasks/{}/cancel", task.as_str().unwrap_or_default())), &json!({})).data(200);
    }
    post(&at("system/resume"), &json!({})).data(200);
}

fn task() -> Value {
    json!({ "title": "one of many", "steps": [{ "kind": "codex", "input": "a task: [[say it is done]]" }] })
}

/// One task after another, each in its time, and each to its end: how many.
fn submit(board: &Board, turns: u64) -> u64 {
    let mut door = Door::new(board, true);
    (door.prefix, door.base) = ("/v1", &board.conductor);
    let mut tasks = 0;
    while !board.over.load(Ordering::Relaxed) {
        if board.outcomes.completed.load(Ordering::Relaxed) < tasks * turns / LOOKS {
            thread::sleep(Duration::from_millis(5));
            continue;
        }
        let made = door.insist("POST", "tasks", &task(), Some(&format!("soak-task-{tasks}"))).data(201);
        let path = format!("tasks/{}", made["task"]["task_id"].as_str().unwrap_or_default());
        let begun = Instant::now();
        loop {
            let task = door.insist("GET", &path, &Value::Null, None).data(200)["task"].take();
            match task["status"].as_str() {
                Some("completed") => break,
                Some("queued" | "running") if begun.elapsed() < PATIENCE => {
                    thread::sleep(Duration::from_millis(10))
                }
                _ => panic!("{task:#}"),
            }
        }
        tasks += 1;
    }
    tasks
}

impl Site {
    /// Looks and kills until all turns are done.
    fn go(&mut self, board: &Board, turns: u64, watch: &mut Watch, callers: &[ScopedJoinHandle<'_, ()>]) {
        let (mut looked, mut last) = (0, (0, Instant::now()));
        loop {
            let done = board.outcomes.completed.load(Ordering::Relaxed);
            if done >= looked * turns / LOOKS {
                let (codexd, conductor) = (self.node.codexd.pid(), self.conductor.pid());
                watch.look(done, codexd, conductor, self.child(), self.node.dir.path());
                looked = done * LOOKS / turns + 1;
            }
            if done >= turns || callers.iter().any(ScopedJoinHandle::is_finished) {
                return;
            }
            if let Some((_, victim)) = self.plan.pop_if(|(at, _)| *at <= done) {
                self.kill(victim);
                if victim != Victim::Child {
                    watch.unsettle();
                }
            }
            if done > last.0 {
                last = (done, Instant::now());
            }
            assert!(last.1.elapsed() < PATIENCE, "no turn was done for {PATIENCE:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// That nothing is left of all who were connected, nor of children that died.
    fn at_rest(&self, report: &mut Report) {
        let begun = Instant::now();
        let more = loop {
            let held = Held::by(self.node.codexd.pid());
            let more = (held.descriptors - self.fresh.descriptors, held.threads - self.fresh.threads);
            if (more.0 <= FILES && more.1 <= 0.0) || begun.elapsed() > PROGRESS_WITHIN + SOON {
                break more;
            }
            thread::sleep(Duration::from_millis(100)); // a stream whose client takes nothing more ends with that bound
        };
        let what = |what: &str| format!("soak: {what} of codexd more than at its start, when all have gone");
        report.at_most(&what("descriptors"), "", more.0, FILES);
        report.at_most(&what("threads"), "", more.1, 0.0);
    }
}

/// Lets those who follow read to the last event.
fn end(site: &Site, board: &Board, followers: [ScopedJoinHandle<'_, Followed>; 2]) -> [Followed; 2] {
    let idle = || site.node.status()["snapshot"]["daemon"]["child"]["status"] == "running";
    eventually("a child that runs", PATIENCE, || idle().then_some(()));
    let held = site.node.status()["snapshot"]["sessionRegistry"]["count"].take();
    assert_eq!(held, MAX_SESSIONS, "sessions at their bound");
    let latest = site.node.latest();
    board.last_event.store(latest, Ordering::Relaxed);
    site.node.session(json!({})); // one event more, for whoever has read all and waits
    let followed = followers.map(joined);
    for one in &followed {
        assert!(one.last >= latest, "event {} of {latest}", one.last);
    }
    followed
}

fn tell(report: &mut Report, board: &Board, site: &Site, took: f64, tasks: u64, followed: &[Followed; 2]) {
    let outcomes = &board.outcomes;
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    let mut figure = |case: &str, unit, value| report.figure("soak", case, "in all", unit, value);
    figure("turns completed", "", of(&outcomes.completed));
    figure("turns in a second", "1/s", of(&outcomes.completed) / took);
    figure("turns interrupted, with the reason", "", of(&outcomes.interrupted));
    figure("requests refused while a part was away", "", of(&outcomes.refused));
    figure("requests that a kill left unanswered", "", of(&outcomes.unanswered));
    figure("of those, answered when asked again by key", "", of(&outcomes.again));
    figure("sessions read back and closed", "", of(&outcomes.sessions));
    figure("tasks completed", "", tasks as f64);
    for (victim, kills) in ["conductor", "codexd", "the child"].iter().zip(site.kills) {
        figure(&format!("kills of {victim}"), "", kills as f64);
    }
    for (how, one) in ["by WebSocket", "by SSE, through conductor"].iter().zip(followed) {
        figure(&format!("events followed {how}"), "", one.events as f64);
        figure(&format!("events told to be gone {how}"), "", one.missed as f64);
    }
}
