//! What codexd is told by flags and variables, checked once.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::config::{self, Flag, LocalUrl, Usage, Values};
use common::log::{Limits, MIN_SEGMENT_BYTES};
use common::trace;
use serde_json::Value;

use crate::ceilings::{APPROVAL_POLICIES, Ceilings, SANDBOXES};
use crate::core::Rules;

/// The longest that an approval may wait: a week.
const MAX_APPROVAL_TIMEOUT_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// Every setting, for the parser, the help and the docs.
pub const FLAGS: &[Flag] = &[
    Flag::new("--node-id", "BAA_NODE_ID", "ID", "Name of this node.").default("mini-main"),
    Flag::new(
        "--repo-root",
        "BAA_CODEXD_REPO_ROOT",
        "DIR",
        "The repo root; the working directory by default.",
    ),
    Flag::new("--logs-dir", "BAA_CODEXD_LOGS_DIR", "DIR", "Where logs go; <repo-root>/logs by default."),
    Flag::new(
        "--state-dir",
        "BAA_CODEXD_STATE_DIR",
        "DIR",
        "Where state goes; <repo-root>/state by default.",
    ),
    Flag::new(
        "--local-api-base",
        "BAA_CODEXD_LOCAL_API_BASE",
        "URL",
        "Where codexd listens: loopback; port 0 is any.",
    )
    .default("http://127.0.0.1:4319"),
    Flag::new("--event-stream-path", "BAA_CODEXD_EVENT_STREAM_PATH", "PATH", "Path of the event stream.")
        .default("/v1/codexd/events"),
    Flag::new(
        "--server-strategy",
        "BAA_CODEXD_SERVER_STRATEGY",
        "NAME",
        "spawn: codexd runs app-server itself; external: it connects to the one at --server-endpoint.",
    )
    .default("spawn"),
    Flag::new(
        "--server-endpoint",
        "BAA_CODEXD_SERVER_ENDPOINT",
        "URL",
        "With external: where app-server listens, ws://127.0.0.1:PORT.",
    )
    .default("stdio://"),
    Flag::new("--server-command", "BAA_CODEXD_SERVER_COMMAND", "PROGRAM", "What is run.").default("codex"),
    Flag::new(
        "--server-arg",
        "BAA_CODEXD_SERVER_ARGS",
        "ARG",
        "An argument of it, in place of the default; the variable is split at spaces.",
    )
    .default("app-server")
    .list(' '),
    Flag::new("--server-cwd", "BAA_CODEXD_SERVER_CWD", "DIR", "Where it runs; the repo root by default."),
    Flag::new(
        "--approval-timeout-ms",
        "BAA_CODEXD_APPROVAL_TIMEOUT_MS",
        "MS",
        "An approval that nobody answers for so long is declined.",
    )
    .default("600000"),
    Flag::new(
        "--cwd-root",
        "BAA_CODEXD_CWD_ROOT",
        "DIR",
        "Sessions may work below these folders alone; anywhere by default.",
    )
    .list(':'),
    Flag::new(
        "--sandbox-max",
        "BAA_CODEXD_SANDBOX_MAX",
        "MODE",
        "The most that a sandbox may allow: read-only, workspace-write or danger-full-access.",
    ),
    Flag::new(
        "--approval-policy-allowed",
        "BAA_CODEXD_APPROVAL_POLICY_ALLOWED",
        "POLICY",
        "Sessions may have these approval policies alone; any by default.",
    )
    .list(','),
    Flag::new(
        "--log-segment-bytes",
        "BAA_CODEXD_LOG_SEGMENT_BYTES",
        "BYTES",
        "A log file that has this size is closed.",
    )
    .default("16777216"),
    Flag::new(
        "--log-total-bytes",
        "BAA_CODEXD_LOG_TOTAL_BYTES",
        "BYTES",
        "The log's bound: its oldest files are deleted.",
    )
    .default("268435456"),
    Flag::new(
        "--transcripts-total-bytes",
        "BAA_CODEXD_TRANSCRIPTS_TOTAL_BYTES",
        "BYTES",
        "The transcripts' bound: the oldest closed session's goes first.",
    )
    .default("1073741824"),
    trace::LEVEL,
    trace::FORMAT,
    Flag::switch("--json", "", "JSON instead of text.").of(&[
        "config",
        "status",
        "doctor",
        "sessions",
        "turn",
        "events",
        "approvals",
    ]),
    Flag::switch("--follow", "", "What happens, as it happens.").of(&["turn", "events"]),
    Flag::new(
        "--after",
        "",
        "SEQ",
        "Only events behind this number; from the oldest that is retained by default.",
    )
    .of(&["events"]),
    Flag::new("--session", "", "ID", "Only events of this session.").of(&["events"]),
    Flag::new("--type", "", "PATTERN", "Only events of this type; a prefix ends in .* (turn.*).")
        .of(&["events"]),
];

/// What codexd runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the node.
    pub node_id: String,
    /// The repo root.
    pub repo_root: PathBuf,
    /// `…/codexd`.
    pub logs_dir: PathBuf,
    /// `…/codexd`.
    pub state_dir: PathBuf,
    /// Where to listen.
    pub local_api_base: LocalUrl,
    /// Path of the event stream.
    pub event_stream_path: String,
    /// How the child is reached, in words.
    pub server_endpoint: String,
    /// Where an app-server of somebody else listens; none if codexd runs its own.
    pub external: Option<SocketAddr>,
    /// What is run.
    pub server_command: String,
    /// Its arguments.
    pub server_args: Vec<String>,
    /// Where it runs.
    pub server_cwd: PathBuf,
    /// How long an approval waits.
    pub approval_timeout: Duration,
    /// What callers may ask for at the most.
    pub ceilings: Arc<Ceilings>,
    /// The log's bounds.
    pub log: Limits,
    /// The transcripts' bound.
    pub transcripts_total_bytes: u64,
    /// Print JSON.
    pub json: bool,
}

impl Config {
    /// Reads every setting.
    ///
    /// # Errors
    /// The first that is wrong, by name.
    pub fn read(values: &Values) -> Result<Config, Usage> {
        let repo_root = match values.get("--repo-root", config::path)? {
            Some(path) => path,
            None => config::path(".").map_err(Usage)?,
        };
        let below = |flag: &str, name: &str| -> Result<PathBuf, Usage> {
            let dir = values.get(flag, config::path)?.unwrap_or_else(|| repo_root.join(name));
            Ok(config::own_directory(&dir, "codexd"))
        };
        let log = config::log_limits(values)?;
        let loopback = |text: &str| LocalUrl::parse(text).and_then(|url| url.loopback().map(|()| url));
        let strategy = config::one_of(&[("spawn", false), ("external", true)]);
        let external = match values.need("--server-strategy", strategy)? {
            true => Some(values.need("--server-endpoint", websocket)?),
            false => values.need("--server-endpoint", pipes).map(|()| None)?,
        };
        Ok(Config {
            node_id: values.need("--node-id", config::string)?,
            logs_dir: below("--logs-dir", "logs")?,
            state_dir: below("--state-dir", "state")?,
            local_api_base: values.need("--local-api-base", loopback)?,
            event_stream_path: values.need("--event-stream-path", stream_path)?,
            server_endpoint: values.need("--server-endpoint", config::string)?,
            external,
            server_command: values.need("--server-command", config::string)?,
            server_args: values.all("--server-arg", config::string)?,
            server_cwd: values.get("--server-cwd", config::path)?.unwrap_or_else(|| repo_root.clone()),
            approval_timeout: Duration::from_millis(
                values.need("--approval-timeout-ms", config::integer(1..=MAX_APPROVAL_TIMEOUT_MS))?,
            ),
            ceilings: Arc::new(ceilings(values)?),
            log,
            transcripts_total_bytes: values
                .need("--transcripts-total-bytes", config::integer(MIN_SEGMENT_BYTES..=1 << 40))?,
            json: values.need("--json", config::boolean)?,
            repo_root,
        })
    }

    /// What the core holds to.
    pub fn rules(&self) -> Rules {
        let (approval_timeout, ceilings) = (self.approval_timeout, self.ceilings.clone());
        Rules { external: self.external.is_some(), approval_timeout, ceilings }
    }

    /// How app-server is had.
    pub fn strategy(&self) -> &'static str {
        if self.external.is_some() { "external" } else { "spawn" }
    }

    /// The settings as `config` prints them, in the order of the flags.
    pub fn rows(&self) -> Vec<(&'static str, Value)> {
        let path = |path: &Path| Value::from(path.display().to_string());
        let spawned = |value| if self.external.is_some() { Value::Null } else { value };
        vec![
            ("node_id", self.node_id.clone().into()),
            ("repo_root", path(&self.repo_root)),
            ("logs_dir", path(&self.logs_dir)),
            ("state_dir", path(&self.state_dir)),
            ("local_api_base", self.local_api_base.to_string().into()),
            ("event_stream_path", self.event_stream_path.clone().into()),
            ("server_strategy", self.strategy().into()),
            ("server_endpoint", self.server_endpoint.clone().into()),
            ("server_command", spawned(self.server_command.clone().into())),
            ("server_args", spawned(self.server_args.clone().into())),
            ("server_cwd", spawned(path(&self.server_cwd))),
            ("approval_timeout_ms", (self.approval_timeout.as_millis() as u64).into()),
            ("cwd_root", self.ceilings.cwd_roots.iter().map(|root| root.display().to_string()).collect()),
            ("sandbox_max", self.ceilings.sandbox_max.map(|rank| SANDBOXES[rank].0).into()),
            ("approval_policy_allowed", self.ceilings.approval_policies.clone().into()),
            ("log_segment_bytes", self.log.segment_bytes.into()),
            ("log_total_bytes", self.log.total_bytes.into()),
            ("transcripts_total_bytes", self.transcripts_total_bytes.into()),
        ]
    }
}

fn ceilings(values: &Values) -> Result<Ceilings, Usage> {
    let root = |text: &str| {
        let path = config::path(text)?;
        path.canonicalize().map_err(|error| format!("cannot be looked at: {error}"))
    };
    let sandboxes: Vec<_> = SANDBOXES.iter().enumerate().map(|(rank, (word, _))| (*word, rank)).collect();
    let policies = APPROVAL_POLICIES.map(|policy| (policy, policy));
    let policy = |text: &str| config::one_of(&policies)(text).map(str::to_owned);
    Ok(Ceilings {
        cwd_roots: values.all("--cwd-root", root)?,
        sandbox_max: values.get("--sandbox-max", config::one_of(&sandboxes))?,
        approval_policies: values.all("--approval-policy-allowed", policy)?,
    })
}

/// An app-server of somebody else speaks plain WebSocket, and whoever reaches it may do anything: loopback alone.
fn websocket(text: &str) -> Result<SocketAddr, String> {
    let form = || "is not of the form ws://127.0.0.1:PORT, as --server-strategy external needs".to_owned();
    let http = text.strip_prefix("ws://").map(|rest| format!("http://{rest}")).ok_or_else(form)?;
    let url = LocalUrl::parse(&http).map_err(|_| form())?;
    url.loopback()?;
    let address = url.address().filter(|_| url.port != 0).ok_or_else(form)?;
    Ok(SocketAddr::new(address, url.port))
}

/// A child of our own is reached through its pipes; who names another way wants `external`.
fn pipes(text: &str) -> Result<(), String> {
    match text {
        "stdio://" => Ok(()),
        _ => Err("is for --server-strategy external; spawn has stdio://".to_owned()),
    }
}

fn stream_path(text: &str) -> Result<String, String> {
    let fine = text.starts_with("/v1/codexd/") && !text.contains([':', '?', '#', ' ']);
    if fine { Ok(text.to_owned()) } else { Err("is no path below /v1/codexd/".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_server_of_somebody_else_is_on_loopback() {
        let read = |args: &[&str]| {
            let args = ["config"].iter().chain(args).map(|arg| arg.to_string().into());
            Config::read(&Values::read(FLAGS, args.collect::<Vec<_>>(), |_| None).unwrap())
        };
        let external = |endpoint| read(&["--server-strategy", "external", "--server-endpoint", endpoint]);
        let config = external("ws://localhost:7000").unwrap();
        assert_eq!((config.external, config.strategy()), ("127.0.0.1:7000".parse().ok(), "external"));
        let unused = |(name, value): &&(&str, Value)| {
            ["server_command", "server_args", "server_cwd"].contains(name) && value.is_null()
        };
        assert_eq!(config.rows().iter().filter(unused).count(), 3);
        let form = "is not of the form ws://127.0.0.1:PORT";
        for (wrong, why) in [
            ("stdio://", form),
            ("http://127.0.0.1:1", form),
            ("wss://127.0.0.1:1", form),
            ("ws://127.0.0.1:0", form),
            ("ws://127.0.0.1", form),
            ("ws://x y", form),
            ("ws://10.0.0.1:1", "not loopback"),
            ("ws://example.com:1", "not loopback"),
        ] {
            let said = external(wrong).unwrap_err().to_string();
            assert!(said.starts_with("--server-endpoint") && said.contains(why), "{said}");
        }
        let said = read(&["--server-endpoint", "ws://127.0.0.1:1"]).unwrap_err().to_string();
        assert!(said.contains("--server-strategy external"), "{said}");
        assert_eq!(read(&[]).unwrap().strategy(), "spawn");
    }
}
