//! `kill -9` of conductor, of codexd and of its child at random moments: every task is done, no step whose end is recorded
//! is done twice, and where a kill fell into a step the task says so.
//!
//! `BAA_TORTURE_SEED` draws the same moments again.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::codex::Codex;
use e2e::figures;
use e2e::node::Node;
use e2e::process::kill_pid;
use e2e::random::Random;
use e2e::wait::eventually;
use serde_json::{Value, json};

use super::{Conductor, codex, count, exec, pair};
use crate::torture::done;

/// Kills of each of the three; as many tasks come in meanwhile.
const ROUNDS: u64 = 10;
/// All of it.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Conductor,
    Codexd,
    Child,
}

fn kill(victim: Victim, node: &mut Node, conductor: &mut Conductor) {
    match victim {
        Victim::Conductor => conductor.crash(),
        Victim::Codexd => node.crash(),
        Victim::Child => {
            let pid = node.status()["snapshot"]["daemon"]["child"]["pid"].as_u64();
            pid.into_iter().for_each(|pid| kill_pid(pid as u32));
        }
    }
}

/// One task more, whoever dies while it is submitted.
fn submit(conductor: &Conductor, number: u64, effects: &Path) -> String {
    let talk = "[[say-slow 20 one two three four five six]]";
    let command = format!("sleep 0.1; echo task-{number}-1 >> {}", effects.display());
    let steps = json!([
        codex(&format!("task-{number}-0 {talk}")),
        exec(&command),
        codex(&format!("task-{number}-2 {talk}"))
    ]);
    let body = json!({ "steps": steps, "cwd": effects.parent(), "sandbox": "danger-full-access" });
    let answer = conductor.ask("tasks", &body, &format!("torture-{number}")).unwrap();
    answer.data(201)["task"]["task_id"].as_str().unwrap().to_owned()
}

fn torture(codex: Codex) {
    let seed = Random::seed("BAA_TORTURE_SEED");
    let name = if codex == Codex::Fake { "the fake" } else { "the real CLI" };
    figures::print(&format!("torture of tasks with {name}: BAA_TORTURE_SEED={seed}"));
    let (begun, mut random) = (Instant::now(), Random::new(seed));
    let child: &[&str] = if codex == Codex::Fake {
        &["--server-arg", "--on", "--server-arg", "turn/start=delay:10"]
    } else {
        &[]
    };
    let (mut node, mut conductor) = pair(&codex, child, &["--max-active-runs", "4"]);
    let effects = node.dir.folder("work").join("effects");
    let (mut tasks, mut busy) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        // In one order or another, and each time all of them: codexd sees no crash loop.
        let mut victims = vec![Victim::Conductor, Victim::Codexd, Victim::Child];
        for at in 0..3 {
            tasks.push(submit(&conductor, 3 * round + at, &effects));
            std::thread::sleep(Duration::from_millis(random.below(500)));
            busy += u64::from(conductor.system()["active_runs"] != 0);
            let victim = victims.swap_remove(random.below(victims.len() as u64) as usize);
            kill(victim, &mut node, &mut conductor);
        }
    }
    let ended: Vec<Value> = tasks.iter().map(|id| conductor.becomes(id, "completed", LIMIT)).collect();
    let (ran, mut asked, mut again) = (done(&node, &codex), BTreeMap::new(), 0);
    ran.iter().for_each(|(text, count)| *asked.entry(text.split(' ').next().unwrap()).or_default() += count);
    for (number, task) in ended.iter().enumerate() {
        let steps = task["result"]["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 3, "{task:#}");
        let runs = conductor.runs(&tasks[number]);
        let mut cut_off = 0;
        for (index, step) in steps.iter().enumerate() {
            let marker = format!("task-{number}-{index}");
            let done =
                if index == 1 { count(&effects, &marker) } else { asked.get(&*marker).copied().unwrap_or(0) };
            let told = step["times_cut_off"].as_u64().unwrap();
            assert!(
                (1..=1 + told).contains(&done),
                "{marker}: {done} times, cut off {told}: {task:#}\n{runs:#?}"
            );
            (cut_off, again) = (cut_off + told, again + done - 1);
        }
        let (last, before) = runs.split_last().unwrap();
        assert_eq!((&last["status"], &task["failures"]), (&json!("completed"), &json!(0)), "{runs:#?}");
        assert!(before.iter().all(|run| run["status"] == "interrupted"), "{runs:#?}");
        assert!(cut_off <= before.len() as u64, "each has a run that says so: {task:#}\n{runs:#?}");
    }
    assert!(busy >= 2 * ROUNDS, "only {busy} kills met work");
    eventually("no session that is left open", LIMIT, || {
        (node.status()["snapshot"]["sessionRegistry"]["activeCount"] == 0).then_some(())
    });
    let cut_off: u64 = ended
        .iter()
        .flat_map(|task| task["result"]["steps"].as_array().unwrap())
        .map(|step| step["times_cut_off"].as_u64().unwrap())
        .sum();
    assert!(cut_off > 0, "no kill fell into a step");
    figures::print(&format!(
        "torture of tasks with {name}: {} kills, {busy} of them while runs were active; {} tasks, {cut_off} steps cut off, {again} done again, {:.0?}",
        3 * ROUNDS,
        tasks.len(),
        begun.elapsed()
    ));
}

#[test]
fn kills_at_any_moment_with_the_fake() {
    torture(Codex::Fake);
}

#[test]
fn kills_at_any_moment_with_the_real_cli() {
    if let Some(codex) = Codex::both().into_iter().find(|codex| *codex != Codex::Fake) {
        torture(codex);
    }
}
