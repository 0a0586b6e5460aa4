//! Host operations: commands and files of this machine, for whoever has the token.
//!
//! Owns how many run at once, their audit, and the union that tells what became of each: what happens past the gate is no
//! HTTP status. Knows nothing of tasks.

mod audit;
mod command;
pub(crate) mod exec;
mod files;
mod leftovers;
mod once;
#[cfg(test)]
pub(crate) mod tests;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::{env, fs};

use common::error::TOO_MANY_REQUESTS;
use common::http::{Answer, Request};
use common::keys::Key;
use common::wire::{Field, Object};
use common::{Error, wire};
use serde_json::{Value, json};

pub(crate) use audit::{Caller, MAX_AUDITS_BYTES};
pub(crate) use exec::{Exec, MAX_COMMAND_BYTES};
pub(crate) use files::{ReadFile, WriteFile};

use crate::api::Node;
use crate::codex::forward;
use crate::config::{Config, Token};
use audit::{Audit, Call};
use leftovers::Leftovers;

/// Commands at once: each is a process group and a thread, and the machine is small.
const MAX_EXECS: usize = 16;
/// Files at once: each is in memory as a whole, several times while it becomes an answer.
const MAX_FILES: usize = 4;
/// The longest path that systems take.
const MAX_PATH_BYTES: usize = 4096;
/// Folders below the home that macOS opens to nobody whom its user has not allowed it.
const PROTECTED: [&str; 3] = ["Desktop", "Documents", "Downloads"];

/// What `data` of each host operation holds.
pub(crate) const UNION: &[Field] = common::fields![
    required "ok": boolean, "Whether it was done.";
    required "operation": one_of("exec", "files/read", "files/write"), "What was asked.";
    required "input": object, "What it was asked with, defaults filled in; of a content its size.";
    required "result": object, "What came of it; the same keys, empty, if nothing did.";
    optional "error": object, "If it was not done: code, message, retryable, details.";
];

/// What the documents show of a command's body.
pub(crate) const EXEC_EXAMPLE: &str = r#"{"command":"uname -a","timeoutMs":5000}"#;
/// And of a read's.
pub(crate) const READ_EXAMPLE: &str = r#"{"path":"/etc/hosts"}"#;
/// And of a write's.
pub(crate) const WRITE_EXAMPLE: &str = r#"{"path":"baa-example.txt","cwd":"/tmp","content":"hello\n"}"#;

/// What host operations share.
pub(crate) struct Host {
    audit: Audit,
    execs: Seats,
    files: Seats,
    /// What the outputs of all commands take in memory.
    outputs: AtomicUsize,
    stopping: AtomicBool,
    /// What a conductor that was killed left running.
    pub(crate) leftovers: Leftovers,
    token: Option<Token>,
    /// Where macOS protects folders; `None` on other systems.
    protected_home: Option<PathBuf>,
}

impl Host {
    pub(crate) fn new(config: &Config) -> Host {
        let home = env::var_os("HOME").map(PathBuf::from);
        Host {
            audit: Audit::new(&config.logs_dir),
            execs: Seats { most: MAX_EXECS, taken: AtomicUsize::new(0) },
            files: Seats { most: MAX_FILES, taken: AtomicUsize::new(0) },
            outputs: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            leftovers: Leftovers::new(&config.state_dir),
            token: config.token.clone(),
            protected_home: home.filter(|_| cfg!(target_os = "macos")),
        }
    }

    /// Commands that run now.
    pub(crate) fn execs(&self) -> usize {
        self.execs.taken.load(Ordering::Relaxed)
    }

    /// Ends the commands that run; each caller is told.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Runs a command for somebody, until `gone` says that nobody waits for it.
    ///
    /// # Errors
    /// `too_many_requests`, `storage_failed`: nothing ran then.
    pub(crate) fn exec(
        &self,
        caller: &Caller<'_>,
        exec: &Exec,
        gone: &dyn Fn() -> bool,
    ) -> Result<Union, Error> {
        self.exec_until(caller, exec, &|| gone() || self.is_stopping())
    }

    /// Runs a command until `gone` alone says that nobody waits for it, also while the process stops.
    ///
    /// # Errors
    /// As `exec`.
    pub(crate) fn exec_until(
        &self,
        caller: &Caller<'_>,
        exec: &Exec,
        gone: &dyn Fn() -> bool,
    ) -> Result<Union, Error> {
        let place = folder(exec.cwd.as_deref()).ok();
        let call = self.audit.call(caller, exec::OPERATION, &exec.command, place.as_deref());
        let _seat = self.execs.take(&call, "commands")?;
        call.begin()?;
        Ok(ended(&call, exec::run(self, exec, gone)))
    }

    fn read(&self, caller: &Caller<'_>, read: &ReadFile) -> Result<Union, Error> {
        let place = folder(read.cwd.as_deref()).ok();
        let call = self.audit.call(caller, files::READ, &read.path, place.as_deref());
        let _seat = self.files.take(&call, "files")?;
        let union = files::read(self, read);
        call.tell(union.outcome())?;
        Ok(union)
    }

    fn write(&self, caller: &Caller<'_>, write: &WriteFile) -> Result<Union, Error> {
        let place = folder(write.cwd.as_deref()).ok();
        let call = self.audit.call(caller, files::WRITE, &write.path, place.as_deref());
        let _seat = self.files.take(&call, "files")?;
        call.begin()?;
        Ok(ended(&call, files::write(self, write)))
    }

    /// The union for a body that says nothing that could be done; `subject` is the field that would say what.
    fn invalid(
        &self,
        caller: &Caller<'_>,
        shape: &Shape,
        subject: &str,
        given: &Object,
        fault: Fault,
    ) -> Union {
        let text = |name: &str| given.get(name).and_then(Value::as_str);
        let place = text("cwd").map(Path::new);
        let call = self.audit.call(caller, shape.operation, text(subject).unwrap_or_default(), place);
        let input = given_input(shape.fields, given);
        let union = Union { operation: shape.operation, input, result: (shape.empty)(), error: Some(fault) };
        ended(&call, union)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Whether macOS may withhold this folder, whatever its mode says.
    fn protects(&self, folder: &Path) -> bool {
        let real = fs::canonicalize(folder);
        let real = real.as_deref().unwrap_or(folder);
        let home = self.protected_home.as_deref();
        home.is_some_and(|home| PROTECTED.iter().any(|name| real.starts_with(home.join(name))))
    }

    /// What an error of the file system means to the caller who works in `cwd`.
    fn fault_of(&self, error: &io::Error, path: &Path, cwd: &Path) -> Fault {
        let code = match error.kind() {
            ErrorKind::NotFound => "FILE_NOT_FOUND",
            ErrorKind::NotADirectory => "NOT_A_DIRECTORY",
            ErrorKind::IsADirectory => "NOT_A_FILE",
            ErrorKind::AlreadyExists => "FILE_ALREADY_EXISTS",
            ErrorKind::PermissionDenied if self.protects(cwd) => "TCC_PERMISSION_DENIED",
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "PERMISSION_DENIED",
            ErrorKind::InvalidFilename | ErrorKind::InvalidInput => "INVALID_INPUT",
            _ => "FILE_FAILED",
        };
        let retryable = code == "FILE_FAILED"; // no room, or the disk: what passes
        Fault { retryable, ..Fault::new(code, format!("{}: {error}.", path.display())) }
            .with(json!({ "path": path }))
    }
}

/// Writes the last line of a call.
fn ended(call: &Call<'_>, union: Union) -> Union {
    call.end(union.outcome());
    union
}

/// What the three operations differ in before anything is done.
struct Shape {
    operation: &'static str,
    fields: &'static [Field],
    empty: fn() -> Object,
}

const EXEC: Shape = Shape { operation: exec::OPERATION, fields: Exec::FIELDS, empty: exec::empty };
const READ: Shape = Shape { operation: files::READ, fields: ReadFile::FIELDS, empty: files::empty_read };
const WRITE: Shape = Shape { operation: files::WRITE, fields: WriteFile::FIELDS, empty: files::empty_write };

/// `POST /v1/exec`.
pub(crate) fn exec(node: &Node, request: &Request) -> Result<Answer, Error> {
    let given = forward(Exec::FIELDS, request.object()?);
    let (caller, client) = (caller(request), request.client());
    let union = match (Exec::read(&given), Key::of(request, "exec", Exec::FIELDS, &given)?) {
        (Ok(exec), Some(key)) => return once::run(node, request, &caller, &exec, key),
        (Ok(exec), None) => node.host.exec(&caller, &exec, &|| client.has_left())?,
        (Err(fault), _) => node.host.invalid(&caller, &EXEC, "command", &given, fault),
    };
    Ok(union.answer())
}

/// `POST /v1/files/read`.
pub(crate) fn read(node: &Node, request: &Request) -> Result<Answer, Error> {
    let given = forward(ReadFile::FIELDS, request.object()?);
    let caller = caller(request);
    let union = match ReadFile::read(&given) {
        Ok(read) => node.host.read(&caller, &read)?,
        Err(fault) => node.host.invalid(&caller, &READ, "path", &given, fault),
    };
    Ok(union.answer())
}

/// `POST /v1/files/write`.
pub(crate) fn write(node: &Node, request: &Request) -> Result<Answer, Error> {
    let given = forward(WriteFile::FIELDS, request.object()?);
    let caller = caller(request);
    let union = match WriteFile::read(&given) {
        Ok(write) => node.host.write(&caller, &write)?,
        Err(fault) => node.host.invalid(&caller, &WRITE, "path", &given, fault),
    };
    Ok(union.answer())
}

fn caller(request: &Request) -> Caller<'_> {
    Caller { request_id: &request.id, peer: request.peer.to_string() }
}

/// What became of an operation.
#[derive(Clone)]
pub(crate) struct Union {
    operation: &'static str,
    input: Value,
    result: Object,
    error: Option<Fault>,
}

impl Union {
    /// `ok`, or the code of its error.
    pub(crate) fn outcome(&self) -> &'static str {
        self.error.as_ref().map_or("ok", |fault| fault.code)
    }

    /// As it stands under `data`.
    pub(crate) fn json(self) -> Value {
        let mut union =
            json!({ "ok": self.error.is_none(), "operation": self.operation, "input": self.input });
        union["result"] = Value::Object(self.result);
        if let Some(Fault { code, message, retryable, details }) = self.error {
            union["error"] =
                json!({ "code": code, "message": message, "retryable": retryable, "details": details });
        }
        union
    }

    fn answer(self) -> Answer {
        Answer::Json { status: 200, data: self.json() }
    }
}

/// Why an operation was not done, or not to its end.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// Of section "Host operations" of the contract.
    code: &'static str,
    message: String,
    /// Whether the same call may do better later.
    retryable: bool,
    details: Value,
}

impl Fault {
    fn new(code: &'static str, message: impl Into<String>) -> Fault {
        Fault { code, message: message.into(), retryable: false, details: Value::Null }
    }

    /// A field that is wrong: `what` follows its name.
    fn invalid(field: &str, what: &str) -> Fault {
        wire::invalid(field, format!("Field `{field}` {what}.")).into()
    }

    fn with(self, details: Value) -> Fault {
        Fault { details, ..self }
    }
}

/// A body that does not fit its table.
impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::new("INVALID_INPUT", error.message).with(json!(error.details))
    }
}

/// Takes a text that can be given to the system: not empty, and without a zero, where texts end there.
fn plain(field: &str, text: Option<&str>) -> Result<(), Fault> {
    match text {
        Some("") => Err(Fault::invalid(field, "is empty")),
        Some(text) if text.contains('\0') => Err(Fault::invalid(field, "contains a zero byte")),
        _ => Ok(()),
    }
}

/// The folder that a call is meant in, absolute: its own, below that of the daemon, or that of the daemon.
fn folder(cwd: Option<&str>) -> Result<PathBuf, Fault> {
    std::path::absolute(cwd.unwrap_or(".")).map_err(|error| {
        Fault::new("FILE_NOT_FOUND", format!("The daemon's own folder cannot be found: {error}."))
    })
}

/// The fields as they were given; a content is told by its size.
fn given_input(fields: &[Field], given: &Object) -> Value {
    let shown = |field: &Field| {
        let value = given.get(field.name);
        match field.name {
            "content" => ("contentBytes", json!(value.and_then(Value::as_str).map(str::len))),
            name => (name, value.cloned().unwrap_or_default()),
        }
    };
    Value::Object(wire::object_of(fields.iter().map(shown)))
}

/// How many of a kind may be at work.
struct Seats {
    most: usize,
    taken: AtomicUsize,
}

impl Seats {
    /// Takes one, if there is one left.
    ///
    /// # Errors
    /// `too_many_requests`.
    fn take(&self, call: &Call<'_>, what: &str) -> Result<Seat<'_>, Error> {
        let seat = Seat(&self.taken);
        if self.taken.fetch_add(1, Ordering::SeqCst) < self.most {
            return Ok(seat);
        }
        call.end(&TOO_MANY_REQUESTS.name);
        let message = format!("{} {what} are being worked on, which is the bound.", self.most);
        Err(Error::new(TOO_MANY_REQUESTS, message).header("Retry-After", "1"))
    }
}

struct Seat<'a>(&'a AtomicUsize);

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
