//! What the model may ask for: a command, a patch, a question; and the approvals before the first two.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use super::turn::{Actor, Stop};
use super::{Pending, views};

/// What the user decides about a tool call.
enum Decision {
    Accept,
    Decline,
    /// An answer that is none.
    Invalid,
}

impl Actor<'_> {
    /// Sends a request to the client and waits for the whole answer message.
    pub(super) fn request(&self, method: &str, params: Value) -> Result<Value, Stop> {
        let mut state = self.world.lock();
        let id = state.next_request;
        state.next_request += 1;
        let message = json!({"method": method, "id": id, "params": params});
        state.requests.insert(id, Pending { turn: Arc::clone(self.turn), message: message.clone() });
        drop(state);
        self.world.out.send(&message);
        let mut answer = self.turn.wait_for(id)?;
        Ok(if answer.get("error").is_some() { answer["error"].take() } else { answer["result"].take() })
    }

    /// Runs a command; one that is still running when the turn is interrupted goes on by itself.
    pub(super) fn exec(&mut self, command: &str) -> Result<(), Stop> {
        let cwd = self.stored(|thread| thread.cwd.clone()).unwrap_or_default();
        let mut item = json!({
            "type": "commandExecution", "id": format!("call_{}", views::new_id()), "pluginId": null, "scriptPath": null,
            "command": format!("/bin/bash -lc '{command}'"), "cwd": cwd, "processId": null, "source": "agent",
            "status": "inProgress", "commandActions": [{"type": "unknown", "command": command}],
            "aggregatedOutput": null, "exitCode": null, "durationMs": null, "startedAtMs": views::now_ms(), "completedAtMs": null,
        });
        let asked = self.asks(command);
        if asked {
            let words = command.split_whitespace().collect::<Vec<_>>();
            let amendment = json!({"acceptWithExecpolicyAmendment": {"execpolicy_amendment": words}});
            let mut params = self.scope();
            for (key, value) in [
                ("kind", json!("command")),
                ("itemId", item["id"].clone()),
                ("startedAtMs", views::now_ms().into()),
                ("environmentId", json!("local")),
                ("command", item["command"].clone()),
                ("cwd", item["cwd"].clone()),
                ("commandActions", item["commandActions"].clone()),
                ("proposedExecpolicyAmendment", json!(words)),
                ("availableDecisions", json!(["accept", amendment, "cancel"])),
            ] {
                params[key] = value;
            }
            self.waiting("waitingOnApproval");
            self.item_started(&item);
            let decision = self.decide("item/commandExecution/requestApproval", params, command);
            if !matches!(decision, Ok(Decision::Accept)) {
                return self.not_run(item, decision);
            }
            self.active();
        }
        item["source"] = "unifiedExecStartup".into();
        self.run_command(command, &cwd, item, asked)
    }

    fn not_run(&mut self, mut item: Value, decision: Result<Decision, Stop>) -> Result<(), Stop> {
        let (status, why) = match decision {
            Ok(Decision::Invalid) => ("failed", "approval request failed"),
            Ok(_) | Err(Stop::Cancelled) => ("declined", "rejected by user"),
            // Interrupted without an answer: the item stays open.
            Err(stop) => return Err(stop),
        };
        item["status"] = status.into();
        self.item_completed(item);
        self.active();
        decision?;
        self.output =
            Some(format!("exec_command failed: CreateProcess {{ message: \"Rejected(\\\"{why}\\\")\" }}"));
        Ok(())
    }

    fn run_command(&mut self, command: &str, cwd: &str, mut item: Value, begun: bool) -> Result<(), Stop> {
        let began = Instant::now();
        let script = format!("exec 2>&1; {command}");
        let spawned = Command::new("sh")
            .args(["-c", &script])
            .current_dir(cwd)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        item["processId"] = json!(spawned.as_ref().map(|child| child.id().to_string()).ok());
        if !begun {
            self.item_started(&item);
        }
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                let output = format!("Failed to create unified exec process: {error}");
                item["status"] = "failed".into();
                item["exitCode"] = json!(-1);
                item["aggregatedOutput"] = output.as_str().into();
                self.item_completed(item);
                self.output = Some(output);
                return Ok(());
            }
        };
        // The number is the process's, far above those of requests: both kinds of answer share one table.
        let number = u64::MAX - u64::from(child.id());
        let (world, turn) = (Arc::clone(self.world), Arc::clone(self.turn));
        thread::spawn(move || {
            let actor = Actor::of(&world, &turn);
            let mut output = String::new();
            let lines = child.stdout.take().map(BufReader::new).into_iter();
            for line in lines.flat_map(|stdout| stdout.split(b'\n')).map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned() + "\n";
                // Like the real one, whose first chunk tends to miss.
                if !output.is_empty() {
                    let mut params = actor.scope();
                    params["itemId"] = item["id"].clone();
                    params["delta"] = line.as_str().into();
                    actor.notify("item/commandExecution/outputDelta", params);
                }
                output += &line;
            }
            let code = child.wait().ok().and_then(|status| status.code()).unwrap_or(-1);
            item["status"] = if code == 0 { "completed" } else { "failed" }.into();
            item["exitCode"] = code.into();
            item["aggregatedOutput"] = output.as_str().into();
            item["durationMs"] = (began.elapsed().as_millis() as u64).into();
            actor.item_completed(item);
            turn.answered(number, output.into());
        });
        let output = self.turn.wait_for(number)?;
        self.output = Some(output.as_str().unwrap_or_default().to_owned());
        Ok(())
    }

    /// Writes a new file of one line.
    pub(super) fn patch(&mut self, file: &str, line: &str) -> Result<(), Stop> {
        let cwd = self.stored(|thread| {
            (thread.cwd.clone(), thread.sandbox["type"] == "readOnly", thread.approval.clone())
        });
        let (cwd, read_only, policy) = cwd.unwrap_or_default();
        if read_only && policy == "never" {
            self.output = Some("patch rejected: writing is blocked by read-only sandbox".into());
            return Ok(()); // without any item
        }
        let path = Path::new(&cwd).join(file);
        let mut item = json!({
            "type": "fileChange", "id": format!("call_{}", views::new_id()),
            "changes": [{"path": path, "kind": {"type": "add"}, "diff": format!("{line}\n")}],
            "status": "inProgress", "startedAtMs": views::now_ms(), "completedAtMs": null,
        });
        self.item_started(&item);
        if policy == "untrusted" || (read_only && policy == "on-request") {
            let mut params = self.scope();
            params["itemId"] = item["id"].clone();
            params["startedAtMs"] = views::now_ms().into();
            (params["reason"], params["grantRoot"]) = (Value::Null, Value::Null);
            self.waiting("waitingOnApproval");
            let decision = self.decide("item/fileChange/requestApproval", params, file);
            if !matches!(decision, Err(Stop::Interrupted)) {
                self.active();
            }
            if !matches!(decision?, Decision::Accept) {
                item["status"] = "declined".into();
                self.item_completed(item);
                self.output = Some("patch rejected by user".into());
                return Ok(());
            }
        }
        let written = std::fs::write(&path, format!("{line}\n"));
        item["status"] = if written.is_ok() { "completed" } else { "failed" }.into();
        self.item_completed(item);
        let head =
            format!("diff --git a/{file} b/{file}\nnew file mode 100644\n--- /dev/null\n+++ b/{file}\n");
        self.diff = Some(format!("{head}@@ -0,0 +1 @@\n+{line}\n"));
        self.diff_updated();
        self.output = Some(format!("Success. Updated the following files:\nA {file}\n"));
        Ok(())
    }

    /// Asks the user something.
    pub(super) fn ask(&mut self, question: &str, choices: &[String]) -> Result<(), Stop> {
        if self.stored(|thread| thread.mode["mode"] != "plan").unwrap_or(true) {
            self.output = Some("request_user_input is unavailable in Default mode".into());
            return Ok(());
        }
        let options =
            choices.iter().map(|label| json!({"label": label, "description": label})).collect::<Vec<_>>();
        let question = json!({
            "id": "q1", "header": "Question", "question": question, "isOther": true, "isSecret": false, "options": options,
        });
        let mut params = self.scope();
        params["itemId"] = format!("call_{}", views::new_id()).into();
        params["questions"] = json!([question]);
        params["isBlocking"] = true.into();
        params["autoResolutionMs"] = Value::Null;
        self.waiting("waitingOnUserInput");
        let answer = self.request("item/tool/requestUserInput", params)?;
        self.active();
        self.output = Some(answer.to_string());
        Ok(())
    }

    fn asks(&self, command: &str) -> bool {
        let state = self.world.lock();
        let loaded = state.threads.get(&self.turn.thread);
        loaded
            .is_some_and(|loaded| loaded.thread.approval == "untrusted" && !loaded.allowed.contains(command))
    }

    /// Asks for an approval; a `cancel` stops the turn.
    fn decide(&self, method: &str, params: Value, what: &str) -> Result<Decision, Stop> {
        let answer = self.request(method, params)?;
        let decision = &answer["decision"];
        match decision.as_str() {
            Some("accept") => Ok(Decision::Accept),
            Some("acceptForSession") => {
                let mut state = self.world.lock();
                if let Some(loaded) = state.threads.get_mut(&self.turn.thread) {
                    loaded.allowed.insert(what.to_owned());
                }
                Ok(Decision::Accept)
            }
            None if decision["acceptWithExecpolicyAmendment"].is_object() => Ok(Decision::Accept),
            Some("decline") => Ok(Decision::Decline),
            Some("cancel") => Err(Stop::Cancelled),
            _ => Ok(Decision::Invalid),
        }
    }

    fn waiting(&self, flag: &str) {
        self.status(json!({"type": "active", "activeFlags": [flag]}));
    }
}
