//! Who is asked how it is: conductor and codexd, both at once, and what each said last.
//!
//! A source that is down costs its deadline and nothing more. Whoever asks while an answer is fresh gets that one, so many
//! browsers cost one call; nobody asks when nobody looks. Knows the paths of both daemons, and not what is shown.

use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::client::agent;
use common::codexd_api::{APPROVALS, STATUS};
use common::config::LocalUrl;
use common::time::Timestamp;
use common::wire::{MAX_ELEMENTS, Object, extent};
use serde_json::{Value, json};
use ureq::Agent;

use crate::config::Config;
use crate::view;

/// A source is on this machine: it takes the connection at once, or it is not there.
const CONNECT: Duration = Duration::from_millis(250);
/// All that a source is asked for one status, together: a page that waits longer looks dead itself.
const ANSWER: Duration = Duration::from_millis(1000);
/// An answer that old is given again: two looks of one page are further apart.
const FRESH: Duration = Duration::from_millis(500);
/// One answer of a source. codexd's status has 8 MiB of sessions at the most, and a little more.
const MAX_ANSWER_BYTES: u64 = 16 * 1024 * 1024;
/// What a source says of its refusal is shown up to here.
const MAX_REASON_BYTES: usize = 512;
/// It parses JSON of bounded depth.
const STACK_BYTES: usize = 512 * 1024;

const RUNTIME: &str = "/v1/runtime";
const SYSTEM: &str = "/v1/system/state";
/// The newest of each kind; what runs is never more than this.
const TASKS: [&str; 5] = [
    "/v1/tasks?status=running&limit=20",
    "/v1/tasks?status=queued&limit=20",
    "/v1/tasks?status=failed&limit=10",
    "/v1/tasks?status=completed&limit=10",
    "/v1/tasks?status=canceled&limit=10",
];
const RUNS: &str = "/v1/runs?limit=20";

/// Where to ask, and what was heard last.
pub(crate) struct Sources {
    conductor: Source,
    codexd: Source,
    heard: Mutex<Heard>,
}

struct Heard {
    at: Option<Instant>,
    conductor: Part,
    codexd: Part,
    queue: Part,
}

/// What is known of one part of the node, and why that is not new, if it is not.
struct Part {
    facts: Object,
    at: Option<Instant>,
    error: Option<String>,
}

impl Sources {
    pub(crate) fn new(config: &Config) -> Sources {
        let authorization = config.token.as_ref().map(|token| token.authorization());
        let (conductor, codexd) = (config.conductor.clone(), config.codexd.clone());
        let agent = agent();
        let heard = Heard {
            at: None,
            conductor: Part::new(&["base_url", "runtime", "system"]),
            codexd: Part::new(view::CODEXD),
            queue: Part::new(view::QUEUE),
        };
        Sources {
            conductor: Source {
                variable: "BAA_CONDUCTOR_LOCAL_API",
                base: conductor,
                authorization,
                agent: agent.clone(),
            },
            codexd: Source {
                variable: "BAA_CODEXD_LOCAL_API_BASE",
                base: codexd,
                authorization: None,
                agent,
            },
            heard: Mutex::new(heard),
        }
    }

    /// How all of it is now. Others who ask meanwhile wait, and get the same.
    pub(crate) fn status(&self) -> Value {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.at.is_none_or(|at| at.elapsed() >= FRESH) {
            self.ask(&mut heard);
        }
        json!({
            "at": Timestamp::now(),
            "version": env!("CARGO_PKG_VERSION"),
            "conductor": heard.conductor.view(),
            "codexd": heard.codexd.view(),
            "queue": heard.queue.view(),
        })
    }

    fn ask(&self, heard: &mut Heard) {
        let (codexd, (conductor, queue)) = thread::scope(|scope| {
            let builder = thread::Builder::new().name("source".to_string()).stack_size(STACK_BYTES);
            let asking = builder.spawn_scoped(scope, || codexd(&self.codexd));
            let front = front(&self.conductor);
            let codexd = match asking.map(thread::ScopedJoinHandle::join) {
                Ok(Ok(codexd)) => codexd,
                Ok(Err(_)) => Err("its answer made status-api panic; the log says how".to_string()),
                Err(error) => Err(format!("no thread to ask it: {error}")),
            };
            (codexd, front)
        });
        heard.conductor.hear(conductor);
        heard.codexd.hear(codexd);
        heard.queue.hear(queue);
        heard.at = Some(Instant::now());
    }
}

impl Part {
    fn new(keys: &[&str]) -> Part {
        let facts = keys.iter().map(|key| ((*key).to_string(), Value::Null)).collect();
        Part { facts, at: None, error: None }
    }

    /// Facts replace those of the same name; after an error the last ones stay, and grow old.
    fn hear(&mut self, heard: Result<Object, String>) {
        match heard {
            Ok(facts) => {
                self.facts.extend(facts);
                (self.at, self.error) = (Some(Instant::now()), None);
            }
            Err(error) => self.error = Some(error),
        }
    }

    fn view(&self) -> Value {
        let mut view = self.facts.clone();
        let age = self.at.map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX));
        view.insert("ok".to_string(), json!(self.error.is_none()));
        view.insert("age_ms".to_string(), json!(age));
        view.insert("error".to_string(), json!(self.error));
        Value::Object(view)
    }
}

/// A daemon that is asked.
struct Source {
    /// Which setting says where it is.
    variable: &'static str,
    base: Option<LocalUrl>,
    authorization: Option<String>,
    agent: Agent,
}

/// One round of questions to a source, with one deadline.
struct Round<'a> {
    source: &'a Source,
    base: &'a LocalUrl,
    until: Instant,
}

impl Source {
    fn round(&self) -> Result<Round<'_>, String> {
        let base = self.base.as_ref().ok_or_else(|| format!("{} is not configured", self.variable))?;
        Ok(Round { source: self, base, until: Instant::now() + ANSWER })
    }
}

impl Round<'_> {
    /// `data` of the answer; `None` if there is no such route.
    fn get(&self, path: &str) -> Result<Option<Value>, String> {
        let url = format!("{}{path}", self.base);
        let failed = |error: &dyn std::fmt::Display| format!("no answer from {url}: {error}");
        let left = self.until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let mut request = self.source.agent.get(&url);
        if let Some(authorization) = &self.source.authorization {
            request = request.header("authorization", authorization);
        }
        let request = request.config().timeout_connect(Some(CONNECT.min(left))).timeout_global(Some(left));
        let mut response = request.build().call().map_err(|error| failed(&error))?;
        let mut text = Vec::new();
        let read = response.body_mut().as_reader().take(MAX_ANSWER_BYTES + 1).read_to_end(&mut text);
        read.map_err(|error| failed(&error))?;
        if text.len() as u64 > MAX_ANSWER_BYTES || extent(&text).elements > MAX_ELEMENTS {
            return Err(format!("the answer of {url} is over its bound"));
        }
        let mut answer: Value = serde_json::from_slice(&text).unwrap_or_default();
        match (response.status().as_u16(), &answer["data"]) {
            (404, _) => Ok(None),
            (200..=299, Value::Object(_)) => Ok(Some(answer["data"].take())),
            (status, _) => {
                let why = answer["message"].as_str().unwrap_or("no data");
                let why = &why[..why.floor_char_boundary(MAX_REASON_BYTES)];
                Err(format!("{url} answers HTTP {status}: {why}"))
            }
        }
    }

    /// The same for a route without which nothing is known.
    fn need(&self, path: &str) -> Result<Value, String> {
        self.get(path)?.ok_or_else(|| format!("{}{path} is not there", self.base))
    }

    fn base_url(&self) -> Value {
        json!(self.base.to_string())
    }
}

/// conductor's own facts, and those of its queue.
fn front(source: &Source) -> (Result<Object, String>, Result<Object, String>) {
    let asked = source.round().and_then(|round| Ok((round.need(RUNTIME)?, round)));
    let (runtime, round) = match asked {
        Ok(asked) => asked,
        Err(error) => return (Err(error.clone()), Err(error)),
    };
    let system = round.need(SYSTEM);
    let mut facts = Object::from_iter([("base_url".into(), round.base_url()), ("runtime".into(), runtime)]);
    facts.extend(system.as_ref().ok().map(|system| ("system".to_string(), system.clone())));
    let queue = |system: Value| {
        let tasks = TASKS.iter().filter_map(|path| round.get(path).transpose());
        Ok(view::queue(&system, &tasks.collect::<Result<Vec<_>, _>>()?, round.get(RUNS)?.as_ref()))
    };
    (Ok(facts), system.and_then(queue))
}

fn codexd(source: &Source) -> Result<Object, String> {
    let round = source.round()?;
    let (status, approvals) = (round.need(STATUS)?, round.get(APPROVALS)?);
    let mut facts = view::codexd(&status, approvals.as_ref());
    facts.insert("base_url".into(), round.base_url());
    Ok(facts)
}
