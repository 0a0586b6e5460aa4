//! `conductor doctor`: what conductor stands on. Knows of codexd what its callers know.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::cli::Failure;
use common::config::{self, LocalUrl, Usage, Values, boolean};
use common::doctor::{self, Check, Doctor, Found, Need};
use common::time::Timestamp;
use common::{checkpoint, document};

use crate::config::{Config, SHORT_TOKEN, Token};
use crate::host::MAX_AUDITS_BYTES;
use crate::lease::{self, Document};

const TOKEN_FILE: &str = "BAA_SHARED_TOKEN_FILE";

/// Makes all checks, and prints them.
///
/// # Errors
/// A wrong setting; if a check failed, or stdout cannot be written.
pub(crate) fn run(values: &Values) -> Result<(), Failure> {
    let mut doctor = Doctor::default();
    let token_file = match values.has("--shared-token") {
        true => None,
        false => values.get(TOKEN_FILE, config::path)?,
    };
    // The settings read it, and would wait for whoever writes into a pipe.
    if token_file.as_ref().is_some_and(|file| fs::metadata(file).is_ok_and(|data| !data.is_file())) {
        return Err(Usage(format!("{TOKEN_FILE}: is no file")).into());
    }
    let config = Config::read(values)?;
    let own = config.local_api.clone().map(|base| ask(base, "/v1/runtime"));
    let codexd = config.codexd.clone().map(|base| ask(base, "/v1/codexd/status"));
    let ours = own.as_ref().is_some_and(|(_, found)| is_ours(found, &config.state_dir));

    let warnings = config.warnings();
    doctor.check("settings", move || settings(&warnings));
    let token = config.token.clone();
    doctor.check("token", move || self::token(token.as_ref(), token_file.as_deref()));
    let folders = [
        ("state", &config.state_dir, true),
        ("logs", &config.logs_dir, true),
        ("runs", &config.runs_dir, false),
    ];
    for (name, folder, private) in folders {
        let folder = folder.clone();
        doctor.check(name, move || doctor::folder(name, &folder, private));
    }
    let folders = [config.state_dir.clone(), config.logs_dir.clone()];
    doctor.check("lease", move || lease(&folders));
    let listener = own.clone();
    doctor.check("port", move || match &listener {
        Some((base, found)) => doctor::port("conductor", "--local-api", base, found, ours),
        None => not_set("port", "where to listen", "--local-api http://127.0.0.1:4317"),
    });
    if let Some((base, found)) = own {
        doctor.check("conductor", move || {
            doctor::daemon("conductor", &base, &found, "/runtime/version", false)
        });
    }
    doctor.check("codexd", move || match &codexd {
        Some((base, found)) => doctor::daemon("codexd", base, found, "/snapshot/identity/version", true),
        None => not_set("codexd", "where codexd listens", "--codexd-local-api http://127.0.0.1:4319"),
    });
    let (logs, bound) = (config.logs_dir.clone(), config.log.total_bytes + MAX_AUDITS_BYTES);
    doctor.check("disk", move || {
        let used = document::bytes_in(&logs).unwrap_or(0);
        doctor::disk(&[Need { folder: logs, bound, used }])
    });
    doctor.check("descriptors", doctor::descriptors);
    doctor.clock(vec![config.logs_dir.join("events.jsonl"), config.state_dir.join(checkpoint::NEWEST)]);
    doctor.report(values.need("--json", boolean)?)
}

fn ask(base: LocalUrl, target: &'static str) -> (LocalUrl, Found) {
    let asked = base.clone();
    let found = Doctor::ask(move || doctor::find(&asked, target));
    (base, found.unwrap_or_else(|| Found::Stranger("it hangs".to_string())))
}

/// Whether the conductor that answers works on this state directory.
fn is_ours(found: &Found, state_dir: &Path) -> bool {
    let Found::Daemon { data, .. } = found else { return false };
    let theirs = data.as_ref().ok().and_then(|data| data.pointer("/paths/stateDir")?.as_str());
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    theirs.is_none_or(|theirs| real(Path::new(theirs)) == real(state_dir))
}

fn not_set(name: &'static str, what: &str, flag: &str) -> Check {
    Check::fail(name, format!("it is not said {what}"), format!("Say it, as in `{flag}`."))
}

/// Those of the token have a check of their own.
fn settings(warnings: &[String]) -> Check {
    let warnings: Vec<&str> = warnings
        .iter()
        .map(String::as_str)
        .filter(|warning| !warning.starts_with("BAA_SHARED_TOKEN"))
        .collect();
    match warnings.is_empty() {
        true => Check::ok("settings", "all of them can be taken"),
        false => Check::warn("settings", warnings.join(" "), "`conductor help start` says how they are set."),
    }
}

fn token(token: Option<&Token>, file: Option<&Path>) -> Check {
    const TOKEN: &str = "token";
    let make = format!("Put a random one into a file of mode 600, and name that in {TOKEN_FILE}.");
    let mode = file.map(|file| (file, fs::metadata(file).map(|data| data.permissions().mode() & 0o777)));
    match (token, mode) {
        (None, _) => Check::warn(TOKEN, "there is none: what asks for it is refused", make),
        (Some(token), _) if token.is_placeholder() => {
            Check::fail(TOKEN, "it is the placeholder of the templates, which everybody knows", make)
        }
        (_, Some((file, Err(error)))) => Check::fail(TOKEN, format!("{}: {error}", file.display()), make),
        (_, Some((file, Ok(mode)))) if mode & 0o077 != 0 => {
            let (file, others) =
                (file.display(), "lets other users at it, who may then run commands as this one");
            Check::fail(TOKEN, format!("{file}: mode {mode:03o} {others}"), format!("`chmod 600 {file}`."))
        }
        (Some(token), _) if token.is_short() => Check::warn(
            TOKEN,
            format!("it has fewer than {SHORT_TOKEN} characters, and can be guessed"),
            make,
        ),
        _ => Check::ok(TOKEN, "there is one"),
    }
}

fn lease([state, logs]: &[PathBuf; 2]) -> Check {
    const LEASE: &str = "lease";
    let held = match (doctor::is_locked(state), doctor::is_locked(logs)) {
        (Ok(state), Ok(logs)) => (state, logs),
        (Err(error), _) | (_, Err(error)) => {
            return Check::fail(LEASE, format!("the locks: {error}"), "Run this as the user of the daemon.");
        }
    };
    let document: Option<Document> = lease::look(&state.join("lease.json"));
    let Some(Document { holder_id, holder_host, term, pid, expires_at, .. }) = document else {
        return match held {
            (false, false) => Check::ok(LEASE, "nobody has led here yet"),
            _ => foreign(logs),
        };
    };
    let who = format!("{holder_id} on {holder_host}, pid {pid}, term {term}");
    match held {
        (true, _) if expires_at < Timestamp::now() => Check::fail(
            LEASE,
            format!("{who} leads, and has not renewed its lease, which expired at {expires_at}"),
            format!("Look what stops it: a disk, a signal. Once {pid} is ended another one takes over."),
        ),
        (true, _) => Check::ok(LEASE, format!("{who} leads, until {expires_at} at least")),
        (false, true) => foreign(logs),
        (false, false) => Check::ok(LEASE, format!("nobody leads; last did {who}, until {expires_at}")),
    }
}

fn foreign(logs: &Path) -> Check {
    let message = format!("{}: a conductor of another state directory works on it", logs.display());
    Check::fail("lease", message, "End that one, or take another folder with --logs-dir.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::doctor::Status;
    use common::document::Durability;
    use std::time::Duration;

    #[test]
    fn a_leader_that_does_not_renew_shows() {
        let dir = std::env::temp_dir().join(format!("baa-doctor-lease-{}", std::process::id()));
        let folders = ["state", "logs"].map(|name| dir.join(name));
        let look = || lease(&folders);
        assert_eq!((look().status, look().message.as_str()), (Status::Ok, "nobody has led here yet"));
        folders.iter().for_each(|folder| document::make_folder(folder).unwrap());
        let write = |expires_at| {
            let document = Document {
                holder_id: "n".into(),
                holder_host: "h".into(),
                term: 3,
                pid: 7,
                expires_at,
                ..Document::default()
            };
            document::write(&folders[0].join("lease.json"), &document, Durability::Process).unwrap();
        };
        write(Timestamp::from_millis(Timestamp::now().millis() - 1000));
        assert!(look().status == Status::Ok && look().message.starts_with("nobody leads; last did n on h"));
        let _logs = document::lock_folder(&folders[1], Duration::ZERO).unwrap();
        assert!(look().status == Status::Fail && look().message.contains("another state directory"));
        let _state = document::lock_folder(&folders[0], Duration::ZERO).unwrap();
        assert!(look().status == Status::Fail && look().message.contains("has not renewed"));
        write(Timestamp::from_millis(Timestamp::now().millis() + 60_000));
        assert!(look().status == Status::Ok && look().message.contains("n on h, pid 7, term 3 leads"));
        fs::remove_dir_all(&dir).unwrap();
    }
}
