//! The table: every scenario with the fake and with each version of the real CLI, first without codexd, so that it is
//! known what the app-server itself does, then through codexd, which neither loses nor reorders nor repeats any of it.
//!
//! The order of events is that of the newest version; where an older one truly differs, [`DIFFERENCES`] says why.

use std::fs;

use e2e::codex::{Codex, PINNED};
use e2e::golden::{golden, same_as_golden};

use crate::codexd::Codexd;
use crate::driver::{Direct, Driver, LEGACY, order};
use crate::scenarios;
use crate::through_codexd::{gapless, kill_codexd_and_go_on};

/// What a version and those before it do in a way of their own in these scenarios, whose golden files are in a folder of
/// that version. What codexd shows is what they do: it makes nothing up.
const DIFFERENCES: &[(&str, &str, &[&str])] = &[
    (
        "0.116.0",
        "a command that needs approval starts when it is accepted, and one that is not ends without having started",
        &["command_accepted", "command_declined", "command_cancelled", "interrupt_waiting"],
    ),
    ("0.116.0", "a message that is cut by steering is completed as far as it came", &["steer"]),
    (
        "0.107.0",
        "a command dies with the interrupt of its turn, and its end is not told",
        &["interrupt_command"],
    ),
];

/// What a version and those before it send at changing places.
const UNSTEADY: &[(&str, &str, &[&str])] = &[
    (
        "0.107.0",
        "the start of a turn and the thread's status come from another thread than the items",
        &["turn/started", "thread/status/changed"],
    ),
    ("0.116.0", "a patch has output, and not always", &["item/fileChange/outputDelta"]),
];

/// Those of such a table that count for a version.
fn of<'a>(table: &'a [(&str, &str, &[&str])], codex: &Codex) -> impl Iterator<Item = (&'a str, &'a str)> {
    let version = codex.version();
    let fits = move |(newest, ..): &&(&str, &str, &[&str])| version <= *newest; // all have three digits in the middle
    table.iter().filter(fits).flat_map(|(newest, _, names)| names.iter().map(|name| (*newest, *name)))
}

#[track_caller]
fn check_order(codex: &Codex, name: &str, driver: &dyn Driver) {
    let unsteady: Vec<_> = of(UNSTEADY, codex).map(|(_, method)| method).collect();
    let order = order(&driver.events(), &unsteady);
    match of(DIFFERENCES, codex).find(|(_, scenario)| *scenario == name) {
        Some((newest, _)) if newest == codex.version() => {
            golden(&format!("peers/{newest}/{name}.txt"), &order)
        }
        Some((newest, _)) => same_as_golden(&format!("peers/{newest}/{name}.txt"), &order, &unsteady),
        None if codex.version() == PINNED => golden(&format!("peers/{name}.txt"), &order),
        None => same_as_golden(&format!("peers/{name}.txt"), &order, &unsteady),
    }
}

/// Without codexd. The fake is held to the same, so that what codexd does with the fake means something.
fn alone(codex: Option<Codex>, name: &str, scenario: fn(&mut dyn Driver)) {
    let Some(codex) = codex else { return };
    let mut direct = Direct::start(codex.clone());
    scenario(&mut direct);
    check_order(&codex, name, &direct);
}

fn through_codexd(codex: Option<Codex>, name: &str, scenario: fn(&mut dyn Driver)) {
    let Some(codex) = codex else { return };
    let mut codexd = Codexd::start(codex.clone());
    scenario(&mut codexd);
    check_order(&codex, name, &codexd);
    gapless(codexd.log());
    let legacy = codexd.events().iter().filter(|event| event.method.starts_with(LEGACY)).count();
    let stdout = codexd.bench.dir.path().join("logs/codexd/stdout.log");
    let printed = fs::read_to_string(stdout).unwrap();
    assert_eq!((legacy, printed.as_str()), (0, ""), "what old versions say twice is no event and no output");
}

macro_rules! every_scenario {
    ($how:ident $codex:expr) => {
        every_scenario! {
            $how $codex;
            hello two_turns command patch failure retry retries_exhausted interrupt interrupt_command steer
            command_accepted command_declined command_cancelled patch_accepted patch_declined interrupt_waiting question
            crash_and_resume
        }
    };
    ($how:ident $codex:expr; $($name:ident)*) => {
        $(#[test]
        fn $name() {
            super::super::$how($codex, stringify!($name), super::super::scenarios::$name);
        })*
    };
}

macro_rules! table {
    ($($row:ident: $codex:expr;)*) => {
        $(mod $row {
            mod alone {
                every_scenario! { alone $codex }
            }
            mod through_codexd {
                every_scenario! { through_codexd $codex }

                #[test]
                fn kill_codexd_and_go_on() {
                    let Some(codex) = $codex else { return };
                    super::super::kill_codexd_and_go_on(codex);
                }
            }
        })*
    };
}

table! {
    fake: Some(e2e::codex::Codex::Fake);
    v0_107_0: e2e::codex::Codex::of_version("0.107.0");
    v0_116_0: e2e::codex::Codex::of_version("0.116.0");
    v0_169_0: e2e::codex::Codex::of_version("0.169.0");
}

/// Nobody adds a version to the list and forgets the table.
#[test]
fn the_table_has_every_version() {
    assert_eq!(e2e::codex::VERSIONS, ["0.107.0", "0.116.0", "0.169.0"]);
}
