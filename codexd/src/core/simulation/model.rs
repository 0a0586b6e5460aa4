//! What the log may say, told apart from the state that the core makes of it: only what the contract promises.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// A session as the log tells of it.
#[derive(Default)]
struct Session {
    closed: bool,
    removed: bool,
    /// The mark of the turn that was asked for and has no name.
    asked: Option<String>,
    /// The turn that runs.
    runs: Option<String>,
    interrupts: u64,
    items: BTreeSet<(String, String)>,
}

#[derive(Default)]
pub(super) struct Turn {
    pub(super) session_id: String,
    /// How it ended, and why.
    pub(super) end: Option<(String, String)>,
    pub(super) interrupt: bool,
}

struct Approval {
    epoch: u64,
    request_id: u64,
    resolution: Option<String>,
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) seq: u64,
    sessions: BTreeMap<String, Session>,
    pub(super) turns: BTreeMap<String, Turn>,
    approvals: BTreeMap<String, Approval>,
    /// The key under which each turn was asked for, by its mark.
    keys: BTreeMap<String, String>,
    /// Marks of turns that were asked for, and the session.
    marks: BTreeMap<String, String>,
    /// Sessions that were made under each key.
    made: BTreeMap<String, String>,
    /// The turn that has been named to callers with a key.
    told: BTreeMap<String, String>,
    ready: u64,
    pub(super) stopped: bool,
}

/// Types that a session's transcript keeps.
const TRANSCRIBED: [&str; 12] = [
    "turn.requested",
    "turn.accepted",
    "turn.refused",
    "turn.steered",
    "turn.settled",
    "turn.interrupt_requested",
    "turn.interrupted",
    "item.closed",
    "app-server.item.completed",
    "app-server.thread.tokenUsage.updated",
    "app-server.turn.completed",
    "app-server.turn.started",
];

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Session {
    /// An item begins or ends.
    fn item(&mut self, kind: &str, turn_id: String, detail: &Value) {
        let key = |item: &Value| (turn_id.clone(), text(item));
        match kind {
            "app-server.item.started" => {
                let new = self.items.insert(key(&detail["item"]["id"]));
                assert!(new, "an item begins once");
            }
            "app-server.item.completed" => {
                self.items.remove(&key(&detail["item"]["id"]));
            }
            "item.closed" => {
                self.items.remove(&key(&detail["itemId"]));
            }
            _ => {}
        }
    }
}

impl Model {
    /// Takes a line of the disk in, and gives its type back.
    pub(super) fn line(&mut self, line: &str) -> String {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["seq"], self.seq + 1, "numbers have no gaps");
        self.seq += 1;
        let (kind, detail) = (text(&event["type"]), &event["detail"]);
        let (session_id, turn_id) = (text(&detail["sessionId"]), text(&detail["turnId"]));
        match kind.as_str() {
            "daemon.started" => self.stopped = false,
            "daemon.stopping" => self.stopped = true,
            "child.ready" => self.ready = detail["epoch"].as_u64().unwrap(),
            "session.created" => {
                if let Some(key) = detail["key"]["hash"].as_str() {
                    let before = self.made.insert(key.to_owned(), session_id.clone());
                    assert_eq!(before, None, "one key is one session");
                }
                let before = self.sessions.insert(session_id, Session::default());
                assert!(before.is_none(), "an id is given once");
            }
            "approval.requested" => {
                let id = text(&detail["approvalId"]);
                let (epoch, request_id) = (&detail["epoch"], &detail["requestId"]);
                let (epoch, request_id) = (epoch.as_u64().unwrap(), request_id.as_u64().unwrap());
                let same = |approval: &Approval| (approval.epoch, approval.request_id) == (epoch, request_id);
                assert!(!self.approvals.values().any(|a| same(a) && a.resolution.is_none()), "listed once");
                let before = self.approvals.insert(id, Approval { epoch, request_id, resolution: None });
                assert!(before.is_none(), "an id is given once");
            }
            "approval.resolved" => {
                let approval = self.approvals.get_mut(&text(&detail["approvalId"])).expect("it was asked");
                let before = approval.resolution.replace(text(&detail["resolution"]));
                assert_eq!(before, None, "an approval comes to one end");
            }
            _ => self.of_session(&kind, session_id, turn_id, detail),
        }
        kind
    }

    fn of_session(&mut self, kind: &str, session_id: String, turn_id: String, detail: &Value) {
        let Some(session) = self.sessions.get_mut(&session_id) else {
            assert!(session_id.is_empty(), "{kind} is of a session that nobody made: {session_id}");
            return;
        };
        assert!(!session.removed, "{kind} of {session_id}, which is removed");
        let reason = text(&detail["reason"]);
        match kind {
            "session.closed" => {
                assert!(!session.closed, "{session_id} is closed once");
                session.closed = true;
            }
            "session.removed" => {
                assert!(session.closed && session.asked.is_none() && session.runs.is_none());
                session.removed = true;
            }
            "turn.requested" => {
                assert!(!session.closed, "a closed session takes no turns");
                assert_eq!((&session.asked, &session.runs), (&None, &None), "one turn at a time");
                let mark = text(&detail["clientTurnId"]);
                if let Some(key) = detail["key"]["hash"].as_str() {
                    self.keys.insert(mark.clone(), key.to_owned());
                }
                let before = self.marks.insert(mark.clone(), session_id);
                assert_eq!(before, None, "a mark is given once");
                session.asked = Some(mark);
            }
            "turn.accepted" => {
                let asked = session.asked.take().is_some();
                assert!(asked || self.turns.contains_key(&turn_id), "{turn_id} was asked for");
                let turn = self.turns.entry(turn_id.clone()).or_default();
                assert!(
                    turn.session_id.is_empty() || turn.session_id == session_id,
                    "{turn_id} has one session"
                );
                turn.session_id = session_id;
                if turn.end.is_none() {
                    session.runs = Some(turn_id);
                }
            }
            "turn.refused" => assert!(session.asked.take().is_some(), "it was asked for"),
            "turn.interrupt_requested" => {
                session.interrupts += 1;
                if let Some(turn) = self.turns.get_mut(&turn_id) {
                    turn.interrupt = true;
                }
            }
            // Old news of one that was settled, while another is asked for or none.
            "app-server.turn.started" if self.turns.get(&turn_id).is_some_and(|turn| turn.end.is_some()) => {}
            "app-server.turn.started" => {
                self.turns.entry(turn_id.clone()).or_default().session_id = session_id;
                session.asked = None;
                session.runs = Some(turn_id);
            }
            "app-server.turn.completed" => {
                let status = text(&detail["turn"]["status"]);
                self.end(session_id, turn_id, status, reason);
            }
            "turn.settled" => self.end(session_id, turn_id, text(&detail["status"]), reason),
            "turn.interrupted" if turn_id.is_empty() => session.asked = None,
            "turn.interrupted" => self.end(session_id, turn_id, "interrupted".into(), reason),
            _ => session.item(kind, turn_id, detail),
        }
    }

    fn end(&mut self, session_id: String, turn_id: String, status: String, reason: String) {
        if let Some(session) = self.sessions.get_mut(&session_id) {
            session.runs = session.runs.take().filter(|runs| *runs != turn_id);
        }
        let turn = self.turns.entry(turn_id).or_default();
        turn.session_id = session_id;
        turn.end = Some((status, reason));
    }

    /// A line goes out with the session whose transcript keeps it.
    pub(super) fn transcribed(line: &str, session_id: Option<&str>) {
        let event: Value = serde_json::from_str(line).unwrap();
        let (kind, item) = (text(&event["type"]), &event["detail"]["item"]["type"]);
        let begins =
            kind == "app-server.item.started" && (item == "commandExecution" || item == "fileChange");
        let kept = begins || TRANSCRIBED.contains(&kind.as_str());
        let expected = kept.then_some(()).and_then(|()| event["detail"]["sessionId"].as_str());
        assert_eq!(session_id, expected, "the transcript has what it should: {line}");
    }

    /// A message leaves for the child: what says so is on disk.
    pub(super) fn sent(&self, epoch: u64, message: &Value) {
        let params = &message["params"];
        match message["method"].as_str() {
            Some("initialize" | "initialized" | "config/read" | "account/read") => return,
            Some("turn/start") => {
                let mark = text(&params["clientUserMessageId"]);
                let session = self.marks.get(&mark).and_then(|id| self.sessions.get(id));
                let asked = session.and_then(|session| session.asked.clone());
                // Else it was asked for and has begun or ended before its answer.
                assert!(session.is_some() && asked.is_none_or(|asked| asked == mark), "{mark} is on disk");
            }
            Some("turn/interrupt") => {
                let session = &self.turns[params["turnId"].as_str().unwrap()].session_id;
                assert!(self.sessions[session].interrupts > 0, "that it is to be interrupted is on disk");
            }
            Some(_) => {}
            None if message["error"]["code"] == -32601 => return,
            None => {
                let id = message["id"].as_u64();
                let it = |approval: &&Approval| Some(approval.request_id) == id && approval.epoch == epoch;
                let ends = ["answered", "expired", "overflow"];
                let ended = |end: &String| ends.contains(&end.as_str());
                let known =
                    self.approvals.values().filter(it).any(|a| a.resolution.as_ref().is_some_and(ended));
                assert!(known, "the answer to request {id:?} is on disk");
                return;
            }
        }
        assert_eq!(self.ready, epoch, "the child was ready before {message}");
    }

    /// The child starts the turn with this mark; `started` are the marks of all that it ever did.
    pub(super) fn one_key_is_one_turn(&self, mark: &str, started: &BTreeSet<String>) {
        let Some(key) = self.keys.get(mark) else { return };
        let again = started.iter().find(|other| *other != mark && self.keys.get(*other) == Some(key));
        assert_eq!(again, None, "{mark} is the second turn of key {key}");
    }

    /// A caller is told of a turn.
    pub(super) fn turn_told(&mut self, turn_id: &str, key: Option<&str>) {
        assert!(self.turns.contains_key(turn_id), "{turn_id} is on disk");
        if let Some(key) = key {
            let told = self.told.entry(key.to_owned()).or_insert_with(|| turn_id.to_owned());
            assert_eq!(told, turn_id, "one key is one answer");
        }
    }

    /// A caller is told of a session.
    pub(super) fn session_told(&self, id: &str, key: Option<&str>) {
        assert!(self.sessions.contains_key(id), "{id} is on disk");
        if let Some(key) = key {
            assert_eq!(self.made.get(key).map(String::as_str), Some(id), "one key is one answer");
        }
    }

    pub(super) fn interrupt_told(&self, session_id: &str) {
        assert!(self.sessions[session_id].interrupts > 0, "that it is to be interrupted is on disk");
    }

    pub(super) fn close_told(&self, session_id: &str) {
        assert!(self.sessions[session_id].closed, "that it is closed is on disk");
    }

    pub(super) fn answer_told(&self, approval_id: &str) {
        let resolution = self.approvals[approval_id].resolution.as_deref();
        assert_eq!(resolution, Some("answered"), "that it is answered is on disk");
    }

    /// Whether an answer is to be given to this turn's waiters.
    pub(super) fn runs(&self, turn_id: &str) -> bool {
        self.turns.get(turn_id).is_some_and(|turn| turn.end.is_none())
    }

    /// Every key that a turn was asked for with.
    pub(super) fn keys(&self) -> impl Iterator<Item = &String> {
        self.keys.values()
    }

    /// At rest nothing is left open that does not run, but for what ended `untold`.
    pub(super) fn at_rest(&self, untold: &BTreeSet<String>) {
        for (id, session) in self.sessions.iter().filter(|(_, session)| !session.removed) {
            assert_eq!(session.asked, None, "{id} waits for no turn");
            let left = |(turn_id, item): &&(String, String)| {
                Some(turn_id) != session.runs.as_ref() && !untold.contains(item)
            };
            let open = session.items.iter().filter(left);
            assert_eq!(open.collect::<Vec<_>>(), Vec::<&(String, String)>::new(), "{id} has nothing open");
        }
        let open = self.approvals.iter().filter(|(_, approval)| approval.resolution.is_none());
        assert_eq!(open.count(), 0, "every approval came to an end");
    }
}
