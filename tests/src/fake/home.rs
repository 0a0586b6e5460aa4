//! What outlives the process: threads with their turns, one file each, and the few lines of `config.toml` that matter.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::views;

/// Turns that a thread's file holds; older ones go. Enough for every scenario, and a file stays small.
const MAX_TURNS: usize = 50;

/// A thread as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Thread {
    pub(super) id: String,
    pub(super) cwd: String,
    pub(super) model: String,
    pub(super) provider: String,
    pub(super) approval: Value,
    pub(super) sandbox: Value,
    pub(super) effort: Value,
    pub(super) mode: Value,
    pub(super) originator: String,
    pub(super) name: Option<String>,
    pub(super) ephemeral: bool,
    pub(super) archived: bool,
    /// Whether it has had a turn or a name; before that it is not stored at all.
    pub(super) material: bool,
    pub(super) responses: u64,
    pub(super) created: u64,
    pub(super) updated: u64,
    pub(super) turns: Vec<TurnRecord>,
    /// The process that may write it: the name of a lock file.
    pub(super) writer: String,
}

/// A turn as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct TurnRecord {
    pub(super) id: String,
    pub(super) status: String,
    pub(super) items: Vec<Value>,
    pub(super) error: Value,
    pub(super) started_ms: u64,
    pub(super) ended_ms: Option<u64>,
}

impl Thread {
    /// What still runs will not go on: `interrupted`, with an end if it was an orderly one.
    pub(super) fn interrupt_running(&mut self, orderly: bool) {
        for turn in self.turns.iter_mut().filter(|turn| turn.status == "inProgress") {
            turn.status = "interrupted".into();
            turn.ended_ms = orderly.then(views::now_ms);
        }
    }

    pub(super) fn begin(&mut self, turn: &str) {
        self.material = true;
        let started_ms = views::now_ms();
        let record = TurnRecord {
            id: turn.to_owned(),
            status: "inProgress".into(),
            items: Vec::new(),
            error: Value::Null,
            started_ms,
            ended_ms: None,
        };
        self.turns.push(record);
        let surplus = self.turns.len().saturating_sub(MAX_TURNS);
        self.turns.drain(..surplus);
        self.updated = started_ms / 1000;
    }

    pub(super) fn record(&mut self, turn: &str) -> Option<&mut TurnRecord> {
        self.turns.iter_mut().rev().find(|record| record.id == turn)
    }
}

/// The folder of the threads. Without a `CODEX_HOME` nothing is stored: a fake has no business in the user's own.
pub(super) struct Store {
    home: Option<PathBuf>,
    writer: String,
    // Locked while this process lives; the system frees it, however the process ends.
    _lock: Option<File>,
}

impl Store {
    pub(super) fn open(home: Option<OsString>) -> Store {
        let home = home.map(PathBuf::from);
        let writer = format!("{}.writer", views::new_id());
        let lock = home.as_ref().and_then(|home| {
            let folder = home.join("fake-app-server");
            fs::create_dir_all(&folder).ok()?;
            let file = File::create(folder.join(&writer)).ok()?;
            file.lock().ok()?;
            Some(file)
        });
        Store { home, writer, _lock: lock }
    }

    /// Which start in this home this is, from 1 on.
    pub(super) fn count_start(&self) -> usize {
        let Some(file) = self.file("starts") else { return 1 };
        let before: usize =
            fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let _ = fs::write(&file, (before + 1).to_string());
        before + 1
    }

    pub(super) fn path(&self) -> String {
        self.home.as_deref().unwrap_or(Path::new("")).to_string_lossy().into_owned()
    }

    /// Where this process notes that a thread is its own.
    pub(super) fn writer(&self) -> &str {
        &self.writer
    }

    /// Writes a thread, if it is one that lasts.
    pub(super) fn save(&self, thread: &Thread) {
        let Some(file) = self.file(&format!("{}.json", thread.id)) else { return };
        if thread.material && !thread.ephemeral {
            let part = file.with_extension("part");
            let text = serde_json::to_string(thread).unwrap_or_default();
            let _ = fs::write(&part, text).and_then(|()| fs::rename(&part, &file)); // a full disk shows at the next read
        }
    }

    /// Reads a thread as one that nobody has loaded.
    pub(super) fn load(&self, id: &str) -> Option<Thread> {
        let text = fs::read_to_string(self.file(&format!("{id}.json"))?).ok()?;
        let mut thread: Thread = serde_json::from_str(&text).ok()?;
        thread.interrupt_running(false);
        Some(thread)
    }

    /// Whether another living process has it loaded.
    pub(super) fn is_taken(&self, thread: &Thread) -> bool {
        if thread.writer == self.writer || thread.writer.is_empty() {
            return false;
        }
        let file = self.file(&thread.writer).and_then(|file| File::open(file).ok());
        file.is_some_and(|file| file.try_lock().is_err())
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join("fake-app-server").join(name))
    }
}

/// The lines of `config.toml` that the fake knows; a real parser is not worth its weight here.
pub(super) struct Config {
    pub(super) model: String,
    pub(super) provider: String,
    pub(super) approval: String,
    pub(super) sandbox: String,
    pub(super) stream_retries: u32,
}

impl Config {
    pub(super) fn read(store: &Store) -> Config {
        let path = store.home.as_ref().map(|home| home.join("config.toml"));
        let text = path.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        let value = |key: &str, default: &str| {
            let lines = text.lines().filter_map(|line| line.split_once('='));
            let mut found =
                lines.filter(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().trim_matches('"'));
            found.next_back().unwrap_or(default).to_owned()
        };
        Config {
            model: value("model", "gpt-5.5"),
            provider: value("model_provider", "mock"),
            approval: value("approval_policy", "never"),
            sandbox: value("sandbox_mode", "read-only"),
            stream_retries: value("stream_max_retries", "0").parse().unwrap_or(0),
        }
    }
}
