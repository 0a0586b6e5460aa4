//! What codexd is told by flags and variables, checked once.

use std::path::{Path, PathBuf};

use common::config::{self, Flag, LocalUrl, Usage, Values};
use common::log::{Limits, MIN_SEGMENT_BYTES};
use serde_json::Value;

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
        "Where to listen: loopback; port 0 is any.",
    )
    .default("http://127.0.0.1:4319"),
    Flag::new("--event-stream-path", "BAA_CODEXD_EVENT_STREAM_PATH", "PATH", "Path of the event stream.")
        .default("/v1/codexd/events"),
    Flag::new(
        "--server-strategy",
        "BAA_CODEXD_SERVER_STRATEGY",
        "NAME",
        "spawn: codexd runs app-server itself.",
    )
    .default("spawn"),
    Flag::new("--server-endpoint", "BAA_CODEXD_SERVER_ENDPOINT", "URL", "How app-server is reached.")
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
    Flag::variable("BAA_LOG", "LEVEL", "What stderr tells: error, warn, info or debug.").default("info"),
    Flag::switch("--json", "", "Print JSON."),
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
    /// What is run.
    pub server_command: String,
    /// Its arguments.
    pub server_args: Vec<String>,
    /// Where it runs.
    pub server_cwd: PathBuf,
    /// The log's bounds.
    pub log: Limits,
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
        let bytes = |flag: &str| values.need(flag, config::integer(MIN_SEGMENT_BYTES..=1 << 40));
        let log =
            Limits { segment_bytes: bytes("--log-segment-bytes")?, total_bytes: bytes("--log-total-bytes")? };
        if log.total_bytes < 2 * log.segment_bytes {
            return Err(Usage("--log-total-bytes must hold two segments of --log-segment-bytes".into()));
        }
        let loopback = |text: &str| LocalUrl::parse(text).and_then(|url| url.loopback().map(|()| url));
        values
            .need("BAA_LOG", config::one_of(&["error", "warn", "info", "debug"].map(|level| (level, ()))))?;
        values.need("--server-strategy", config::one_of(&[("spawn", ())]))?;
        Ok(Config {
            node_id: values.need("--node-id", config::string)?,
            logs_dir: below("--logs-dir", "logs")?,
            state_dir: below("--state-dir", "state")?,
            local_api_base: values.need("--local-api-base", loopback)?,
            event_stream_path: values.need("--event-stream-path", stream_path)?,
            server_endpoint: values.need("--server-endpoint", config::string)?,
            server_command: values.need("--server-command", config::string)?,
            server_args: values.all("--server-arg", config::string)?,
            server_cwd: values.get("--server-cwd", config::path)?.unwrap_or_else(|| repo_root.clone()),
            log,
            json: values.need("--json", config::boolean)?,
            repo_root,
        })
    }

    /// The settings as `config` prints them, in the order of the flags.
    pub fn rows(&self) -> Vec<(&'static str, Value)> {
        let path = |path: &Path| Value::from(path.display().to_string());
        vec![
            ("node_id", self.node_id.clone().into()),
            ("repo_root", path(&self.repo_root)),
            ("logs_dir", path(&self.logs_dir)),
            ("state_dir", path(&self.state_dir)),
            ("local_api_base", self.local_api_base.to_string().into()),
            ("event_stream_path", self.event_stream_path.clone().into()),
            ("server_strategy", "spawn".into()),
            ("server_endpoint", self.server_endpoint.clone().into()),
            ("server_command", self.server_command.clone().into()),
            ("server_args", self.server_args.clone().into()),
            ("server_cwd", path(&self.server_cwd)),
            ("log_segment_bytes", self.log.segment_bytes.into()),
            ("log_total_bytes", self.log.total_bytes.into()),
        ]
    }
}

fn stream_path(text: &str) -> Result<String, String> {
    let fine = text.starts_with("/v1/codexd/") && !text.contains([':', '?', '#', ' ']);
    if fine { Ok(text.to_owned()) } else { Err("is no path below /v1/codexd/".to_owned()) }
}
