//! Commands under an idempotency key: each runs once, and who asks again gets what it came to.
//!
//! The log knows the keys, `results` keeps what is told again. Knows nothing of how a command runs.

use std::thread;
use std::time::Duration;

use common::engine::STORAGE_RETRY;
use common::http::{Answer, LOOK_EVERY, Request};
use common::keys::Key;
use common::{Error, trace};
use serde_json::Value;

use super::exec::{self, Exec};
use super::{Caller, Union};
use crate::api::Node;
use crate::core::{CALL_DEADLINE, Call, Ended, Input, Reply};
use crate::results;

/// Beyond the time of the command itself: its processes are killed, its result is written.
const MARGIN: Duration = Duration::from_secs(5);

/// Runs the command, or tells what it came to when it ran.
///
/// # Errors
/// `conflict` for a key that was used with another body, whose command still runs after its time, or on a node that does
/// not lead; `too_many_requests` without room for one more; `storage_failed`. The command did not run then.
pub(super) fn run(
    node: &Node,
    request: &Request,
    caller: &Caller<'_>,
    exec: &Exec,
    key: Key,
) -> Result<Answer, Error> {
    let hash = key.hash.clone();
    match begin(node, request, exec, key)? {
        Reply::Begun => {}
        Reply::Finished => {
            let kept = results::read(&node.config.state_dir, &hash);
            return Ok(answer(kept.unwrap_or_else(|| exec::lost(exec).json())));
        }
        Reply::Lost | Reply::Done | Reply::Tasks(..) | Reply::Runs(..) => {
            return Ok(answer(exec::lost(exec).json()));
        }
    }
    let client = request.client();
    let ran = node.host.exec(caller, exec, &|| client.has_left());
    let (answered, ended) = match ran {
        Ok(union) => {
            let kept = keep(node, &hash, &union);
            (Ok(answer(union.json())), kept)
        }
        Err(error) => (Err(error), Ended::Refused),
    };
    if let Err(error) = node.ask(Call::EndExec { hash: hash.clone(), ended }) {
        trace::warn(Some(&request.id), format_args!("the end of a command is not written down yet: {error}"));
        write_down(node, hash, ended);
    }
    answered
}

/// Has the end of a command written down once that can be done, so that who asks again is not told that it runs. There are
/// no more of these threads than commands: without room on the disk none begins.
fn write_down(node: &Node, hash: String, ended: Ended) {
    let me = node.me.clone();
    let retry = move || {
        while let Some(node) = me.upgrade().filter(|node| !node.host.is_stopping()) {
            if node.ask(Call::EndExec { hash: hash.clone(), ended }).is_ok() {
                return;
            }
            drop(node);
            thread::sleep(STORAGE_RETRY);
        }
    };
    let started = thread::Builder::new().name("exec-end".to_string()).spawn(retry);
    if let Err(error) = started {
        trace::warn(None, format_args!("no thread for the end of a command: {error}")); // the next process settles it
    }
}

/// Whether the command is this caller's to run; if it runs already, once it has ended.
fn begin(node: &Node, request: &Request, exec: &Exec, key: Key) -> Result<Reply, Error> {
    let patience = exec.timeout() + MARGIN;
    let client = request.client();
    node.desk()?.ask_while(
        patience + CALL_DEADLINE + LOOK_EVERY,
        |id| Input::Call { id, call: Call::BeginExec { key, patience } },
        &|| client.has_left(),
        |id| Some(Input::Gone { id }),
    )
}

fn keep(node: &Node, hash: &str, union: &Union) -> Ended {
    match results::keep(&node.config.state_dir, hash, &exec::for_keeping(union.clone()).json()) {
        Ok(bytes) => Ended::Kept(bytes),
        Err(error) => {
            trace::warn(None, format_args!("the result of a command could not be kept: {error}"));
            Ended::Lost
        }
    }
}

fn answer(data: Value) -> Answer {
    Answer::Json { status: 200, data }
}
