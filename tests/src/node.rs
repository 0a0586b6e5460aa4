//! codexd and conductor as they run on a node: folders of their own, ports that the system chooses.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::codex::{Codex, write_home};
use crate::http::{get, post};
use crate::model::{Asked, Model};
use crate::process::{Daemon, Launch, Process};
use crate::temp::TempDir;
use crate::wait::{SOON, eventually};

/// A codexd with its child, all in one folder.
pub struct Node {
    /// The running daemon.
    pub codexd: Daemon,
    launch: Launch,
    model: Option<Model>,
    /// Everything that it writes, and its output.
    pub dir: TempDir, // the last to go
}

impl Node {
    /// Starts a codexd with that child and further arguments; panics if it does not come to listen.
    #[track_caller]
    pub fn start(codex: &Codex, args: &[&str]) -> Node {
        let dir = TempDir::new();
        let launch = Launch::of("codexd", dir.path());
        Node::with(codex, dir, launch, args)
    }

    /// The same with a codexd that is started in another way: `launch` is complete but for codexd's arguments.
    #[track_caller]
    pub fn with(codex: &Codex, dir: TempDir, launch: Launch, args: &[&str]) -> Node {
        Node::at("http://127.0.0.1:0", codex, dir, launch, args)
    }

    /// The same with a codexd that listens at `base`, in each of its lives.
    #[track_caller]
    pub fn at(base: &str, codex: &Codex, dir: TempDir, launch: Launch, args: &[&str]) -> Node {
        let home = dir.folder("home");
        let model = (*codex != Codex::Fake).then(|| Model::start(0, None));
        let model = model.map(|model| model.unwrap_or_else(|error| panic!("no model: {error}")));
        if let Some(model) = &model {
            write_home(&home, codex, &model.base_url(), 2);
        }
        let (program, child_args) = codex.command();
        let launch = launch
            .args(["start", "--local-api-base", base, "--repo-root"])
            .args([dir.path()])
            .args(["--server-command".into(), program.into_os_string()])
            .args(child_args.iter().flat_map(|arg| ["--server-arg", arg]))
            .args(args)
            .env("CODEX_HOME", home)
            .env("HOME", dir.path()); // commands run in a login shell: in that of nobody
        let codexd = Daemon::start(&launch);
        Node { codexd, launch, model, dir }
    }

    /// `kill -9` of codexd alone, and another one on the same folders.
    #[track_caller]
    pub fn crash(&mut self) {
        self.codexd.kill();
        self.codexd = Daemon::start(&self.launch);
    }

    /// The same, and the dead one: what it started lives on as long as that, unless the new one ends it.
    #[track_caller]
    pub fn replace(&mut self) -> Daemon {
        self.codexd.kill();
        let new = Daemon::start(&self.launch);
        std::mem::replace(&mut self.codexd, new)
    }

    /// Another codexd on the same folders, while there is none, that is killed when it has lived for so long: the dead one.
    #[track_caller]
    pub fn stillborn(&self, life: Duration) -> Process {
        let mut process = Process::start(&self.launch);
        std::thread::sleep(life);
        process.kill();
        process
    }

    /// Stops codexd in good order, and starts another one on the same folders.
    #[track_caller]
    pub fn restart(&mut self) {
        self.codexd.terminate(SOON);
        self.codexd = Daemon::start(&self.launch);
    }

    /// A URL of codexd.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.codexd.url())
    }

    /// What the model was asked, oldest first; nothing with the fake, which has none.
    pub fn model(&self) -> Vec<Asked> {
        self.model.as_ref().map(Model::asked).unwrap_or_default()
    }

    /// Waits until the child takes work.
    #[track_caller]
    pub fn ready(&self) {
        eventually("a child that is up", SOON, || (get(&self.url("/readyz")).status == 200).then_some(()));
    }

    /// `data` of the status.
    #[track_caller]
    pub fn status(&self) -> Value {
        get(&self.url("/v1/codexd/status")).data(200)
    }

    /// The number of the newest event.
    #[track_caller]
    pub fn latest(&self) -> u64 {
        self.status()["snapshot"]["disk"]["latestSeq"].as_u64().unwrap_or_else(|| panic!("no latestSeq"))
    }

    /// Makes a session that may do what it wants in the node's own folder, with further fields: its id.
    #[track_caller]
    pub fn session(&self, more: Value) -> String {
        let mut body = json!({"cwd": self.dir.path(), "sandbox": "danger-full-access"});
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        let made = post(&self.url("/v1/codexd/sessions"), &body).data(201);
        made["session"]["sessionId"].as_str().unwrap_or_else(|| panic!("no id: {made}")).to_owned()
    }

    /// What a session's read shows of it.
    #[track_caller]
    pub fn read(&self, session: &str) -> Value {
        get(&self.url(&format!("/v1/codexd/sessions/{session}"))).data(200)["session"].take()
    }

    /// Starts a turn: its id.
    #[track_caller]
    pub fn say(&self, session: &str, text: &str) -> String {
        let body = json!({"sessionId": session, "input": text});
        let taken = post(&self.url("/v1/codexd/turn"), &body).data(202);
        taken["turnId"].as_str().unwrap_or_else(|| panic!("no id: {taken}")).to_owned()
    }

    /// Waits for the end of a turn that is the session's newest: its status.
    #[track_caller]
    pub fn end(&self, session: &str, turn: &str, within: Duration) -> String {
        eventually("the end of a turn", within, || {
            let seen = self.read(session);
            assert_eq!(seen["lastTurnId"], turn, "{seen}");
            let status = seen["lastTurnStatus"].as_str().unwrap_or_default();
            (!matches!(status, "accepted" | "inProgress")).then(|| status.to_owned())
        })
    }

    /// A turn from start to completion.
    #[track_caller]
    pub fn turn(&self, session: &str, text: &str) -> String {
        let turn = self.say(session, text);
        assert_eq!(self.end(session, &turn, SOON), "completed");
        turn
    }

    /// The files of the log, oldest first.
    #[track_caller]
    pub fn segments(&self) -> Vec<PathBuf> {
        let folder = self.dir.path().join("logs/codexd");
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.retain(|path| name(path).starts_with("events") && name(path).ends_with(".jsonl"));
        files.sort_by_key(|path| (name(path) == "events.jsonl", name(path)));
        files
    }

    /// The whole lines of the log, oldest first.
    #[track_caller]
    pub fn lines(&self) -> Vec<String> {
        let text = |path| fs::read_to_string(path).unwrap_or_else(|error| panic!("the log: {error}"));
        let whole = |text: String| text.split_inclusive('\n').filter_map(whole_line).collect::<Vec<_>>();
        self.segments().into_iter().map(text).flat_map(whole).collect()
    }
}

/// A conductor before a codexd at `codexd`; its output and folders are in `dir`.
#[track_caller]
pub fn conductor(dir: &TempDir, codexd: &str) -> Daemon {
    Daemon::start(&conductor_launch(Launch::of("conductor", dir.path()), codexd))
}

/// The same, not yet started; `launch` is complete but for conductor's arguments.
pub fn conductor_launch(launch: Launch, codexd: &str) -> Launch {
    launch.args(["start", "--local-api", "http://127.0.0.1:0", "--codexd-local-api", codexd])
}

/// A status-api that looks at both; its output is in `dir`.
#[track_caller]
pub fn status_api(dir: &TempDir, conductor: &str, codexd: &str) -> Daemon {
    Daemon::start(&status_api_launch(Launch::of("status-api", dir.path()), conductor, codexd))
}

/// The same, not yet started; `launch` is complete but for status-api's arguments.
pub fn status_api_launch(launch: Launch, conductor: &str, codexd: &str) -> Launch {
    launch.args(["start", "--local-api", "http://127.0.0.1:0"]).args([
        "--conductor-local-api",
        conductor,
        "--codexd-local-api",
        codexd,
    ])
}

fn whole_line(line: &str) -> Option<String> {
    line.strip_suffix('\n').map(str::to_owned)
}
