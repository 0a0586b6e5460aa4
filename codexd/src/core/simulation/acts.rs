//! What happens next in a life, and how it comes to rest.

use serde_json::{Map, json};

use super::world::{Asked, World};
use super::*;
use crate::state::{Key, Outcome};
use common::time::Timestamp;

/// Sessions that calls are made on: few, so that things meet.
const NEWEST: usize = 5;

/// Something happens.
pub(super) fn act(world: &mut World) {
    match world.random.below(100) {
        0..=21 => call(world),
        22..=43 => world.hear(),
        44..=57 => world.peer.go_on(&mut world.random),
        58..=81 => world.deliver(),
        82..=91 => pass(world),
        92..=95 => world.deliver_exit(),
        96 => {
            if let Some((epoch, event)) = world.stale.pop_front() {
                world.count("stale line");
                world.input(Input::Child { epoch, event });
            }
        }
        97 => {
            if world.random.one_in(4 * world.calm) {
                world.count("death");
                world.death();
            }
        }
        98 => match world.random.below(6 * world.calm) {
            0 => {
                world.count("hang");
                world.peer.hung = true;
            }
            1 if world.stopping.is_none() => {
                world.stopping = Some(world.mono);
                world.input(Input::Stop("SIGTERM"));
            }
            _ => {}
        },
        _ => match world.random.below(4) {
            0 => world.leave(),
            3 => {
                // Nothing is on its way then, and codexd knows at once.
                world.commit();
                if world.core.live.requests.len() == 0 {
                    world.peer.begin_unasked(&mut world.random);
                }
                while !world.peer.lines.is_empty() && !world.peer.hung {
                    world.deliver();
                }
            }
            1 => {
                let (id, ..) = session(world);
                world.input(Input::TranscriptsOver(vec![(id, 1000)]));
            }
            _ => {
                let seq = world.disk.len() as Seq;
                world.input(Input::Checkpointed(seq));
            }
        },
    }
}

fn pass(world: &mut World) {
    let due = world.core.deadline().map(|at| (at.as_millis() as u64).saturating_sub(world.mono));
    let jump = match (world.random.below(12), due) {
        (0..=4, Some(due)) if due <= 2000 => due,
        (5, Some(due)) => due,
        (6, _) => 1000,
        (7, _) if world.random.one_in(8) => 21_000,
        (8, _) if world.random.one_in(8) => 70_000,
        (_, _) => world.random.below(60),
    };
    world.pass(jump);
}

fn session(world: &mut World) -> (String, Option<String>, Option<String>) {
    let of = |s: &Arc<Session>| {
        let turn = s.turn.as_ref().and_then(|turn| turn.id()).map(str::to_owned);
        (s.id.clone(), turn, s.last.as_ref().map(|last| last.id.clone()))
    };
    let newest: Vec<_> = world.core.state().sessions().rev().take(NEWEST).map(of).collect();
    match world.random.one_in(50) {
        true => ("session-none-1".into(), None, None),
        false => world.random.pick(&newest).cloned().unwrap_or_default(),
    }
}

/// One of a few keys of this hour, so that they meet.
fn key(world: &mut World, route: &str) -> Option<Key> {
    if !world.random.one_in(3) {
        return None;
    }
    let (hour, n) = (world.disk.len() / 200, world.random.below(5));
    let body = if world.random.one_in(10) { "other" } else { "body" };
    Some(Key { hash: format!("{route}-{hour}-{n}"), body: body.into() })
}

fn call(world: &mut World) {
    let due = world.mono + CALL_DEADLINE.as_millis() as u64;
    let asked = |kind, of: &str, key: Option<Key>| Asked { until: due, kind, of: of.to_owned(), key };
    match world.random.below(40) {
        0..=3 => create(world),
        4..=15 => turn(world),
        16..=18 => {
            let (id, ..) = session(world);
            world.call(asked("interrupt", &id, None), Call::Interrupt { id });
        }
        19 => {
            let (id, ..) = session(world);
            world.call(asked("close", &id, None), Call::Close { id });
        }
        20..=24 => {
            let (_, _, last) = session(world);
            let id = last.unwrap_or_else(|| "turn-none".into());
            let ms = [0, 300, 5000, 100_000][world.random.below(4) as usize];
            let kind = if ms == 0 { "read" } else { "wait" };
            let asked = Asked { until: world.mono + ms.max(1), kind, of: id.clone(), key: None };
            world.call(asked, Call::Turn { id, wait: Duration::from_millis(ms) });
        }
        25..=31 => answer(world),
        32 => world.call(asked("read", "", None), Call::Approvals),
        33 => world.call(asked("work", "", None), Call::Work(Work::Models)),
        34 => world.call(asked("read", "", None), Call::Status),
        35 => world.call(asked("read", "", None), Call::Readiness),
        36 => {
            let page = Page { open: Some(true), purpose: None, before: None, limit: 2 };
            world.call(asked("read", "", None), Call::Sessions(page));
        }
        _ => {
            let (id, ..) = session(world);
            world.call(asked("read", &id, None), Call::Session { id });
        }
    }
}

fn create(world: &mut World) {
    let params = json!({"ephemeral": world.random.one_in(6)}).as_object().unwrap().clone();
    // Without marks nobody can tell a turn that was lost on its way from the newest that was there before.
    let marks = world.peer.traits.marks_turns;
    let threads: Vec<_> = world.peer.threads.keys().filter(|_| marks).cloned().collect();
    let thread_id = match world.random.below(8) {
        0 | 1 => world.random.pick(&threads).cloned(),
        2 => Some("thread-none".to_owned()),
        _ => None,
    };
    let key = key(world, "create");
    let create =
        Create { purpose: "duplex".into(), metadata: Value::Null, thread_id, params, key: key.clone() };
    let until = world.mono + CALL_DEADLINE.as_millis() as u64;
    let asked = Asked { until, kind: "work", of: String::new(), key };
    world.call(asked, Call::Work(Work::Create(Box::new(create))));
}

fn turn(world: &mut World) {
    let (session_id, runs, last) = session(world);
    let steer = world.random.one_in(4);
    let stale = world.random.one_in(6);
    let expected_turn_id = if stale { last } else { runs }.filter(|_| steer);
    let timeout_ms = world.random.one_in(4).then(|| 1 + world.random.below(20_000));
    let key = key(world, "turn");
    let turn = StartTurn {
        session_id: session_id.clone(),
        input: json!([]),
        expected_turn_id,
        params: Map::new(),
        timeout_ms,
        key: key.clone(),
    };
    let until = world.mono + CALL_DEADLINE.as_millis() as u64;
    let asked = Asked { until, kind: "work", of: session_id, key };
    world.call(asked, Call::Work(Work::StartTurn(Box::new(turn))));
}

fn answer(world: &mut World) {
    let ids: Vec<_> =
        world.core.state().approvals().pending().map(|approval| approval.asked.approval_id.clone()).collect();
    let id = match world.random.one_in(10) {
        true => format!("approval-feedc0de-{}", world.random.below(world.disk.len() as u64 + 1)),
        false => world.random.pick(&ids).cloned().unwrap_or_else(|| "approval-none".into()),
    };
    let given = match world.random.below(6) {
        0 => Given::Decision("accept".into()),
        1 => Given::Decision("acceptWithExecpolicyAmendment".into()),
        2 => Given::Decision("decline".into()),
        3 => Given::Decision("cancel".into()),
        _ => Given::Answers(json!({"q": "yes"}).as_object().unwrap().clone()),
    };
    let until = world.mono + CALL_DEADLINE.as_millis() as u64;
    let asked = Asked { until, kind: "answer", of: id.clone(), key: None };
    world.call(asked, Call::Answer(Answer { id, given }));
}

/// Lets everything come to rest; then nobody waits, and both sides say the same.
pub(super) fn settle(world: &mut World) {
    /// Rounds of all that can move, then on to the next deadline; a life that needs more never rests.
    const ROUNDS: u32 = 1000;
    world.peer.healthy = true;
    world.peer.hung = false;
    for round in 0.. {
        let due = world.core.deadline();
        assert!(round < ROUNDS, "it comes to rest: due {due:?}, {}", world.peer.unrest());
        move_all(world);
        let due = world.core.deadline();
        if due.is_none() && world.peer.is_quiet() {
            break;
        }
        let due = due.map_or(1000, |at| (at.as_millis() as u64).saturating_sub(world.mono));
        world.pass(due.clamp(1, 1000));
    }
    at_rest(world);
    world.stopping = Some(world.mono);
    world.input(Input::Stop("SIGTERM"));
    for _ in 0..20 {
        move_all(world);
        if world.stopping.is_none() {
            return;
        }
        world.pass(1000);
    }
    panic!("it does not stop");
}

fn move_all(world: &mut World) {
    world.commit();
    world.deliver_exit();
    world.commit();
    for _ in 0..1000 {
        if world.peer.stdin.is_empty() && world.peer.lines.is_empty() && world.peer.late.is_empty() {
            break;
        }
        world.hear();
        world.deliver();
        world.commit();
    }
    world.peer.all_go_on(&mut world.random);
    for _ in 0..3 {
        world.deliver();
    }
    world.commit();
}

fn at_rest(world: &mut World) {
    assert!(world.waiting.is_empty(), "nobody waits for ever: {:?}", world.waiting.keys());
    world.model.at_rest(&world.peer.untold);
    let live = &world.core.live;
    let bounded = [
        ("interrupts", live.interrupts.len()),
        ("waiting", live.waiting.len()),
        ("doubts", live.doubts.len()),
        ("keyed", live.keyed.len()),
        ("parked", live.parked.len()),
        ("starting", live.starting.len()),
        ("requests", live.requests.len()),
    ];
    let runs = |seq: &Seq| world.core.by_seq(*seq).is_some_and(|session| session.turn.is_some());
    assert!(live.turn_deadlines.keys().all(runs), "a deadline is of a turn that runs");
    assert!(live.late_steers.values().all(|(session, _)| runs(session)), "only a turn that runs is steered");
    assert_eq!((live.approvals.deadline(), live.deltas.deadline()), (None, None), "nothing is due at rest");
    bounded.into_iter().for_each(|(what, left)| assert_eq!(left, 0, "{what} is empty at rest"));
    for key in world.model.keys() {
        let known = world.core.state().keys().get(key, Timestamp::from_millis(1_000_000 + world.mono));
        assert!(known.is_none_or(|known| known.outcome != Outcome::Asked), "what became of {key} is known");
    }
    for session in world.core.state().sessions() {
        let id = &session.id;
        let thread = world.peer.threads.get(&session.thread_id);
        let theirs = thread.and_then(|thread| thread.running.as_ref()).map(|turn| turn.id.as_str());
        let ours = session.turn.as_ref().and_then(|turn| turn.id());
        if session.open || ours.is_some() {
            assert_eq!(ours, theirs, "{id} agrees with the child");
        }
        let turn = session.turn.as_ref();
        assert!(turn.is_none_or(|turn| turn.interrupt.is_none()), "{id}: what is interrupted ends");
        assert!(turn.is_none_or(|turn| turn.timeout_ms.is_none()), "{id}: a turn has no more than its time");
        assert!(turn.is_none() || session.open, "{id} is closed, and its turn ends");
    }
    for (id, turn) in &world.model.turns {
        let past = world.peer.threads.values().flat_map(|thread| &thread.turns).find(|past| past.id == *id);
        let (Some(past), Some((ours, reason))) = (past, &turn.end) else { continue };
        // Nobody could be asked, or nobody could be believed.
        let unsettled = world.peer.untold.contains(id)
            || reason.contains("cannot tell its history")
            || world.peer.traits.killed != "interrupted";
        // An old one that somebody else restarted calls completed what was killed, and nobody saw it die.
        let lied = past.killed && ours == world.peer.traits.killed && world.peer.traits.external;
        let agrees = lied || ours == past.status || (ours == "interrupted" && unsettled);
        assert!(agrees, "{id} is {ours} ({reason}), and in the child {}", past.status);
    }
}
