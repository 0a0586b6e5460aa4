//! One way to hold a conversation, whoever is in between: scenarios are written against it once.

use std::path::PathBuf;
use std::time::Duration;

use e2e::codex::{Codex, write_home};
use e2e::lines::Lines;
use e2e::model::Model;
use e2e::process::Launch;
use e2e::temp::TempDir;
use serde_json::{Value, json};

/// A notification of the app-server, or a request of it to the client.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) method: String,
    pub(crate) params: Value,
    /// What an answer to it has to name; `null` if it wants none.
    pub(crate) handle: Value,
}

impl Event {
    pub(crate) fn is(&self, method: &str) -> bool {
        self.method == method
    }

    /// Whether it is about an item of that type.
    pub(crate) fn is_item(&self, method: &str, kind: &str) -> bool {
        self.is(method) && self.params["item"]["type"] == kind
    }
}

/// Somebody to talk with.
pub(crate) trait Driver {
    /// Whom in the end, and where.
    fn bench(&self) -> &Bench;
    /// A new conversation: its id.
    fn open(&mut self, settings: Value) -> String;
    /// Says something, with further fields: the turn's id.
    fn say(&mut self, conversation: &str, text: &str, more: Value) -> String;
    /// The next event that is wanted, after the one that was waited for before.
    fn wait(&mut self, what: &str, wanted: &dyn Fn(&Event) -> bool) -> Event;
    /// All events so far.
    fn events(&self) -> Vec<Event>;
    /// Interrupts a turn that has started.
    fn interrupt(&mut self, conversation: &str, turn: &str);
    /// Says something to a running turn; the refusal's sentence if it cannot be.
    fn steer(&mut self, conversation: &str, turn: &str, text: &str) -> Result<(), String>;
    /// Answers a request of the app-server.
    fn answer(&mut self, request: &Event, answer: Value);
    /// Answers one whose turn does not wait any more.
    fn answer_too_late(&mut self, request: &Event, answer: Value);
    /// Kills the app-server with all that belongs to it, and goes on with a new one, as the same client would.
    fn crash(&mut self, conversation: &str);
}

/// What both kinds of `codex` need around them.
pub(crate) struct Bench {
    pub(crate) codex: Codex,
    pub(crate) dir: TempDir,
    pub(crate) home: PathBuf,
    pub(crate) cwd: PathBuf,
    pub(crate) model: Model,
}

impl Bench {
    pub(crate) fn new(codex: Codex) -> Bench {
        let dir = TempDir::new();
        let (home, cwd) = (dir.folder("home"), dir.folder("cwd"));
        let model = Model::start(0, None).unwrap();
        write_home(&home, &codex, &model.base_url(), 2);
        Bench { codex, dir, home, cwd, model }
    }

    /// The app-server alone.
    pub(crate) fn launch(&self) -> Launch {
        let (program, args) = self.codex.command();
        let launch = Launch { program, args: Vec::new(), env: Vec::new(), dir: self.dir.path().to_owned() };
        // Commands run in a login shell: of nobody, whose profile neither takes time nor leaves locks when killed.
        launch.args(args).env("CODEX_HOME", &self.home).env("HOME", self.dir.path()).env("NO_COLOR", "1")
    }
}

/// The app-server itself, over its pipes.
pub(crate) struct Direct {
    pub(crate) lines: Lines,
    past: Vec<Value>,
    at: usize,
    /// Last, for fields are dropped in order: the folder goes when nobody writes there any more.
    pub(crate) bench: Bench,
}

impl Direct {
    pub(crate) fn start(codex: Codex) -> Direct {
        Direct::with(Bench::new(codex), &[])
    }

    pub(crate) fn with(bench: Bench, args: &[&str]) -> Direct {
        let mut lines = Lines::start(&bench.launch().args(args.iter().copied()));
        lines.handshake();
        Direct { bench, lines, past: Vec::new(), at: 0 }
    }

    pub(crate) fn request(&mut self, method: &str, params: Value) -> Result<Value, String> {
        let answer = self.lines.request(method, params);
        answer.map_err(|error| error["message"].as_str().unwrap_or_default().to_owned())
    }
}

impl Driver for Direct {
    fn bench(&self) -> &Bench {
        &self.bench
    }

    fn open(&mut self, settings: Value) -> String {
        let mut params = json!({"cwd": self.bench.cwd, "sandbox": "danger-full-access"});
        merge(&mut params, settings);
        let opened = self.request("thread/start", params).unwrap();
        opened["thread"]["id"].as_str().unwrap().to_owned()
    }

    fn say(&mut self, conversation: &str, text: &str, more: Value) -> String {
        let mut params = json!({"threadId": conversation, "input": [{"type": "text", "text": text}]});
        merge(&mut params, more);
        let started = self.request("turn/start", params).unwrap();
        started["turn"]["id"].as_str().unwrap().to_owned()
    }

    fn wait(&mut self, what: &str, wanted: &dyn Fn(&Event) -> bool) -> Event {
        let (at, message) =
            self.lines.wait_for(what, self.at, |message| event(message).is_some_and(|event| wanted(&event)));
        self.at = at;
        event(&message).unwrap()
    }

    fn events(&self) -> Vec<Event> {
        self.past.iter().chain(&self.lines.messages()).filter_map(event).collect()
    }

    fn interrupt(&mut self, conversation: &str, turn: &str) {
        self.request("turn/interrupt", json!({"threadId": conversation, "turnId": turn})).unwrap();
    }

    fn steer(&mut self, conversation: &str, turn: &str, text: &str) -> Result<(), String> {
        let input = json!([{"type": "text", "text": text}]);
        let params = json!({"threadId": conversation, "expectedTurnId": turn, "input": input});
        self.request("turn/steer", params).map(drop)
    }

    fn answer(&mut self, request: &Event, answer: Value) {
        self.lines.send(&json!({"id": request.handle, "result": answer}));
    }

    fn answer_too_late(&mut self, request: &Event, answer: Value) {
        self.answer(request, answer); // and nothing comes of it
    }

    fn crash(&mut self, conversation: &str) {
        self.lines.process.kill_all();
        assert!(self.lines.ended(Duration::from_secs(5)), "nobody holds the pipe any more");
        self.past.extend(self.lines.messages());
        self.at = 0;
        self.lines = Lines::start(&self.bench.launch());
        self.lines.handshake();
        let params = json!({"threadId": conversation, "excludeTurns": true, "sandbox": "danger-full-access"});
        self.request("thread/resume", params).unwrap();
    }
}

pub(crate) fn merge(into: &mut Value, more: Value) {
    if let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) {
        into.extend(more);
    }
}

fn event(message: &Value) -> Option<Event> {
    let method = message["method"].as_str()?.to_owned();
    Some(Event { method, params: message["params"].clone(), handle: message["id"].clone() })
}

/// What comes at changing places or in changing numbers, only where the sandbox needs to be explained, or from the newest
/// version alone and for nobody who needs it.
const LOOSE: &[&str] = &[
    "thread/readState/changed",
    "thread/settings/updated",
    "account/rateLimits/updated",
    "thread/tokenUsage/updated",
    "thread/goal/cleared",
    "item/commandExecution/outputDelta",
    "remoteControl/status/changed",
    "configWarning",
];

/// Versions up to 0.114 say everything a second time in the words of their predecessors.
pub(crate) const LEGACY: &str = "codex/event/";

/// The order of events, one line each: the method and what tells it from its like, adjacent repeats folded. What is
/// `unsteady` is left out.
pub(crate) fn order(events: &[Event], unsteady: &[&str]) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut waiting = false;
    let left_out = |method: &str| [LOOSE, unsteady].concat().contains(&method) || method.starts_with(LEGACY);
    let said = |event: &&Event| !left_out(&event.method);
    for event in events.iter().filter(said) {
        let params = &event.params;
        let flag = params["status"]["activeFlags"][0].as_str();
        if event.is("thread/status/changed") {
            // The return from waiting comes before or after the item's end.
            let returns = waiting && flag.is_none() && params["status"]["type"] == "active";
            waiting = flag.is_some();
            if returns {
                continue;
            }
        }
        let what = match event.method.as_str() {
            "item/started" => format!("{}", params["item"]["type"]),
            "item/completed" => format!("{} {}", params["item"]["type"], params["item"]["status"]),
            "turn/completed" => format!("{}", params["turn"]["status"]),
            "error" => format!("willRetry {}", params["willRetry"]),
            "thread/status/changed" => format!("{} {}", params["status"]["type"], flag.unwrap_or_default()),
            _ => String::new(),
        };
        let line = format!("{} {}", event.method, what.replace('"', "").replace("null", ""));
        let line = line.trim_end().to_owned();
        if lines.last() != Some(&line) {
            lines.push(line);
        }
    }
    lines.join("\n") + "\n"
}
