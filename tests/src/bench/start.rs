//! From the start of each program, in a fresh folder, to its first answer; beside it what a process takes that does nothing,
//! or only says its version.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::bench::report::Report;
use crate::bench::samples::{Samples, interleaved};
use crate::bench::whole::child;
use crate::codex::{Codex, write_home};
use crate::http::try_request;
use crate::ports::free_port;
use crate::process::{Launch, Process, binary};
use crate::temp::TempDir;
use crate::wait::SOON;

const BENCH: &str = "start";
const ROUNDS: usize = 20;
const MOST_MS: f64 = 15.0;
/// Between two looks whether it answers.
const LOOK: Duration = Duration::from_micros(100);

/// Measures, and adds what it found.
pub fn run(report: &mut Report) {
    let [nothing, version, fake, real, conductor, status_api] = interleaved(
        ROUNDS,
        [
            &mut || one(to_its_end("true".as_ref())),
            &mut || one(to_its_end(&binary("codexd"))),
            &mut || one(first_answer("codexd", &Codex::Fake)),
            &mut || {
                if child() == Codex::Fake {
                    Samples::default()
                } else {
                    one(first_answer("codexd", &child()))
                }
            },
            &mut || one(first_answer("conductor", &Codex::Fake)),
            &mut || one(first_answer("status-api", &Codex::Fake)),
        ],
    );
    report.times(BENCH, "`true`, to its end", &nothing);
    report.times(BENCH, "`codexd version`, to its end", &version);
    for (case, samples) in [
        ("codexd, which starts a stand-in child", &fake),
        ("codexd, which starts the Codex CLI", &real),
        ("conductor", &conductor),
        ("status-api", &status_api),
    ] {
        if samples.count() > 0 {
            report.times(BENCH, case, samples);
            let millis = samples.quantile(0.5).as_secs_f64() * 1e3;
            report.at_most(&format!("{case}: median time to the first answer"), "ms", millis, MOST_MS);
        }
    }
}

fn one(time: Duration) -> Samples {
    [time].into_iter().collect()
}

/// Runs `PROGRAM version`.
#[track_caller]
fn to_its_end(program: &Path) -> Duration {
    let mut command = Command::new(program);
    command.arg("version").stdin(Stdio::null()).stdout(Stdio::null());
    let begun = Instant::now();
    let status = command.status();
    let took = begun.elapsed();
    assert!(status.is_ok_and(|status| status.success()), "{}", program.display());
    took
}

/// Starts a daemon on a free port and asks until it says `ok`.
#[track_caller]
fn first_answer(name: &str, codex: &Codex) -> Duration {
    let dir = TempDir::new();
    let base = format!("http://127.0.0.1:{}", free_port());
    let flag = if name == "codexd" { "--local-api-base" } else { "--local-api" };
    let mut launch = Launch::of(name, dir.path()).args(["start", flag, &base]);
    if name == "codexd" {
        let home = dir.folder("home");
        write_home(&home, codex, "http://127.0.0.1:9", 0); // no turn comes
        let (program, args) = codex.command();
        launch = launch.args(["--server-command".into(), program.into_os_string()]);
        launch = launch.args(args.into_iter().flat_map(|arg| ["--server-arg", arg])).env("CODEX_HOME", home);
    }
    let begun = Instant::now();
    let _daemon = Process::start(&launch);
    says(&base, "/healthz", "ok\n", begun)
}

/// How long it takes from `begun` until the daemon at `base` says that text there; panics when it does not come to.
#[track_caller]
pub(super) fn says(base: &str, path: &str, text: &str, begun: Instant) -> Duration {
    loop {
        match try_request("GET", &format!("{base}{path}"), &[], b"") {
            Ok(answer) if answer.text() == text => return begun.elapsed(),
            _ => assert!(begun.elapsed() < SOON, "{path} does not come to say {text:?}"),
        }
        thread::sleep(LOOK);
    }
}
