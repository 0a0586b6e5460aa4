//! What is written, and what any crash leaves.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::log::{Limits, Log, Seq};
use common::time::Timestamp;
use serde_json::{Value, json};

use super::read::Page;
use super::*;
use crate::app_server::protocol;
use crate::core::FromChild;
use crate::event::{self, Event, Record, SessionCreated, TurnRequested};
use crate::state::{Settings, State, TurnStatus};

mod pages;

fn state_dir() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let unique = format!("baa-transcript-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(unique);
    fs::create_dir_all(&path).unwrap();
    path
}

const ROOM: u64 = 1 << 30;

/// Events by a word each: what happens to which session.
fn event(session: &str, words: &str) -> Event {
    let (session_id, thread_id) = (session.to_owned(), format!("t-{session}"));
    let mut parts = words.split(' ');
    let (word, turn_id) = (parts.next().unwrap(), parts.next().unwrap_or_default().to_owned());
    let rest = parts.collect::<Vec<_>>().join(" ");
    let (id, tail) = rest.split_once(' ').unwrap_or((rest.as_str(), ""));
    let named = Some(turn_id.clone()).filter(|id| id != "-");
    let input = |text: &str| json!([{ "type": "text", "text": text }]);
    let told = |method: &str, mut params: Value| {
        (params["threadId"], params["turnId"]) = (thread_id.clone().into(), turn_id.clone().into());
        let line = json!({ "method": method, "params": params }).to_string();
        let Some(FromChild::Notice(mut notice)) = protocol::parse(line.as_bytes()) else { panic!("{line}") };
        notice.session_id = Some(session.to_owned());
        notice.detail.insert("sessionId".into(), session.into());
        Event::App(*notice)
    };
    let item = |method: &str, item: Value| told(method, json!({ "item": item }));
    let command = |status: &str, code: Value, output: Value| {
        json!({
            "type": "commandExecution", "id": id, "command": tail, "cwd": "/w", "status": status, "exitCode": code,
            "aggregatedOutput": output, "durationMs": code,
        })
    };
    let changes = json!([{ "path": tail, "kind": { "type": "add" }, "diff": "+x" }]);
    match word {
        "ask" => Event::TurnRequested(Box::new(TurnRequested {
            session_id,
            thread_id,
            client_turn_id: "c".into(),
            changes: Settings::default(),
            input: input(&format!("{turn_id} {rest}")),
            timeout_ms: None,
            key: None,
        })),
        "accept" => Event::TurnAccepted { session_id, thread_id, turn_id },
        "refuse" => Event::TurnRefused { session_id, thread_id, reason: "no".into() },
        "steer" => Event::TurnSteered { session_id, thread_id, turn_id, input: input(&rest), key: None },
        "stop" => Event::TurnInterruptRequested { session_id, thread_id, turn_id: named, reason: rest },
        "cutoff" => Event::TurnInterrupted { session_id, thread_id, turn_id: named, reason: rest },
        "settle" => Event::TurnSettled { session_id, thread_id, turn_id, status: TurnStatus::Completed },
        "close" => Event::ItemClosed {
            session_id,
            thread_id,
            turn_id: named,
            item_id: id.into(),
            reason: "gone".into(),
        },
        "forget" => Event::TranscriptRemoved { session_id, thread_id, bytes: 1 },
        "remove" => Event::SessionRemoved { session_id, thread_id },
        "end" => Event::SessionClosed { session_id, thread_id, reason: "done".into() },
        "begin" => told("turn/started", json!({ "turn": { "id": turn_id, "status": "inProgress" } })),
        "done" => {
            told("turn/completed", json!({ "turn": { "id": turn_id, "status": "completed", "items": [] } }))
        }
        "fail" => told(
            "turn/completed",
            json!({ "turn": { "id": turn_id, "status": "failed", "error": { "message": rest } } }),
        ),
        "halt" => told("turn/completed", json!({ "turn": { "id": turn_id, "status": "interrupted" } })),
        "cost" => told("thread/tokenUsage/updated", json!({ "tokenUsage": { "total": rest } })),
        "you" => item("item/completed", json!({ "type": "userMessage", "id": id, "content": input(tail) })),
        "say" => item("item/completed", json!({ "type": "agentMessage", "id": id, "text": tail })),
        "big" => {
            let text = id.repeat(tail.parse().unwrap());
            item("item/completed", json!({ "type": "agentMessage", "id": "big", "text": text }))
        }
        "run" => item("item/started", command("inProgress", Value::Null, Value::Null)),
        "ran" => item("item/completed", command("completed", json!(0), json!("out"))),
        "patch" => item(
            "item/started",
            json!({ "type": "fileChange", "id": id, "changes": changes, "status": "inProgress" }),
        ),
        "patched" => item(
            "item/completed",
            json!({ "type": "fileChange", "id": id, "changes": changes, "status": "completed" }),
        ),
        "search" => item("item/completed", json!({ "type": "webSearch", "id": id, "query": tail })),
        "delta" => told("item/agentMessage/delta", json!({ "itemId": id, "delta": tail })),
        other => panic!("{other}"),
    }
}

/// Lines of a log, numbered from `next`, as a daemon writes and transcribes them.
struct Writer {
    keeper: Keeper,
    next: Seq,
    lines: Vec<(Record, String)>,
    /// The process ends before it does what a committed line asks for.
    crashes: bool,
}

impl Writer {
    fn new(state: &Path) -> Writer {
        Writer { keeper: Keeper::open(state, ROOM).unwrap(), next: 1, lines: Vec::new(), crashes: false }
    }

    fn put(&mut self, session: &str, words: &str) -> Seq {
        let event = event(session, words);
        let record = Record { seq: self.next, at: Timestamp::from_millis(self.next * 1000), event };
        let line = event::render(&record);
        if let Event::App(notice) = &record.event
            && let Some(whole) = &notice.whole
        {
            self.keeper.keep_whole(session, whole).unwrap();
        }
        match &record.event {
            _ if self.crashes => {}
            Event::TranscriptRemoved { .. } | Event::SessionRemoved { .. } => self.keeper.forget(session),
            event if event.transcribed().is_some() => self.keeper.append(session, &line),
            _ => {}
        }
        self.lines.push((record, line));
        self.next += 1;
        self.next - 1
    }

    fn script(&mut self, session: &str, script: &str) {
        script.split(';').map(str::trim).filter(|words| !words.is_empty()).for_each(|words| {
            self.put(session, words);
        });
    }

    fn page(&self, session: &str, before: Option<Seq>, limit: usize) -> Page {
        self.keeper.shared().page(session, 0, before, limit).unwrap()
    }
}

/// What a transcript should hold, by all that ever was in the log.
fn expected(lines: &[(Record, String)]) -> BTreeMap<String, String> {
    let mut expected: BTreeMap<String, String> = BTreeMap::new();
    for (record, line) in lines {
        match &record.event {
            Event::TranscriptRemoved { session_id, .. } | Event::SessionRemoved { session_id, .. } => {
                expected.remove(session_id);
            }
            event => {
                if let Some(session_id) = event.transcribed() {
                    expected.entry(session_id.to_owned()).or_default().push_str(&format!("{line}\n"));
                }
            }
        }
    }
    expected
}

fn kept(state: &Path) -> BTreeMap<String, String> {
    let names = fs::read_dir(state.join("transcripts")).unwrap().map(|entry| entry.unwrap());
    let lines = names.filter_map(|entry| {
        let name = entry.file_name().into_string().unwrap();
        let session = name.strip_suffix(".jsonl")?.to_owned();
        Some((session, fs::read_to_string(entry.path()).unwrap_or_else(|_| panic!("{name} is no text"))))
    });
    lines.filter(|(_, text)| !text.is_empty()).collect()
}

/// A small generator of numbers; the same seed gives the same life.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[test]
fn after_any_crash_transcripts_hold_what_the_log_holds() {
    for seed in 1..=25 {
        let state = state_dir();
        let (mut dice, mut writer) = (Dice(seed), Writer::new(&state));
        let (mut covered, mut synced) = (0, BTreeMap::new());
        let mut sessions = [1, 2, 3];
        for life in 0..5 {
            let events = dice.roll(40);
            for left in (0..events).rev() {
                writer.crashes = left == 0 && dice.roll(2) == 0;
                let slot = &mut sessions[dice.roll(3) as usize];
                let session = format!("session-a-{slot}");
                let words = match dice.roll(20) {
                    0 => "forget",
                    1 => {
                        *slot += 3; // who was removed does not come back
                        "remove"
                    }
                    2..8 => "delta u m x",
                    8 => "big u x 300000",
                    _ => "say u m hello",
                };
                writer.put(&session, words);
                if dice.roll(10) == 0 && !writer.crashes {
                    writer.keeper.shared().sync().unwrap();
                    covered = writer.next - 1;
                    synced = kept(&state).into_iter().map(|(session, text)| (session, text.len())).collect();
                }
            }
            for (session, text) in kept(&state) {
                // What no sync has covered is lost in part, or never came to be what was written.
                let path = writer.keeper.shared().lines_of(&session);
                let from = synced.get(&session).copied().unwrap_or(0).min(text.len());
                let to = from + dice.roll((text.len() - from) as u64 + 1) as usize;
                let mut bytes = text.into_bytes();
                match dice.roll(4) {
                    0 => bytes.truncate(to),
                    1 => bytes[to..].fill(0),
                    2 => bytes[from..to].fill(b'?'),
                    _ => {}
                }
                fs::write(path, bytes).unwrap();
            }
            (writer.keeper, writer.crashes) = (Keeper::open(&state, ROOM).unwrap(), false);
            let mut repair = writer.keeper.repair();
            for (record, line) in writer.lines.iter().filter(|(record, _)| record.seq > covered) {
                repair.take(record, line);
            }
            assert!(repair.done());
            assert_eq!(kept(&state), expected(&writer.lines), "seed {seed}, life {life}");
            for line in kept(&state).values().flat_map(|text| text.lines()) {
                let line: Value = serde_json::from_str(line).unwrap();
                if let (Some(session), Some(sha1)) =
                    (line["detail"]["sessionId"].as_str(), line["detail"]["whole"].as_str())
                {
                    assert!(
                        writer.keeper.shared().whole_of(session, sha1).exists(),
                        "seed {seed}, life {life}"
                    );
                }
            }
            let bytes: u64 =
                file::list(&state.join("transcripts")).unwrap().iter().map(|found| found.bytes).sum();
            assert_eq!(writer.keeper.shared().bytes(), bytes, "seed {seed}, life {life}");
        }
        fs::remove_dir_all(state).unwrap();
    }
}

#[test]
fn what_could_not_be_written_is_taken_from_the_log_later() {
    let state = state_dir();
    let mut writer = Writer::new(&state);
    let limits = Limits { segment_bytes: 1 << 20, total_bytes: 1 << 20 };
    let mut log = Log::open(&state, limits, 0, |_, _| Ok(())).unwrap().log;
    writer.script("session-a-1", "ask hello; accept u; say u m one");
    let in_the_way = writer.keeper.shared().lines_of("session-a-2");
    fs::create_dir(&in_the_way).unwrap();
    writer.script("session-a-2", "ask hello");
    writer.script("session-a-1", "say u m two");
    writer.lines.iter().for_each(|(_, line)| log.append(line));
    log.commit().unwrap();
    let mut at = Duration::from_secs(10);
    let mut catch_up = |writer: &mut Writer, log: &Log| {
        at += Duration::from_secs(2);
        writer.keeper.catch_up(log.feed(), at, false);
        writer.keeper.wake_at().is_none()
    };
    assert!(!catch_up(&mut writer, &log), "it is still in the way");
    fs::remove_dir(&in_the_way).unwrap();
    assert!(catch_up(&mut writer, &log));
    assert_eq!(kept(&state), expected(&writer.lines));
    writer.script("session-a-2", "accept v");
    assert_eq!(kept(&state), expected(&writer.lines), "and goes on as ever");
}

#[test]
fn the_oldest_closed_goes_first_and_what_runs_stays() {
    let dir = state_dir();
    let (mut state, mut seq) = (State::default(), 0);
    let mut apply = |event: Event| {
        seq += 1;
        let record = Record { seq, at: Timestamp::from_millis(seq), event };
        state.apply(&event::parse(&event::render(&record)).unwrap());
    };
    let ids: Vec<_> = (1..=6).map(|n| format!("session-0-{n}")).collect();
    for id in &ids {
        apply(Event::SessionCreated(Box::new(SessionCreated {
            session_id: id.clone(),
            thread_id: format!("t-{id}"),
            purpose: "duplex".into(),
            ephemeral: false,
            metadata: Value::Null,
            settings: Settings::default(),
            origin: Default::default(),
            key: None,
        })));
    }
    // 1 is used again, 3 and 5 are closed, 4 runs, 2 and 6 are idle.
    for (n, words) in [(5, "end"), (3, "end"), (4, "ask x"), (4, "accept u"), (1, "ask y"), (1, "refuse")] {
        apply(event(&ids[n - 1], words));
    }
    let total = 100 * 1024;
    let mut keeper = Keeper::open(&dir, total).unwrap();
    let line = "x".repeat(20 * 1024 - 1);
    let mut at = Duration::ZERO;
    let mut over = |keeper: &mut Keeper| {
        at += Duration::from_secs(2);
        let chosen = keeper.over(&state, at);
        assert_eq!(keeper.over(&state, at), [], "it was asked a moment ago");
        chosen.into_iter().map(|(id, bytes)| (id[10..].to_owned(), bytes / 1024)).collect::<Vec<_>>()
    };
    for id in &ids[..5] {
        keeper.append(id, &line);
    }
    assert_eq!(over(&mut keeper), [], "just what there may be");
    keeper.append("session-0-99", &line);
    assert_eq!(
        over(&mut keeper),
        [("3".into(), 20)],
        "some more than needed goes, so that the next line has room"
    );
    assert_eq!(fs::read_dir(dir.join("transcripts")).unwrap().count(), 5, "and what is nobody's at once");
    keeper.append(&ids[3], &"x".repeat(100 * 1024 - 1));
    keeper.append(&ids[5], &line);
    let chosen = over(&mut keeper);
    let order: Vec<_> = chosen.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(order, ["3", "5", "2", "6", "1"], "the closed ones, then the idle ones; never what runs");
    for id in order {
        keeper.forget(&format!("session-0-{id}"));
    }
    assert_eq!(kept(&dir).keys().collect::<Vec<_>>(), [&ids[3]]);
    assert_eq!(keeper.shared().bytes(), 120 * 1024);
}
