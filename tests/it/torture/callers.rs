//! Callers who want their work done, whoever dies meanwhile.

use std::time::{Duration, Instant};

use e2e::http::{Response, try_request};
use e2e::random::Random;
use serde_json::{Value, json};

use super::{Board, TALK};

/// How long a caller asks for the same, whoever is killed meanwhile, before something must be wrong for good.
const PATIENCE: Duration = Duration::from_secs(40);

/// What a caller was promised.
#[derive(Default)]
pub(super) struct Promised {
    /// Sessions with the key they were asked for by.
    pub(super) sessions: Vec<(String, String)>,
    /// Turns with their sessions and texts.
    pub(super) turns: Vec<(String, String, String)>,
}

pub(super) struct Caller<'a> {
    pub(super) number: u64,
    pub(super) board: &'a Board,
    pub(super) random: Random,
    pub(super) asked: u64,
    pub(super) promised: Promised,
}

impl Caller<'_> {
    pub(super) fn work(mut self) -> Promised {
        let mut session = self.session();
        while !self.board.is_over() {
            if self.random.below(5) == 0 {
                session = self.session();
            }
            let keyed = self.random.below(2) == 0;
            if let Some(turn) = self.turn(&session, keyed) {
                self.await_end(&turn);
            }
        }
        self.promised
    }

    fn key(&mut self) -> String {
        self.asked += 1;
        format!("caller-{}-{}", self.number, self.asked)
    }

    /// Asks as often as it takes.
    fn session(&mut self) -> String {
        let key = self.key();
        let body = json!({"sandbox": "danger-full-access", "metadata": {"key": key}});
        loop {
            match self.post("sessions", &body, Some(&key)) {
                Some(answer) if answer.status == 201 => {
                    let id = answer.json()["data"]["session"]["sessionId"].as_str().unwrap().to_owned();
                    self.promised.sessions.push((id.clone(), key));
                    return id;
                }
                Some(answer) if answer.status < 500 => panic!("{}", answer.text()),
                _ => assert!(self.board.again(), "no session for {key}"),
            }
        }
    }

    /// A turn, if it was taken; with a key it is asked for again until it is.
    fn turn(&mut self, session: &str, keyed: bool) -> Option<String> {
        let key = self.key();
        let text = format!("{key} {TALK}");
        let body = json!({"sessionId": session, "input": text});
        let begun = Instant::now();
        loop {
            let answer = self.post("turn", &body, keyed.then_some(&key));
            let said = || answer.as_ref().map(Response::text);
            assert!(begun.elapsed() < PATIENCE, "{session} takes no turn any more: {:?}", said());
            let status = answer.as_ref().map_or(0, |answer| answer.status);
            match (status, answer) {
                (202, Some(answer)) => {
                    let id = answer.json()["data"]["turnId"].as_str().unwrap().to_owned();
                    self.promised.turns.push((id.clone(), session.to_owned(), text));
                    return Some(id);
                }
                (409, _) => {} // one of its own of which it was told nothing
                (0 | 500.., _) if !keyed => return None, // who knows
                (0 | 500.., _) => {}
                (_, answer) => panic!("{}", answer.unwrap().text()),
            }
            assert!(self.board.again(), "no turn for {key}");
        }
    }

    fn await_end(&mut self, turn: &str) {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "{turn} has no end");
            let url = self.board.url(&format!("turns/{turn}?waitMs=1000"));
            match try_request("GET", &url, &[], b"") {
                Ok(answer) if answer.status == 200 => {
                    if is_end(&answer.json()["data"]["turn"]["status"]) {
                        return;
                    }
                    assert!(self.board.again(), "no end of {turn}: {}", answer.text());
                }
                Ok(answer) if answer.status < 500 => panic!("{turn}: {}", answer.text()),
                _ => assert!(self.board.again(), "no end of {turn}"),
            }
        }
    }

    /// `None` if there was no whole answer.
    fn post(&self, path: &str, body: &Value, key: Option<&str>) -> Option<Response> {
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(key.map(|key| ("idempotency-key", key)));
        try_request("POST", &self.board.url(path), &headers, body.to_string().as_bytes()).ok()
    }
}

pub(super) fn is_end(status: &Value) -> bool {
    ["completed", "failed", "interrupted"].iter().any(|end| status == end)
}
