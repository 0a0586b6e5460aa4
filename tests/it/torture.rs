//! Load, and `kill -9` of codexd and of its child at any moment: no session and no turn that was acknowledged is lost, none
//! is done twice, no reader misses or repeats an event, and no process is left over.
//!
//! The moments are drawn from a seed, which is printed: `BAA_TORTURE_SEED` draws the same again, `BAA_TORTURE_ROUNDS` asks
//! for more than the 50 kills of the ordinary tests. Which moment a kill has met is read from the log's own records.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use std::{fs, thread};

use e2e::codex::Codex;
use e2e::figures;
use e2e::http::get;
use e2e::node::Node;
use e2e::process::{Process, kill_pid};
use e2e::random::Random;
use e2e::wait::{SOON, eventually};
use serde_json::Value;

use callers::{Caller, Promised, is_end};
use followers::{follow_pages, follow_socket, follow_sse};
use ledger::{Ledger, RECOVERY, REQUEST, STREAM};

mod callers;
mod followers;
mod ledger;

/// Kills in the ordinary tests.
const ROUNDS: u64 = 50;
/// And at least so many at each of the moments that matter.
const AT_LEAST: u64 = 10;
/// Callers at once, each with a conversation of its own.
const CALLERS: usize = 4;
/// What a turn says: long enough to be met in the middle.
const TALK: &str = "[[say-slow 15 one two three four five six seven eight]]";

/// What all threads share.
struct Board {
    url: Mutex<String>,
    /// Callers ask no more.
    over: AtomicBool,
    /// Whoever follows is cut for the last time.
    closing: AtomicBool,
}

impl Board {
    fn url(&self, path: &str) -> String {
        format!("{}/v1/codexd/{path}", self.url.lock().unwrap())
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// It did not work: whether it is to be tried again, after a moment.
    fn again(&self) -> bool {
        thread::sleep(Duration::from_millis(3));
        !self.closing.load(Ordering::Relaxed)
    }
}

/// When a check fails, nobody waits for what does not come any more.
struct Closing<'a>(&'a Board);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
        self.0.closing.store(true, Ordering::Relaxed);
    }
}

/// The one who kills.
struct Killer<'a> {
    node: &'a mut Node,
    board: &'a Board,
    random: Random,
    heard: Receiver<String>,
    ledger: Ledger,
    /// Dead ones whose children may live yet.
    dead: Vec<Process>,
    kills: u64,
}

impl Killer<'_> {
    fn work(&mut self, rounds: u64) {
        let enough = |ledger: &Ledger| {
            [RECOVERY, REQUEST, STREAM]
                .iter()
                .all(|moment| ledger.met.get(moment).is_some_and(|n| *n >= AT_LEAST))
        };
        while self.kills < rounds || !enough(&self.ledger) {
            assert!(self.kills < 10 * rounds, "{:?} after {} kills", self.ledger.met, self.kills);
            // At the most one of the child in a life of codexd: more would be a crash loop, which is another story.
            if self.random.below(3) == 0 {
                self.moment();
                self.kill_child();
            }
            self.moment();
            self.kill_codexd();
        }
    }

    /// Waits for a moment that is worth it.
    fn moment(&mut self) {
        let met = |moment: &str| self.ledger.met.get(moment).copied().unwrap_or_default();
        let rarest = [REQUEST, STREAM, RECOVERY].into_iter().zip(0..).min_by_key(|(moment, _)| met(moment));
        let any = self.random.below(5);
        match rarest.map_or(any, |(_, rarest)| if any == 4 { rarest } else { any }) {
            0 => self.hear(r#""type":"turn.requested""#),
            1 => self.hear(r#""type":"app-server.turn.message.delta""#),
            // Whoever was killed last is on its way back.
            2 => {
                let most = [8_000, 80_000][self.random.below(2) as usize]; // the fake is quick
                return thread::sleep(Duration::from_micros(self.random.below(most)));
            }
            _ => {}
        }
        if self.random.below(2) == 0 {
            thread::sleep(Duration::from_micros(self.random.below(150_000)));
        }
    }

    /// Waits for an event that holds this, after all that were heard; for some time, for it may not come any more.
    fn hear(&mut self, wanted: &str) {
        self.catch_up();
        let until = Instant::now() + Duration::from_secs(1);
        while let Ok(line) = self.heard.recv_timeout(until.saturating_duration_since(Instant::now())) {
            self.ledger.take(&line);
            if line.contains(wanted) {
                return;
            }
        }
    }

    fn catch_up(&mut self) {
        while let Ok(line) = self.heard.try_recv() {
            self.ledger.take(&line);
        }
    }

    fn kill_child(&mut self) {
        self.catch_up();
        if let Some(pid) = self.ledger.child_pid {
            kill_pid(pid);
            self.kills += 1;
        }
    }

    /// Whether the log knows the group of this process.
    fn is_of_log(&self, pid: u32) -> bool {
        let Some(group) = group(pid) else { return false };
        let lines = self.node.lines();
        let spawned = lines.iter().filter(|line| line.contains(r#""type":"child.spawned""#));
        spawned.into_iter().any(|line| serde_json::from_str::<Value>(line).unwrap()["detail"]["pid"] == group)
    }

    fn kill_codexd(&mut self) {
        self.node.codexd.kill();
        self.kills += 1;
        while self.random.below(3) == 0 {
            let life = Duration::from_micros(self.random.below(60_000));
            self.dead.push(self.node.stillborn(life));
            self.kills += 1;
        }
        let old = self.node.replace();
        *self.board.url.lock().unwrap() = self.node.codexd.url().to_owned();
        self.dead.push(old.into());
        let left = || self.dead.iter().flat_map(Process::descendants).collect::<Vec<_>>();
        let of_log = left().into_iter().filter(|pid| self.is_of_log(*pid)).collect::<Vec<_>>();
        assert_eq!(of_log, [0; 0], "the next codexd ends what the last ones left");
        // What was killed before it could write down that it has a child: that ends by itself, unused.
        eventually("the end of a child that never heard a word", SOON, || left().is_empty().then_some(()));
        self.dead.clear();
    }
}

/// What was done how often, by the peer's own account.
pub(crate) fn done(node: &Node, codex: &Codex) -> BTreeMap<String, u64> {
    let mut done = BTreeMap::new();
    let mut count = |text: &str| *done.entry(text.to_owned()).or_default() += 1;
    if let Codex::Real(_) = codex {
        node.model().iter().filter(|asked| asked.attempt == 0).for_each(|asked| count(&asked.text));
        return done;
    }
    for entry in fs::read_dir(node.dir.path().join("home/fake-app-server")).unwrap().flatten() {
        let thread: Value = serde_json::from_slice(&fs::read(entry.path()).unwrap()).unwrap_or_default();
        let items = thread["turns"].as_array().into_iter().flatten();
        let items = items.flat_map(|turn| turn["items"].as_array().unwrap());
        let inputs = items.filter(|item| item["type"] == "userMessage");
        inputs.for_each(|item| count(item["content"][0]["text"].as_str().unwrap()));
    }
    done
}

/// Every promise was kept, and nothing was done twice: how many turns there were.
fn check(node: &Node, codex: &Codex, promised: &[Promised]) -> usize {
    let sessions = get(&node.url("/v1/codexd/sessions")).data(200)["sessions"].take();
    let sessions = sessions.as_array().unwrap();
    for (id, key) in promised.iter().flat_map(|promised| &promised.sessions) {
        let with_key = sessions.iter().filter(|session| session["metadata"]["key"] == key.as_str());
        let ids: Vec<_> = with_key.map(|session| &session["sessionId"]).collect();
        assert_eq!(ids, [id], "one key is one session");
    }
    for session in sessions {
        let id = session["sessionId"].as_str().unwrap();
        eventually("a session at rest", SOON, || node.read(id)["currentTurnId"].is_null().then_some(()));
    }
    let log: Vec<Value> = node.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (event, number) in log.iter().zip(1..) {
        assert_eq!(event["seq"], number);
    }
    let of = |turn: &str, kinds: &[&str]| {
        let of = |event: &&Value| {
            event["detail"]["turnId"] == turn && kinds.iter().any(|kind| event["type"] == *kind)
        };
        log.iter().filter(of).collect::<Vec<_>>()
    };
    let done = done(node, codex);
    for (text, count) in &done {
        assert_eq!(*count, 1, "{text}");
    }
    for (turn, session, text) in promised.iter().flat_map(|promised| &promised.turns) {
        let accepted = of(turn, &["turn.accepted"]);
        let sessions: Vec<_> = accepted.iter().map(|event| &event["detail"]["sessionId"]).collect();
        assert_eq!(sessions, [session], "{turn} is there once");
        let ends = of(turn, &["turn.interrupted", "turn.settled", "app-server.turn.completed"]);
        assert_eq!(ends.len(), 1, "{turn} ends once: {ends:?}");
        let detail = &ends[0]["detail"];
        let completed = detail["turn"]["status"] == "completed" || detail["status"] == "completed";
        assert!(!completed || done.contains_key(text), "{text} was never asked for");
        let seen = get(&node.url(&format!("/v1/codexd/turns/{turn}"))).data(200)["turn"].take();
        assert!(is_end(&seen["status"]), "{seen}");
        assert_eq!(completed, seen["status"] == "completed", "{seen}");
        let whole = seen["text"].as_str().unwrap_or_default() == "one two three four five six seven eight";
        // A turn whose end nobody saw is settled by its status alone.
        assert!(!completed || whole || ends[0]["type"] == "turn.settled", "{seen}");
    }
    promised.iter().map(|promised| promised.turns.len()).sum()
}

/// The group of a process, by proc_pid_stat(5).
fn group(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse().ok()
}

fn torture(codex: Codex, child: &[&str]) {
    let seed = Random::seed("BAA_TORTURE_SEED");
    let rounds =
        std::env::var("BAA_TORTURE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let (begun, name) = (Instant::now(), if codex == Codex::Fake { "the fake" } else { "the real CLI" });
    figures::print(&format!("torture with {name}: BAA_TORTURE_SEED={seed}"));
    let args: Vec<_> = child.iter().flat_map(|arg| ["--server-arg", arg]).collect();
    let mut node = Node::start(&codex, &args);
    let url = Mutex::new(node.codexd.url().to_owned());
    let board = &Board { url, over: AtomicBool::new(false), closing: AtomicBool::new(false) };
    let (told, heard) = channel();
    thread::scope(|scope| {
        let closing = Closing(board);
        let told = [Some(told), None];
        let streams: Vec<_> = told.map(|told| scope.spawn(move || follow_socket(board, told))).into();
        let (sse, pages) = (scope.spawn(|| follow_sse(board)), scope.spawn(|| follow_pages(board)));
        let callers = [0; CALLERS].iter().zip(0..).map(|(_, number)| {
            let random = Random::new(seed + 1 + number);
            let caller = Caller { number, board, random, asked: 0, promised: Promised::default() };
            scope.spawn(move || caller.work())
        });
        let callers: Vec<_> = callers.collect();
        let (random, ledger) = (Random::new(seed), Ledger::default());
        let mut killer = Killer { node: &mut node, board, random, heard, ledger, dead: Vec::new(), kills: 0 };
        killer.work(rounds);
        let (kills, met) = (killer.kills, killer.ledger.met);
        board.over.store(true, Ordering::Relaxed);
        let promised: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
        let turns = check(&node, &codex, &promised);
        let quiet = node.latest() as usize;
        drop(closing);
        node.codexd.terminate(SOON);
        assert_eq!(node.codexd.descendants(), [0; 0], "no process is left over");
        let lines = node.lines();
        for stream in streams.into_iter().chain([sse]) {
            let heard = stream.join().unwrap();
            assert!(heard.len() >= quiet && heard == lines[..heard.len()], "every event once, in order");
        }
        let paged = pages.join().unwrap();
        assert!(paged.len() >= quiet);
        for (event, line) in paged.iter().zip(&lines) {
            assert_eq!(*event, serde_json::from_str::<Value>(line).unwrap());
        }
        let took = begun.elapsed();
        let events = lines.len();
        figures::print(&format!(
            "torture with {name}: {kills} kills {met:?}, {turns} turns, {events} events, {took:.0?}"
        ));
    });
}

/// Its answer to a turn takes a moment, as that of the real one does.
#[test]
fn kills_at_any_moment_with_the_fake() {
    torture(Codex::Fake, &["--on", "turn/start=delay:10"]);
}

#[test]
fn kills_at_any_moment_with_the_real_cli() {
    if let Some(codex) = Codex::both().into_iter().find(|codex| *codex != Codex::Fake) {
        torture(codex, &[]);
    }
}
