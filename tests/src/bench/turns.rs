//! A turn from its request to its end: over an app-server's pipes, over its own WebSocket, through codexd, and through
//! codexd and conductor. What the daemons add is what counts; a turn itself takes as long as its model does.
//!
//! Each contestant has an app-server, a home and a model of its own, and all take their turns in turn.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bench::report::Report;
use crate::bench::samples::Samples;
use crate::codex::{Codex, PINNED, write_home};
use crate::http::{Events, KeptAlive, metric};
use crate::model::Model;
use crate::node::{Node, conductor};
use crate::ports::free_port;
use crate::process::{Daemon, Launch, Process};
use crate::reader::TURN_END;
use crate::temp::TempDir;
use crate::wait::{SOON, eventually};
use crate::websocket::{Got, Socket};

const BENCH: &str = "turns";
/// Turns of each contestant with the real CLI.
const REAL: usize = 40;
/// Turns of each with the fake, which takes the same time for each of them.
const FAKE: usize = 300;
/// Turns that come before those and do not count: connections are made, caches filled.
const WARM_UP: usize = 3;
/// About what a commit of one event is.
const LINE: [u8; 300] = [b'x'; 300];

/// How long one turn took, from the request.
struct Turn {
    /// Until the client had the end of it.
    answered: Duration,
    /// Until a reader of server-sent events had it.
    told: Option<Duration>,
}

/// One way to have a turn.
trait Way {
    fn turn(&mut self) -> Turn;
    /// Commits of codexd's log so far, and how long their syncs took.
    fn commits(&self) -> Option<(f64, f64)> {
        None
    }
}

/// Measures, and adds what it found.
pub fn run(report: &mut Report) {
    if let Some(codex) = Codex::of_version(PINNED) {
        let mut ways: Vec<(&str, Box<dyn Way>)> = vec![
            ("its pipes", Box::new(Pipes::start(&codex))),
            ("its own WebSocket", Box::new(Listening::start(&codex))),
            ("codexd", Box::new(Daemons::start(&codex, false))),
            ("codexd and conductor", Box::new(Daemons::start(&codex, true))),
        ];
        let (answered, told) = compare(report, "CLI", &mut ways, REAL);
        report.at_most(
            "a turn of the CLI through both daemons, added p50: to the answer",
            "ms",
            answered,
            1.0,
        );
        report.at_most("the same: to the last server-sent event", "ms", told, 1.0);
    }
    let mut ways: Vec<(&str, Box<dyn Way>)> = vec![
        ("its pipes", Box::new(Pipes::start(&Codex::Fake))),
        ("codexd", Box::new(Daemons::start(&Codex::Fake, false))),
        ("codexd and conductor", Box::new(Daemons::start(&Codex::Fake, true))),
    ];
    compare(report, "fake", &mut ways, FAKE);
}

/// A file where the logs are: what a commit of one event costs the disk alone.
struct Disk {
    file: File,
    _dir: TempDir,
}

impl Disk {
    fn new() -> Disk {
        let dir = TempDir::new();
        let file = File::create(dir.path().join("log"));
        Disk { file: file.unwrap_or_else(|error| panic!("no file to sync: {error}")), _dir: dir }
    }

    fn commit(&mut self) -> Duration {
        let begun = Instant::now();
        let synced = self.file.write_all(&LINE).and_then(|()| self.file.sync_data());
        synced.unwrap_or_else(|error| panic!("a sync: {error}"));
        begun.elapsed()
    }
}

/// So many turns each, in rounds; what the last one adds to the first, in ms: to the answer, and to the last event.
fn compare(report: &mut Report, codex: &str, ways: &mut [(&str, Box<dyn Way>)], rounds: usize) -> (f64, f64) {
    for (_, way) in ways.iter_mut() {
        for _ in 0..WARM_UP {
            way.turn();
        }
    }
    let before: Vec<_> = ways.iter().map(|(_, way)| way.commits()).collect();
    let mut turns: Vec<Vec<Turn>> = ways.iter().map(|_| Vec::new()).collect();
    let (mut disk, mut commits) = (Disk::new(), Samples::default());
    for _ in 0..rounds {
        commits.push(disk.commit());
        for ((_, way), turns) in ways.iter_mut().zip(&mut turns) {
            turns.push(way.turn());
        }
    }
    report.times(BENCH, &format!("{codex}: an append of 300 bytes and its sync"), &commits);
    let alone: Vec<_> = turns[0].iter().map(|turn| turn.answered).collect();
    let mut added = (0.0, 0.0);
    for (((name, way), before), turns) in ways.iter().zip(before).zip(&turns) {
        let answered: Vec<_> = turns.iter().map(|turn| turn.answered).collect();
        let name = &format!("{codex}: {name}");
        added.0 = show(report, name, &answered, &alone);
        if let (Some(before), Some(after)) = (before, way.commits()) {
            let (commits, seconds) = (after.0 - before.0, after.1 - before.1);
            report.figure(BENCH, name, "commits of a turn", "", commits / rounds as f64);
            report.figure(BENCH, name, "mean sync", "µs", seconds / commits * 1e6);
        }
        let told: Vec<_> = turns.iter().filter_map(|turn| turn.told).collect();
        if !told.is_empty() {
            added.1 = show(report, &format!("{name}, last server-sent event"), &told, &alone);
        }
    }
    added
}

/// Adds one contestant's times, and what they add to those of the app-server alone: by the medians, which is given back in
/// ms, and by the median of what each round added.
fn show(report: &mut Report, case: &str, times: &[Duration], alone: &[Duration]) -> f64 {
    let (samples, base): (Samples, Samples) =
        (times.iter().copied().collect(), alone.iter().copied().collect());
    report.times(BENCH, case, &samples);
    let added = micros(samples.quantile(0.5)) - micros(base.quantile(0.5));
    let mut rounds: Vec<_> =
        times.iter().zip(alone).map(|(time, alone)| micros(*time) - micros(*alone)).collect();
    rounds.sort_by(f64::total_cmp);
    report.figure(BENCH, case, "added p50", "µs", added);
    report.figure(BENCH, case, "median of what each round added", "µs", rounds[rounds.len() / 2]);
    added / 1e3
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// An app-server that nobody has but the bench, with what it needs around it.
struct Alone {
    launch: Launch,
    _model: Option<Model>,
    dir: TempDir,
}

impl Alone {
    fn new(codex: &Codex) -> Alone {
        let dir = TempDir::new();
        let home = dir.folder("home");
        let model = (*codex != Codex::Fake).then(|| Model::start(0, None));
        let model = model.map(|model| model.unwrap_or_else(|error| panic!("no model: {error}")));
        if let Some(model) = &model {
            write_home(&home, codex, &model.base_url(), 2);
        }
        let (program, args) = codex.command();
        let launch = Launch { program, args: Vec::new(), env: Vec::new(), dir: dir.path().to_owned() };
        let launch = launch.args(args).env("CODEX_HOME", home).env("HOME", dir.path()).env("NO_COLOR", "1");
        Alone { launch, _model: model, dir }
    }
}

/// A client of an app-server that only looks for what it waits for.
struct Client<L> {
    link: L,
    thread: String,
}

trait Link {
    fn send(&mut self, message: &str);
    fn receive(&mut self) -> String;
}

impl<L: Link> Client<L> {
    /// The handshake, and a thread in that folder.
    fn open(mut link: L, alone: &Alone) -> Client<L> {
        let client = json!({"name": "bench", "title": "bench", "version": "0.1.0"});
        let params = json!({"clientInfo": client, "capabilities": {"experimentalApi": true}});
        link.send(&json!({"id": 1, "method": "initialize", "params": params}).to_string());
        answer(&mut link, 1);
        link.send(&json!({"method": "initialized"}).to_string());
        let params = json!({"cwd": alone.dir.path(), "sandbox": "danger-full-access"});
        link.send(&json!({"id": 2, "method": "thread/start", "params": params}).to_string());
        let started = answer(&mut link, 2);
        let thread = started["result"]["thread"]["id"].as_str();
        let thread = thread.unwrap_or_else(|| panic!("no thread: {started}")).to_owned();
        Client { link, thread }
    }

    fn turn(&mut self) -> Turn {
        let params = json!({"threadId": self.thread, "input": [{"type": "text", "text": INPUT}]});
        let request = json!({"id": 3, "method": "turn/start", "params": params}).to_string();
        let begun = Instant::now();
        self.link.send(&request);
        let end = loop {
            let message = self.link.receive();
            if message.contains(r#""method":"turn/completed""#) {
                break message;
            }
        };
        let answered = begun.elapsed();
        assert!(end.contains(r#""status":"completed""#), "{end}");
        Turn { answered, told: None }
    }
}

const INPUT: &str = "[[say hello]]";

fn answer(link: &mut impl Link, id: u64) -> Value {
    loop {
        let message: Value = serde_json::from_str(&link.receive()).unwrap_or_default();
        if message["id"] == id {
            return message;
        }
    }
}

/// Over its pipes.
struct Pipes {
    client: Client<(ChildStdin, BufReader<ChildStdout>)>,
    _process: Process,
    _alone: Alone,
}

impl Link for (ChildStdin, BufReader<ChildStdout>) {
    fn send(&mut self, message: &str) {
        let written = self.0.write_all(format!("{message}\n").as_bytes());
        written.unwrap_or_else(|error| panic!("app-server: {error}"));
    }

    fn receive(&mut self) -> String {
        let mut line = String::new();
        match self.1.read_line(&mut line) {
            Ok(1..) => line,
            end => panic!("app-server says no more: {end:?}"),
        }
    }
}

impl Pipes {
    fn start(codex: &Codex) -> Pipes {
        let alone = Alone::new(codex);
        let (process, stdin, stdout) = Process::start_piped(&alone.launch);
        let client = Client::open((stdin, BufReader::new(stdout)), &alone);
        Pipes { client, _process: process, _alone: alone }
    }
}

impl Way for Pipes {
    fn turn(&mut self) -> Turn {
        self.client.turn()
    }
}

/// Over the WebSocket that the CLI itself offers.
struct Listening {
    client: Client<Socket>,
    _process: Process,
    _alone: Alone,
}

impl Link for Socket {
    fn send(&mut self, message: &str) {
        Socket::send(self, message);
    }

    fn receive(&mut self) -> String {
        match self.next_raw(SOON) {
            Got::Text(text) => text.to_string(),
            other => panic!("app-server says no more: {other:?}"),
        }
    }
}

impl Listening {
    fn start(codex: &Codex) -> Listening {
        let mut alone = Alone::new(codex);
        let url = format!("ws://127.0.0.1:{}", free_port());
        alone.launch.args.extend(["--listen".into(), url.clone().into()]);
        let process = Process::start(&alone.launch);
        let socket = eventually("an app-server that listens", SOON, || Socket::try_connect(&url));
        let client = Client::open(socket, &alone);
        Listening { client, _process: process, _alone: alone }
    }
}

impl Way for Listening {
    fn turn(&mut self) -> Turn {
        self.client.turn()
    }
}

/// Through codexd, with or without conductor before it.
struct Daemons {
    connection: KeptAlive,
    path: &'static str,
    body: String,
    /// When the reader of events had the end of a turn.
    ends: Receiver<Instant>,
    _conductor: Option<Daemon>,
    node: Node,
}

impl Daemons {
    fn start(codex: &Codex, both: bool) -> Daemons {
        let node = Node::start(codex, &[]);
        node.ready();
        let conductor = both.then(|| conductor(&node.dir, node.codexd.url()));
        let (base, turn, events) = match &conductor {
            None => (node.codexd.url(), "/v1/codexd/turn?waitMs=60000", "/v1/codexd/events"),
            Some(conductor) => (conductor.url(), "/v1/codex/turn?waitMs=60000", "/v1/codex/events"),
        };
        let body = json!({"sessionId": node.session(json!({})), "input": INPUT}).to_string();
        let connection = KeptAlive::open(base).unwrap_or_else(|error| panic!("{base}: {error}"));
        let (tell, ends) = channel();
        let mut stream = Events::open("GET", &format!("{base}{events}"), &[], b"");
        assert_eq!(stream.status, 200);
        thread::spawn(move || {
            while let Ok(Some(block)) = stream.try_next_block() {
                let now = Instant::now();
                if block.data.contains(TURN_END) && tell.send(now).is_err() {
                    return;
                }
            }
        });
        Daemons { connection, path: turn, body, ends, _conductor: conductor, node }
    }
}

impl Way for Daemons {
    fn turn(&mut self) -> Turn {
        let begun = Instant::now();
        let answer = self.connection.post(self.path, &self.body);
        let answered = begun.elapsed();
        let seen = answer.unwrap_or_else(|error| panic!("no answer: {error}")).data(200);
        assert_eq!(seen["turn"]["status"], "completed", "{seen}");
        let told = self.ends.recv_timeout(SOON).unwrap_or_else(|_| panic!("no end of a turn was told"));
        Turn { answered, told: Some(told - begun) }
    }

    fn commits(&self) -> Option<(f64, f64)> {
        let of =
            |part: &str| metric(self.node.codexd.url(), &format!("baa_log_sync_duration_seconds_{part}"));
        of("count").zip(of("sum"))
    }
}
