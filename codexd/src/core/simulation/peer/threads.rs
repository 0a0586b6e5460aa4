//! What goes on in the child by itself: turns begin, say something, ask, and end.

use serde_json::{Value, json};

use super::{Past, Peer, Question, Running, Thread};
use crate::core::simulation::Random;

impl Peer {
    /// One of the threads goes on a little.
    pub(in crate::core::simulation) fn go_on(&mut self, random: &mut Random) {
        if self.hung {
            return;
        }
        let goes_on = |thread: &Thread| thread.running.is_some() || !thread.left.is_empty();
        let ids: Vec<_> = self.threads.iter().filter(|(_, t)| goes_on(t)).map(|(id, _)| id.clone()).collect();
        if let Some(id) = random.pick(&ids) {
            self.advance(&id.clone(), random);
        }
    }

    /// The child begins a turn by itself, as it does to compact a thread.
    pub(in crate::core::simulation) fn begin_unasked(&mut self, random: &mut Random) {
        let idle =
            |thread: &Thread| thread.subscribed && thread.running.is_none() && !thread.turns.is_empty();
        let ids: Vec<_> = self.threads.iter().filter(|(_, t)| idle(t)).map(|(id, _)| id.clone()).collect();
        let nothing_on_its_way = self.stdin.is_empty() && self.lines.is_empty() && self.late.is_empty();
        let Some(thread_id) = random.pick(&ids).filter(|_| !self.hung && nothing_on_its_way) else { return };
        self.seen.push("turn unasked");
        let id = self.id("turn");
        let thread = self.threads.get_mut(thread_id).unwrap();
        // Who asks for the newest turn does not see the one before.
        self.untold.extend(thread.turns.last().map(|past| past.id.clone()));
        thread.turns.push(Past { id: id.clone(), status: "inProgress", killed: false, mark: "own".into() });
        thread.running = Some(Running { unasked: true, begun: true, ..Running::new(&id, false) });
        self.say(thread_id, "turn/started", json!({"threadId": thread_id, "turn": {"id": id}}));
    }

    /// Everything that can go on does, a little.
    pub(in crate::core::simulation) fn all_go_on(&mut self, random: &mut Random) {
        for id in self.threads.keys().cloned().collect::<Vec<_>>() {
            self.advance(&id, random);
        }
    }

    fn advance(&mut self, thread_id: &str, random: &mut Random) {
        let Some(thread) = self.threads.get_mut(thread_id) else { return };
        if let Some((turn_id, item)) = thread.left.pop() {
            let item = json!({"id": item, "type": "commandExecution"});
            return self.item(thread_id, &turn_id, "item/completed", item);
        }
        let Some(turn) = &mut thread.running else { return };
        let id = turn.id.clone();
        if !turn.begun {
            turn.begun = true;
            return self.say(thread_id, "turn/started", json!({"threadId": thread_id, "turn": {"id": id}}));
        }
        if turn.ending {
            return self.end(thread_id, "interrupted");
        }
        // Nobody knows of a turn that nobody asked for and whose thread nobody has joined again.
        let nobody = self.healthy && turn.unasked && !thread.subscribed;
        if let Some(id) = turn.question.take_if(|_| nobody) {
            self.questions.remove(&id);
            return;
        }
        if turn.question.is_some() {
            return; // it waits for ever
        }
        if let Some((item, kind)) = turn.item.take_if(|_| random.one_in(2)) {
            return self.item(thread_id, &id, "item/completed", json!({"id": item, "type": kind}));
        }
        if self.healthy && turn.endless {
            return;
        }
        match random.below(if self.healthy { 4 } else { 16 }) {
            0..=2 if !turn.endless => {
                let status = if random.one_in(4) { "failed" } else { "completed" };
                self.end(thread_id, status);
            }
            4..=5 if turn.item.is_none() => {
                let kind = ["commandExecution", "fileChange", "agentMessage"][random.below(3) as usize];
                let item = self.id("item");
                self.threads.get_mut(thread_id).unwrap().running.as_mut().unwrap().item =
                    Some((item.clone(), kind));
                self.item(thread_id, &id, "item/started", json!({"id": item, "type": kind}));
            }
            6..=8 => self.question(thread_id, &id, random),
            9 => {
                self.say(thread_id, "thread/tokenUsage/updated", json!({"threadId": thread_id, "turnId": id}))
            }
            _ => {
                let detail = json!({"threadId": thread_id, "turnId": id, "itemId": "i", "delta": "x"});
                self.say(thread_id, "item/agentMessage/delta", detail);
            }
        }
    }

    fn item(&mut self, thread_id: &str, turn_id: &str, method: &str, item: Value) {
        self.say(thread_id, method, json!({"threadId": thread_id, "turnId": turn_id, "item": item}));
    }

    fn question(&mut self, thread_id: &str, turn_id: &str, random: &mut Random) {
        let methods = [
            "item/commandExecution/requestApproval",
            "item/fileChange/requestApproval",
            "item/tool/requestUserInput",
            "item/unheardOf",
        ];
        let id = self.next_question;
        self.next_question += 1;
        let method = methods[random.below(4) as usize];
        let question = Question { thread_id: thread_id.to_owned(), turn_id: turn_id.to_owned(), method };
        self.questions.insert(id, question);
        let thread = self.threads.get_mut(thread_id).unwrap();
        thread.running.as_mut().unwrap().question = Some(id);
        if thread.subscribed {
            self.ask(id);
        }
    }

    fn end(&mut self, thread_id: &str, status: &'static str) {
        let thread = self.threads.get_mut(thread_id).unwrap();
        let turn = thread.running.take().unwrap();
        let past = thread.turns.iter_mut().find(|past| past.id == turn.id).unwrap();
        past.status = status;
        if let Some((item, "commandExecution")) = turn.item {
            thread.left.push((turn.id.clone(), item));
        }
        let turn_json = json!({"id": turn.id, "status": status});
        self.say(thread_id, "turn/completed", json!({"threadId": thread_id, "turn": turn_json}));
        if let Some(id) = turn.question {
            self.questions.remove(&id);
            let detail = json!({"threadId": thread_id, "requestId": id});
            self.say(thread_id, "serverRequest/resolved", detail);
        }
    }

    /// A request that nobody will ever see any more is given up, as nothing but an interrupt would in earnest.
    pub(in crate::core::simulation) fn forget_question(&mut self, id: u64) {
        let Some(question) = self.questions.remove(&id) else { return };
        if let Some(turn) = self.threads.get_mut(&question.thread_id).and_then(|t| t.running.as_mut()) {
            turn.question = None;
        }
    }
}
