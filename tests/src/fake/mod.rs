//! A fake `codex app-server`: the child's protocol over stdio, without a model.
//!
//! By default it behaves as version 0.169.0 was seen to, as far as codexd can tell: the tests run one set of scenarios
//! against both and compare. What only a fake can do comes on top, by directives in a turn's text
//! ([`script`](crate::script)) and by [`options`]. Threads outlive the process, in `$CODEX_HOME/fake-app-server/`.
//!
//! It runs the commands and writes the files that a turn's text names, without any sandbox.

pub mod options;

mod home;
mod out;
mod play;
mod requests;
mod tools;
mod turn;
mod turn_start;
mod views;

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, Write};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::{Value, json};

use home::{Config, Store, Thread};
use options::{Action, Options};
use out::Out;
use turn::Turn;

/// A request's refusal: its code and message.
struct Refusal {
    code: i64,
    message: String,
}

/// What becomes of a request.
enum Outcome {
    /// An answer.
    Now(Value),
    /// An answer, and what is to happen once it is written.
    Then(Value, Next),
    /// Somebody else answers.
    Later,
}

/// What is to happen after an answer.
type Next = Box<dyn FnOnce(&Arc<World>) + Send>;

type Handled = Result<Outcome, Refusal>;

/// All that the process knows.
struct World {
    options: Options,
    out: Out,
    config: Config,
    store: Store,
    /// Whether this start of the process is one that shall go wrong.
    faulty: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    initialized: bool,
    originator: String,
    overloads: u32,
    threads: HashMap<String, Loaded>,
    requests: HashMap<u64, Pending>,
    next_request: u64,
}

/// A thread in memory.
struct Loaded {
    thread: Thread,
    active: Option<Arc<Turn>>,
    /// Commands that were accepted for the session.
    allowed: HashSet<String>,
}

/// A request to the client that has no answer yet.
struct Pending {
    turn: Arc<Turn>,
    message: Value,
}

/// Runs the program to its end; `args` are those after its name.
pub fn main(args: &[String]) -> ExitCode {
    let options = match Options::parse(args) {
        Ok(options) => options,
        Err(why) => {
            let _ = writeln!(io::stderr(), "fake-app-server: {why}");
            return ExitCode::from(2);
        }
    };
    if let Some(code) = options.wrap(args) {
        return code;
    }
    let store = Store::open(std::env::var_os("CODEX_HOME"));
    let start = store.count_start();
    if options.banner {
        let _ = writeln!(io::stdout(), "fake app-server ready");
        let _ = writeln!(io::stderr(), "fake app-server says hello on stderr");
    }
    if let Some(file) = options.plays.get(start.saturating_sub(1)).or(options.plays.last()) {
        return play::play(file, options.patience);
    }
    let faulty = options.faulty_starts.is_none_or(|starts| start <= starts);
    let config = Config::read(&store);
    let state = Mutex::default();
    let world = Arc::new(World { options, out: Out::default(), config, store, faulty, state });
    world.serve();
    world.shut_down()
}

impl World {
    fn serve(self: &Arc<World>) {
        for line in io::stdin().lock().split(b'\n').map_while(Result::ok) {
            match serde_json::from_slice::<Value>(&line) {
                Ok(message) if message.is_object() => self.take(message),
                _ => {
                    let _ = writeln!(io::stderr(), "ERROR transport: Failed to deserialize JSONRPCMessage");
                }
            }
        }
    }

    fn take(self: &Arc<World>, message: Value) {
        let Some(method) = message["method"].as_str().map(str::to_owned) else {
            return self.take_answer(&message);
        };
        let id = message["id"].clone();
        if !(id.is_string() || id.is_i64() || id.is_u64()) {
            return; // a notification, or an id that the real one ignores too
        }
        match self.fault(&method) {
            None => self.handle(&method, &id, &message),
            Some(Action::Hang) => {}
            Some(Action::Exit(code)) => std::process::exit(code),
            Some(Action::Refuse(code, message)) => self.out.refuse(&id, &Refusal { code, message }),
            Some(Action::Unknown) => self.out.refuse(&id, &requests::unknown(&method)),
            Some(Action::Delay(time)) => {
                let world = Arc::clone(self);
                thread::spawn(move || {
                    thread::sleep(time);
                    world.handle(&method, &id, &message);
                });
            }
            Some(Action::Overload(times)) => {
                let mut state = self.lock();
                state.overloads += 1;
                let over = state.overloads <= times;
                drop(state);
                if over {
                    let message = "Server overloaded; retry later.".to_owned();
                    return self.out.refuse(&id, &Refusal { code: -32001, message });
                }
                self.handle(&method, &id, &message);
            }
        }
    }

    fn fault(&self, method: &str) -> Option<Action> {
        let rules = self.options.rules.iter().filter(|_| self.faulty);
        let mut rules =
            rules.filter(|rule| rule.method == method || (rule.method == "*" && method != "initialize"));
        rules.next().map(|rule| rule.action.clone())
    }

    fn handle(self: &Arc<World>, method: &str, id: &Value, message: &Value) {
        let handled = match message.get("params") {
            Some(params) => requests::handle(self, method, id, params),
            None => Err(refusal("Invalid request: missing field `params`")),
        };
        match handled {
            Ok(Outcome::Now(result)) => self.out.answer(id, &result),
            Ok(Outcome::Then(result, then)) => {
                self.out.answer(id, &result);
                then(self);
            }
            Ok(Outcome::Later) => {}
            Err(refusal) => self.out.refuse(id, &refusal),
        }
    }

    /// An answer of the client to a request of ours; one that nobody waits for is ignored.
    fn take_answer(&self, message: &Value) {
        let pending = message["id"].as_u64().and_then(|id| Some((id, self.lock().requests.remove(&id)?)));
        if let Some((id, pending)) = pending {
            self.out
                .notify("serverRequest/resolved", json!({"threadId": pending.turn.thread, "requestId": id}));
            pending.turn.answered(id, message.clone());
        }
    }

    /// stdin has ended: what runs is recorded as interrupted, and nothing more is said.
    fn shut_down(&self) -> ExitCode {
        if self.options.ignore_eof {
            loop {
                thread::park();
            }
        }
        let mut state = self.lock();
        for loaded in state.threads.values_mut() {
            loaded.thread.interrupt_running(true);
            self.store.save(&loaded.thread);
        }
        // Other threads may still speak; they end with the process.
        ExitCode::SUCCESS
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Options {
    /// Runs the program again below a wrapper, as npm's `codex` does, or with TERM ignored; `None` if neither is wanted.
    fn wrap(&self, args: &[String]) -> Option<ExitCode> {
        let exe = std::env::current_exe().ok()?;
        let without = |flag: &str| args.iter().filter(move |arg| *arg != flag).cloned().collect::<Vec<_>>();
        let status = if self.wrapped {
            Command::new(exe).args(without("--wrapped")).status()
        } else if self.ignore_term {
            // An ignored signal stays ignored over `exec`; std alone cannot ignore one.
            let ignoring = r#"trap '' TERM; exec "$0" "$@""#;
            Command::new("sh").args(["-c", ignoring]).arg(exe).args(without("--ignore-term")).status()
        } else {
            return None;
        };
        Some(
            status
                .ok()
                .and_then(|status| status.code())
                .map_or(ExitCode::FAILURE, |code| ExitCode::from(code as u8)),
        )
    }
}

fn refusal(message: impl Into<String>) -> Refusal {
    Refusal { code: -32600, message: message.into() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
