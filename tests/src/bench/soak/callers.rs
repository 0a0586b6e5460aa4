//! Callers who have turn after turn done, session after session, whoever dies meanwhile, and hold the node to its word.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Board;
use crate::http::{KeptAlive, Response};

/// How long a caller asks for the same, whoever is killed meanwhile, before something must be wrong for good.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);
/// Turns of a session, after which it is closed: what a fake's thread still holds all of.
pub(super) const TURNS: usize = 20;

/// How requests came out.
#[derive(Default)]
pub(super) struct Outcomes {
    /// Turns asked for, each with a text of its own.
    asked: AtomicU64,
    /// Turns that were answered as `completed`.
    pub(super) completed: AtomicU64,
    /// Turns that were answered as `interrupted`, with the reason.
    pub(super) interrupted: AtomicU64,
    /// Answers that the node, or a part of it, cannot do it now.
    pub(super) refused: AtomicU64,
    /// Requests without an answer: whoever was asked died.
    pub(super) unanswered: AtomicU64,
    /// Requests that were asked again under their key, and answered.
    pub(super) again: AtomicU64,
    /// Sessions that were read back, and closed.
    pub(super) sessions: AtomicU64,
}

impl Outcomes {
    /// The number of a turn that has not been asked for.
    fn next(&self) -> u64 {
        1 + self.asked.fetch_add(1, Ordering::Relaxed)
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// One of the two ways to codexd, over a connection that is kept.
pub(super) struct Door<'a> {
    pub(super) board: &'a Board,
    pub(super) base: &'a str,
    /// `/v1/codexd` or `/v1/codex`.
    pub(super) prefix: &'static str,
    connection: Option<KeptAlive>,
}

impl<'a> Door<'a> {
    pub(super) fn new(board: &'a Board, through_conductor: bool) -> Door<'a> {
        let (base, prefix) =
            if through_conductor { (&*board.conductor, "/v1/codex") } else { (&*board.codexd, "/v1/codexd") };
        Door { board, base, prefix, connection: None }
    }

    /// `None` if there was no whole answer.
    pub(super) fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: &Value,
        key: Option<&str>,
    ) -> Option<Response> {
        let headers: Vec<_> = key.map(|key| ("idempotency-key", key)).into_iter().collect();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let path = format!("{}/{path}", self.prefix);
        let mut connection = self.connection.take().or_else(|| KeptAlive::open(self.base).ok())?;
        let answer = connection.send(method, &path, &headers, body.as_bytes()).ok()?;
        let closes = answer.header("connection").is_some_and(|value| value == "close");
        self.connection = (!closes).then_some(connection);
        Some(answer)
    }

    /// Asks until the answer is one of what was asked for, not one of who is away.
    pub(super) fn insist(&mut self, method: &str, path: &str, body: &Value, key: Option<&str>) -> Response {
        let begun = Instant::now();
        for tries in 0.. {
            match self.ask(method, path, body, key) {
                // A conductor that has just begun does not lead yet: 409.
                Some(answer) if answer.status < 500 && answer.status != 409 => {
                    if tries > 0 && key.is_some() {
                        count(&self.board.outcomes.again);
                    }
                    return answer;
                }
                answer => self.away(answer.as_ref(), begun, path),
            }
        }
        unreachable!("tries have no end")
    }

    /// Counts what kept it from being done, and waits a moment.
    fn away(&self, answer: Option<&Response>, begun: Instant, what: &str) {
        count(if answer.is_some() { &self.board.outcomes.refused } else { &self.board.outcomes.unanswered });
        let (status, said) = (answer.map(|answer| answer.status), || answer.map(Response::text));
        assert!(matches!(status, None | Some(409 | 502..=504)), "{what}: {:?}", said());
        assert!(begun.elapsed() < PATIENCE, "{what}: nothing but {:?}", said());
        thread::sleep(Duration::from_millis(3));
    }
}

/// A turn that was acknowledged: its id, its text, and how it ended.
type Ended = (String, String, String);

pub(super) struct Caller<'a> {
    door: Door<'a>,
    over: &'a AtomicBool,
}

impl<'a> Caller<'a> {
    pub(super) fn new(board: &'a Board, through_conductor: bool) -> Caller<'a> {
        Caller { door: Door::new(board, through_conductor), over: &board.over }
    }

    /// Sessions to fill the node's bound, each made and closed: the first of them, which the node will forget first, after a
    /// turn of as many events as a session remembers, as those that take their place; every so many of them made by key.
    pub(super) fn fill(mut self, sessions: usize, with_turn: usize, keyed: usize) {
        for number in 0..sessions {
            let session = self.session(number.is_multiple_of(keyed).then(|| self.key()));
            if number < with_turn {
                let ended: Vec<_> =
                    self.turn(&session, "[[items 50]] [[say all is well]]").into_iter().collect();
                self.read_back(&session, &ended);
            } else {
                self.close(&session);
            }
        }
    }

    /// Turn after turn until it is over.
    pub(super) fn work(mut self) {
        while !self.over.load(Ordering::Relaxed) {
            let session = self.session(None);
            let mut ended = Vec::new();
            while ended.len() < TURNS && !self.over.load(Ordering::Relaxed) {
                ended.extend(self.turn(&session, "[[say all is well]]"));
            }
            self.read_back(&session, &ended);
        }
    }

    fn key(&self) -> String {
        format!("soak-{}", self.door.board.outcomes.next())
    }

    fn session(&mut self, key: Option<String>) -> String {
        let made = self.door.insist("POST", "sessions", &json!({}), key.as_deref()).data(201);
        made["session"]["sessionId"].as_str().unwrap_or_default().to_owned()
    }

    fn close(&mut self, session: &str) {
        let path = format!("sessions/{session}/close");
        self.door.insist("POST", &path, &Value::Null, None).data(200);
    }

    /// A turn to its end, if there was an answer to it; with a key it is asked for until there is.
    fn turn(&mut self, session: &str, talk: &str) -> Option<Ended> {
        let (board, begun) = (self.door.board, Instant::now());
        let number = board.outcomes.next();
        let text = format!("turn {number}: {talk}");
        let key = number.is_multiple_of(board.keyed).then(|| format!("soak-turn-{number}"));
        let body = json!({"sessionId": session, "input": text});
        for tries in 0.. {
            let answer = self.door.ask("POST", "turn?waitMs=60000", &body, key.as_deref());
            match answer.as_ref().map(|answer| answer.status) {
                Some(200) => {
                    let turn = answer?.data(200)["turn"].take();
                    count_again(tries, key.as_ref(), board);
                    return Some(self.ended(&turn, text));
                }
                Some(202) => {
                    let id = answer?.data(202)["turnId"].take();
                    count_again(tries, key.as_ref(), board);
                    return Some(self.await_end(id.as_str().unwrap_or_default(), text));
                }
                // One of its own of which it was told nothing still runs.
                Some(409) => self.door.away(answer.as_ref(), begun, &text),
                Some(..500) => panic!("{text}: {:?}", answer.map(|answer| answer.text())),
                _ => {
                    self.door.away(answer.as_ref(), begun, &text);
                    // It may have been taken, conductor does not know that either: asked again without a key, it could be done
                    // twice.
                    key.as_ref()?;
                }
            }
        }
        None
    }

    fn await_end(&mut self, id: &str, text: String) -> Ended {
        let begun = Instant::now();
        loop {
            let seen =
                self.door.insist("GET", &format!("turns/{id}?waitMs=5000"), &Value::Null, None).data(200);
            if matches!(seen["turn"]["status"].as_str(), Some("completed" | "failed" | "interrupted")) {
                return self.ended(&seen["turn"], text);
            }
            assert!(begun.elapsed() < PATIENCE, "{text} has no end: {seen}");
        }
    }

    fn ended(&self, turn: &Value, text: String) -> Ended {
        let word = |name: &str| turn[name].as_str().unwrap_or_default().to_owned();
        let (id, status, outcomes) = (word("turnId"), word("status"), &self.door.board.outcomes);
        match &*status {
            "completed" => count(&outcomes.completed),
            "interrupted" if !word("error").is_empty() => count(&outcomes.interrupted),
            _ => panic!("{text}: {turn}"),
        }
        (id, text, status)
    }

    /// Holds a session, which is at rest, to all that was said of its turns, and the child to having done none twice; then
    /// closes it.
    fn read_back(&mut self, session: &str, ended: &[Ended]) {
        let begun = Instant::now();
        let thread = loop {
            let read = self.door.insist("GET", &format!("sessions/{session}"), &Value::Null, None).data(200);
            if read["session"]["currentTurnId"].is_null() {
                break read["session"]["threadId"].as_str().unwrap_or_default().to_owned();
            }
            assert!(begun.elapsed() < PATIENCE, "{read}"); // one that nobody was told of
            thread::sleep(Duration::from_millis(3));
        };
        let path = format!("sessions/{session}/transcript");
        let kept = self.door.insist("GET", &path, &Value::Null, None).data(200)["turns"].take();
        let kept = kept.as_array().map(Vec::as_slice).unwrap_or_default();
        for (id, text, status) in ended {
            let of_it: Vec<_> = kept.iter().filter(|turn| turn["turnId"] == **id).collect();
            let [turn] = of_it[..] else { panic!("{id} is there {} times: {kept:#?}", of_it.len()) };
            assert_eq!(
                (&turn["status"], &turn["input"][0]["items"][0]["text"]),
                (&json!(status), &json!(text))
            );
        }
        let file = self.door.board.threads.join(format!("{thread}.json"));
        let stored: Value =
            fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let turns = stored["turns"].as_array().into_iter().flatten();
        let items = turns.flat_map(|turn| turn["items"].as_array().into_iter().flatten());
        let done: Vec<_> = items.filter_map(|item| item["content"][0]["text"].as_str()).collect();
        for (at, text) in done.iter().enumerate() {
            assert!(!done[..at].contains(text), "{text} was done twice: {stored:#}");
        }
        for (_, text, _) in ended.iter().filter(|(_, _, status)| status == "completed") {
            assert!(done.contains(&text.as_str()), "{text} was never done: {stored:#}");
        }
        self.close(session);
        let _ = fs::remove_file(&file); // the child's home is to stay as small as the node
        count(&self.door.board.outcomes.sessions);
    }
}

fn count_again(tries: u64, key: Option<&String>, board: &Board) {
    if tries > 0 && key.is_some() {
        count(&board.outcomes.again);
    }
}
