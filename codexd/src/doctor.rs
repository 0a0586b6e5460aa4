//! `codexd doctor`: what codexd stands on.
//!
//! Knows where everything of codexd lies, and which `codex` it would run; of that it starts nothing but `--version`.

use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use std::{env, fs, thread};

use common::child::{self, Signal};
use common::cli::Failure;
use common::doctor::{self, Check, Doctor, Found, Need};
use common::{checkpoint, document};
use serde_json::Value;

use crate::app_server::protocol::{self, OLDEST, SOUND, TESTED};
use crate::config::Config;
use crate::documents::Paths;
use crate::transcript::Transcripts;
use crate::{daemon, disk};

/// `codex --version`; a wrapper in Node takes half a second, the first one after an install some more.
const VERSION_WITHIN: Duration = Duration::from_secs(10);
/// The oldest CLI that knows this flag; before, it is refused like any unknown one.
const STRICT_CONFIG: (&str, &str) = ("--strict-config", "0.135.0");
/// It says one line; what it says more is not looked at.
const VERSION_BYTES: u64 = 4096;
/// The child's pipes close with its group.
const PIPES_WITHIN: Duration = Duration::from_secs(1);
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// Makes all checks, and prints them.
///
/// # Errors
/// If one failed, or stdout cannot be written.
pub fn run(config: &Config) -> Result<(), Failure> {
    let (mut doctor, paths) = (Doctor::default(), daemon::paths(config));
    let base = config.local_api_base.clone();
    let found = Doctor::ask(move || doctor::find(&base, "/v1/codexd/status"));
    let found = found.unwrap_or_else(|| Found::Stranger("it hangs".to_owned()));
    let (ours, (at, seen)) = (is_ours(&found, &paths), (config.clone(), found.clone()));
    match config.external {
        Some(_) => doctor.check("app-server", move || app_server(&at)),
        None => {
            doctor.check("codex", move || codex(&at));
            let at = config.clone();
            doctor.check("login", move || login(&at, &seen));
            let home = disk::codex_home();
            doctor.check("codex-home", move || match home {
                Some(home) => doctor::folder("codex-home", &home, false),
                None => Check::fail("codex-home", "neither CODEX_HOME nor HOME is set", "Set one of them."),
            });
            let (at, seen) = (config.clone(), found.clone());
            doctor.check("codex-config", move || codex_config(&at, &seen));
            let cwd = config.server_cwd.clone();
            doctor.check("server-cwd", move || server_cwd(&cwd));
        }
    }
    for (name, folder) in [("state", paths.state.clone()), ("logs", paths.logs.clone())] {
        doctor.check(name, move || doctor::folder(name, &folder, true));
    }
    let at = paths.clone();
    doctor.check("locks", move || locks(&at, ours));
    let (base, seen) = (config.local_api_base.clone(), found.clone());
    doctor.check("port", move || doctor::port("codexd", "--local-api-base", &base, &seen, ours));
    let base = config.local_api_base.clone();
    doctor.check("codexd", move || {
        doctor::daemon("codexd", &base, &found, "/snapshot/identity/version", false)
    });
    let (at, limits) = (paths.clone(), (config.log.total_bytes, config.transcripts_total_bytes));
    doctor.check("disk", move || doctor::disk(&needs(&at, limits)));
    doctor.check("descriptors", doctor::descriptors);
    doctor.clock(vec![paths.logs("events.jsonl"), paths.state(checkpoint::NEWEST)]);
    doctor.report(config.json)
}

/// Whether the daemon that answers works on these directories; one whose name cannot be read is taken for it.
fn is_ours(found: &Found, paths: &Paths) -> bool {
    let Found::Daemon { data, .. } = found else { return false };
    let theirs = data.as_ref().ok().map(|data| &data["snapshot"]["identity"]["daemonId"]);
    let known = fs::read(paths.state("identity.json")).map(|text| serde_json::from_slice::<Value>(&text));
    match (theirs, known) {
        (Some(theirs), Ok(Ok(known))) => *theirs == known["daemonId"],
        (Some(_), Err(error)) => error.kind() != std::io::ErrorKind::NotFound,
        _ => true,
    }
}

fn app_server(config: &Config) -> Check {
    const APP_SERVER: &str = "app-server";
    let endpoint = &config.server_endpoint;
    let Some(address) = config.external else { return Check::ok(APP_SERVER, endpoint) };
    match TcpStream::connect_timeout(&address, CONNECT_WITHIN) {
        Ok(_) => Check::ok(APP_SERVER, format!("{endpoint}: somebody listens")),
        Err(error) => Check::fail(
            APP_SERVER,
            format!("{endpoint}: {error}"),
            format!("Start it: `codex app-server --listen {endpoint}`."),
        ),
    }
}

/// Which `codex` there is. Nothing but its version is asked of it.
fn codex(config: &Config) -> Check {
    const CODEX: &str = "codex";
    let command = &config.server_command;
    let Some(path) = resolve(command) else {
        return Check::fail(
            CODEX,
            format!("there is no program `{command}`"),
            "Install Codex, or say with --server-command where it is; launchd has a PATH of its own.",
        );
    };
    let shown = path.display();
    let mut asked = Command::new(&path);
    if config.server_cwd.is_dir() {
        asked.current_dir(&config.server_cwd);
    }
    let said = match output(asked.arg("--version"), VERSION_WITHIN) {
        Ok(said) => said,
        Err(why) => {
            return Check::fail(
                CODEX,
                format!("{shown} --version: {why}"),
                format!("Run `{shown} --version` by hand, and install Codex again if it does not answer."),
            );
        }
    };
    let version = said.split_whitespace().find_map(|word| protocol::version(&format!("codex/{word}")));
    let tested = format!("Tested are {}: install one of these.", TESTED.join(", "));
    match version {
        None => Check::warn(CODEX, format!("{shown}: says no version: {}", said.trim()), tested),
        Some(version) if protocol::is_below(&version, OLDEST) => Check::fail(
            CODEX,
            format!("{shown}: {version} is too old, {OLDEST} is the oldest that is taken"),
            tested,
        ),
        Some(version) if is_strict(config) && protocol::is_below(&version, STRICT_CONFIG.1) => Check::fail(
            CODEX,
            format!("{shown}: {version} does not know {}", STRICT_CONFIG.0),
            "Leave that out of --server-arg, or install a newer one.",
        ),
        Some(version) if protocol::is_below(&version, SOUND) => {
            Check::warn(CODEX, format!("{shown}: {version} has faults that {SOUND} has not"), tested)
        }
        Some(version) if !TESTED.contains(&version.as_str()) => {
            Check::warn(CODEX, format!("{shown}: {version} was never tested"), tested)
        }
        Some(version) => Check::ok(CODEX, format!("{shown}: {version}")),
    }
}

/// Where a command is; as `execvp` would find it.
fn resolve(command: &str) -> Option<PathBuf> {
    let runs = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    if command.contains('/') {
        return std::path::absolute(command).ok().filter(runs);
    }
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(command)).find(runs)
}

/// What a program prints, if it ends well and in time; else why not. Its whole group ends with it.
fn output(command: &mut Command, patience: Duration) -> Result<String, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (mut process, group) = child::spawn(command).map_err(|error| error.to_string())?;
    let (stdout, stderr) = (text_of(process.stdout.take()), text_of(process.stderr.take()));
    let (ended, end) = mpsc::channel();
    let leader = group.clone();
    thread::spawn(move || ended.send(leader.reap(&mut process)));
    let status = end.recv_timeout(patience).map_err(|_| {
        group.signal(Signal::Kill);
        format!("no end within {patience:?}")
    })?;
    let status = status.map_err(|error| error.to_string())?;
    let said = |pipe: mpsc::Receiver<String>| pipe.recv_timeout(PIPES_WITHIN).unwrap_or_default();
    match status.success() {
        true => Ok(said(stdout)),
        false => Err(format!("{status} {}", said(stderr).trim())),
    }
}

fn text_of(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (text, read) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.map(|pipe| pipe.take(VERSION_BYTES).read_to_end(&mut bytes));
        let _ = text.send(String::from_utf8_lossy(&bytes).into_owned()); // nobody waits for what is late
    });
    read
}

/// A child that runs knows it; else there is a file, or there may be none because none is needed.
fn login(config: &Config, found: &Found) -> Check {
    const LOGIN: &str = "login";
    let log_in = format!("Log in as the user of codexd: `{} login`.", config.server_command);
    match child_of(found, "loginRequired").and_then(|required| required.as_bool()) {
        Some(true) => return Check::fail(LOGIN, "Codex is not logged in, says the child", log_in),
        Some(false) => return Check::ok(LOGIN, "the child that runs needs none, or has one"),
        None => {}
    }
    let Some(file) = disk::codex_home().map(|home| home.join("auth.json")) else {
        return Check::warn(LOGIN, "no child runs, and there is no home to look at", log_in);
    };
    let shown = file.display();
    match fs::metadata(&file).map(|data| data.permissions().mode()) {
        Ok(mode) if mode & 0o077 != 0 => Check::warn(
            LOGIN,
            format!("{shown}: mode {:03o} lets other users read it", mode & 0o777),
            format!("`chmod 600 {shown}`."),
        ),
        Ok(_) => Check::ok(LOGIN, format!("{shown} is there; whether it still holds a child can tell")),
        Err(error) => Check::warn(
            LOGIN,
            format!("{shown}: {error}; no child runs that could tell more"),
            format!("{log_in} A model provider of config.toml that needs no login is fine."),
        ),
    }
}

/// A child refuses a config that is not valid; nobody else knows what is.
fn codex_config(config: &Config, found: &Found) -> Check {
    const CONFIG: &str = "codex-config";
    let by = format!("{} {}", if is_strict(config) { "with" } else { "without" }, STRICT_CONFIG.0);
    match child_of(found, "status").and_then(Value::as_str) {
        Some("running") => Check::ok(CONFIG, format!("the child that runs took it, {by}")),
        _ => Check::ok(CONFIG, format!("not checked: a child does, when it is started ({by})")),
    }
}

fn is_strict(config: &Config) -> bool {
    config.server_args.iter().any(|arg| arg == STRICT_CONFIG.0)
}

/// A fact of the child of the codexd that runs.
fn child_of<'a>(found: &'a Found, fact: &str) -> Option<&'a Value> {
    match found {
        Found::Daemon { data: Ok(data), .. } => Some(&data["snapshot"]["daemon"]["child"][fact]),
        _ => None,
    }
}

fn server_cwd(cwd: &Path) -> Check {
    const CWD: &str = "server-cwd";
    match fs::read_dir(cwd) {
        Ok(_) => Check::ok(CWD, cwd.display().to_string()),
        Err(error) => Check::fail(
            CWD,
            format!("{}: {error}", cwd.display()),
            "Make it, or choose another folder with --server-cwd; app-server is started there.",
        ),
    }
}

/// Whether another codexd works on these directories.
fn locks(paths: &Paths, ours: bool) -> Check {
    const LOCKS: &str = "locks";
    for folder in [&paths.state, &paths.logs] {
        let shown = folder.display();
        match doctor::is_locked(folder) {
            Ok(true) if ours => return Check::ok(LOCKS, "held by the codexd that runs"),
            Ok(true) => {
                return Check::fail(
                    LOCKS,
                    format!(
                        "{shown}: another codexd works on it, which does not answer where this one would listen"
                    ),
                    "`codexd status` tells its pid: end it, or take other directories.",
                );
            }
            Ok(false) => {}
            Err(error) => {
                return Check::fail(
                    LOCKS,
                    format!("{shown}: {error}"),
                    "Run this as the user of the daemon.",
                );
            }
        }
    }
    Check::ok(LOCKS, "free")
}

fn needs(paths: &Paths, (log, transcripts): (u64, u64)) -> [Need; 2] {
    let kept = Transcripts::look(&paths.state).map(|transcripts| transcripts.bytes());
    [
        Need { folder: paths.logs.clone(), bound: log, used: document::bytes_in(&paths.logs).unwrap_or(0) },
        Need { folder: paths.state.clone(), bound: transcripts, used: kept.unwrap_or(0) },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn within(seconds: u64, script: &str) -> Result<String, String> {
        output(Command::new("sh").args(["-c", script]), Duration::from_secs(seconds))
    }

    fn shell(script: &str) -> Result<String, String> {
        within(20, script)
    }

    #[test]
    fn a_program_is_heard_to_its_end_and_no_longer() {
        assert_eq!(shell("echo codex-cli 1.2.3").as_deref(), Ok("codex-cli 1.2.3\n"));
        assert_eq!(shell("echo a word >&2; exit 3").unwrap_err(), "exit status: 3 a word");
        assert_eq!(
            shell("sleep 1000 & echo gone").as_deref(),
            Ok("gone\n"),
            "what it leaves behind is ended"
        );
        assert!(
            shell("exec yes").is_err_and(|why| why.starts_with("signal: 13")),
            "and it is not read on and on"
        );
        let begun = Instant::now();
        let early = within(1, "echo early; exec >&- 2>&-; trap '' TERM; sleep 1000");
        assert_eq!(early.unwrap_err(), "no end within 1s");
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_command_is_found_as_the_shell_finds_it() {
        assert!(resolve("sh").unwrap().ends_with("sh"));
        assert_eq!((resolve("no-such-codex"), resolve("/etc/passwd"), resolve("/")), (None, None, None));
    }
}
