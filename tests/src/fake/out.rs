//! The fake's stdout: whole lines, one at a time.

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Refusal, lock, views};

/// How long half a line stands alone.
const HALF: Duration = Duration::from_millis(100);

/// Writes messages; a reader that has gone is no error.
#[derive(Default)]
pub(super) struct Out {
    muted: Mutex<HashSet<String>>,
}

impl Out {
    /// Notifications of these names are not sent.
    pub(super) fn mute(&self, methods: &Value) {
        let methods = methods.as_array().into_iter().flatten().filter_map(Value::as_str);
        lock(&self.muted).extend(methods.map(str::to_owned));
    }

    pub(super) fn notify(&self, method: &str, params: Value) {
        if !lock(&self.muted).contains(method) {
            self.send(&json!({"method": method, "params": params, "emittedAtMs": views::now_ms()}));
        }
    }

    pub(super) fn answer(&self, id: &Value, result: &Value) {
        self.send(&json!({"id": id, "result": result}));
    }

    pub(super) fn refuse(&self, id: &Value, refusal: &Refusal) {
        self.send(&json!({"id": id, "error": {"code": refusal.code, "message": refusal.message}}));
    }

    pub(super) fn send(&self, message: &Value) {
        self.raw(&message.to_string());
    }

    /// A line as it is.
    pub(super) fn raw(&self, line: &str) {
        let line = format!("{line}\n");
        let _ = io::stdout().lock().write_all(line.as_bytes());
    }

    /// A line in two pieces, with nothing between them.
    pub(super) fn halves(&self, message: &Value) {
        let line = format!("{message}\n");
        let (first, second) = line.as_bytes().split_at(line.len() / 2);
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(first).and_then(|()| stdout.flush());
        thread::sleep(HALF);
        let _ = stdout.write_all(second);
    }
}
