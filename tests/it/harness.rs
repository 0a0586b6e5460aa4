//! The harness keeps its promises.

use std::time::Duration;

use e2e::process::{Launch, Process};
use e2e::temp::TempDir;
use e2e::wait::{SOON, eventually};

fn shell(dir: &TempDir, script: &str) -> Launch {
    let launch =
        Launch { program: "/bin/sh".into(), args: Vec::new(), env: Vec::new(), dir: dir.path().to_owned() };
    launch.args(["-c", script])
}

/// Also what has left the process group and ignores TERM.
#[test]
fn what_a_test_started_dies_with_it() {
    let dir = TempDir::new();
    let process = Process::start(&shell(&dir, "setsid sh -c 'trap \"\" TERM; sleep 1000' & exec sleep 1001"));
    let left = eventually("both", SOON, || Some(process.descendants()).filter(|all| !all.is_empty()));
    drop(process);
    for pid in left {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{pid} lives: {state}");
    }
}

#[test]
fn output_and_exit_are_seen() {
    let dir = TempDir::new();
    let (status, out, err) = shell(&dir, "echo one; echo two >&2; exit 7").run(SOON);
    assert_eq!((status.code(), out.as_str(), err.as_str()), (Some(7), "one\n", "two\n"));
    let mut slow = Process::start(&shell(&dir, "sleep 1000"));
    assert!(slow.wait(Duration::from_millis(20)).is_none());
    slow.terminate(SOON);
}
