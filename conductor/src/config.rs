//! conductor's settings: the table of flags and variables, the typed values, and what they say of themselves.
//!
//! Refuses wrong values before anything starts. Knows nothing of the running daemon.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use common::config::{self, Flag, LocalUrl, Usage, Values};
use common::{log, trace, wire};
use serde_json::{Value, json};

/// Every setting, in the order of the help.
pub(crate) const FLAGS: &[Flag] = &[
    Flag::new("--node-id", "BAA_NODE_ID", "ID", "Name of this node.").default("mini-main"),
    Flag::new("--host", "BAA_CONDUCTOR_HOST", "HOST", "Name of this machine.").default("mini"),
    Flag::new("--role", "BAA_CONDUCTOR_ROLE", "ROLE", "The part it plays: primary or standby.")
        .default("primary"),
    Flag::new(
        "--local-api",
        "BAA_CONDUCTOR_LOCAL_API",
        "URL",
        "Where conductor listens: http://127.0.0.1:4317.",
    ),
    Flag::variable("BAA_CONDUCTOR_LOCAL_API_ALLOWED_HOSTS", "HOSTS", "Tailscale addresses to listen on.")
        .list(','),
    Flag::new("--codexd-local-api", "BAA_CODEXD_LOCAL_API_BASE", "URL", "Where codexd listens."),
    Flag::new(
        "--control-api-base",
        "BAA_CONTROL_API_BASE",
        "URL",
        "Where a public reverse proxy shows this node.",
    ),
    Flag::new("--shared-token", "BAA_SHARED_TOKEN", "TOKEN", "Token that host operations ask for."),
    Flag::variable("BAA_SHARED_TOKEN_FILE", "FILE", "File with that token, read if it is not given itself."),
    Flag::variable("BAA_CONDUCTOR_AUTH", "WHAT", "What asks for the token: host-ops, writes or all.")
        .default("host-ops"),
    Flag::variable("BAA_CONDUCTOR_ALLOWED_ORIGINS", "ORIGINS", "Web origins that may write.").list(','),
    Flag::new("--priority", "BAA_CONDUCTOR_PRIORITY", "N", "Rank among the nodes that may lead.")
        .default("100"),
    Flag::switch("--preferred", "BAA_CONDUCTOR_PREFERRED", "Lead rather than another of the same priority."),
    Flag::new(
        "--heartbeat-interval-ms",
        "BAA_CONDUCTOR_HEARTBEAT_INTERVAL_MS",
        "MS",
        "Between two heartbeats.",
    )
    .default("5000"),
    Flag::new(
        "--lease-renew-interval-ms",
        "BAA_CONDUCTOR_LEASE_RENEW_INTERVAL_MS",
        "MS",
        "Between two renewals.",
    )
    .default("5000"),
    Flag::new("--lease-ttl-sec", "BAA_CONDUCTOR_LEASE_TTL_SEC", "SECONDS", "Life of a lease.").default("30"),
    Flag::new(
        "--renew-failure-threshold",
        "BAA_CONDUCTOR_RENEW_FAILURE_THRESHOLD",
        "N",
        "Failed renewals to degraded.",
    )
    .default("2"),
    Flag::new("--state-dir", "BAA_STATE_DIR", "DIR", "Where state goes, in conductor/ below it.")
        .default("state"),
    Flag::new("--logs-dir", "BAA_LOGS_DIR", "DIR", "Where logs go, in conductor/ below it.").default("logs"),
    Flag::new("--runs-dir", "BAA_RUNS_DIR", "DIR", "Folders of tasks that name none.").default("runs"),
    Flag::new("--max-active-runs", "BAA_CONDUCTOR_MAX_ACTIVE_RUNS", "N", "Runs of tasks at once.")
        .default("2"),
    Flag::new(
        "--log-segment-bytes",
        "BAA_CONDUCTOR_LOG_SEGMENT_BYTES",
        "N",
        "A log file that has this size is closed.",
    )
    .default("16777216"),
    Flag::new(
        "--log-total-bytes",
        "BAA_CONDUCTOR_LOG_TOTAL_BYTES",
        "N",
        "The log's bound: its oldest files are deleted.",
    )
    .default("268435456"),
    trace::LEVEL,
    trace::FORMAT,
    Flag::new(
        "--cwd",
        "",
        "DIR",
        "Where to work; without it the task gets a folder of its own below --runs-dir.",
    )
    .of(&["submit"]),
    Flag::new("--step-exec", "", "CMD", "A command to run after TEXT, each in its turn; needs the token.")
        .list('\n')
        .of(&["submit"]),
    Flag::new("--title", "", "TITLE", "What it is about.").of(&["submit"]),
    Flag::new("--timeout-ms", "", "MS", "How long an attempt may take; an hour without it.").of(&["submit"]),
    Flag::new("--max-attempts", "", "N", "How often it is tried; 3 without it.").of(&["submit"]),
    Flag::new("--model", "", "MODEL", "Model of the turn.").of(&["submit"]),
    Flag::new(
        "--sandbox",
        "",
        "MODE",
        "What the agent may touch: read-only, workspace-write, danger-full-access.",
    )
    .of(&["submit"]),
    Flag::new(
        "--approval-policy",
        "",
        "POLICY",
        "When the agent asks: untrusted, on-request, never, or JSON.",
    )
    .of(&["submit"]),
    Flag::new("--not-before", "", "TIME", "When it may start: 2026-01-31T04:00:00.000Z (UTC).")
        .of(&["submit"]),
    Flag::new("--task-priority", "", "N", "The highest of waiting tasks is taken first; 0 without it.")
        .of(&["submit"]),
    Flag::new("--key", "", "KEY", "Idempotency-Key: the same one again makes no second task, for a day.")
        .of(&["submit"]),
    Flag::new(
        "--status",
        "",
        "STATUS",
        "Only tasks that are queued, running, completed, failed or canceled.",
    )
    .of(&["tasks"]),
    Flag::new("--limit", "", "N", "How many tasks at the most; 20 without it.").of(&["tasks"]),
    Flag::new("--after", "", "SEQ", "Begins behind this line.").of(&["logs"]),
    Flag::new("--reason", "", "REASON", "Why; whoever looks is told.")
        .of(&["cancel", "pause", "resume", "drain"]),
    Flag::switch("--follow", "", "Goes on to the task's end.").of(&["submit", "logs"]),
    Flag::switch("--json", "", "JSON instead of text.")
        .of(&["config", "status", "doctor", "submit", "tasks", "logs", "cancel", "pause", "resume", "drain"]),
];

/// A shorter token can be guessed by whoever may ask often enough: 16 hex digits are 64 bits.
pub(crate) const SHORT_TOKEN: usize = 16;
/// What the templates hold before somebody puts a token there.
const PLACEHOLDER_TOKEN: &str = "replace-me";
/// A rank needs an order, not a range; small enough to read.
const PRIORITY: RangeInclusive<u64> = 0..=1_000_000;
/// Below a tenth of a second a timer is a busy loop, above an hour nobody is there.
const INTERVAL_MS: RangeInclusive<u64> = 100..=3_600_000;
/// A second is the resolution; after a day a dead leader would still hold the node.
const LEASE_TTL_SEC: RangeInclusive<u64> = 1..=86_400;
/// The first failure at the earliest; more than a thousand is never.
const RENEW_FAILURES: RangeInclusive<u64> = 1..=1000;

/// One at least, or nothing would ever run; half of the commands that may run at once.
const ACTIVE_RUNS: RangeInclusive<u64> = 1..=8;

/// Which part a node is meant to play.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Primary,
    Standby,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Standby => "standby",
        }
    }
}

/// What asks for the token, beside the routes that always do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Auth {
    /// Nothing else; writes too for callers that may come from outside this machine.
    HostOps,
    Writes,
    /// Everything but the probes.
    All,
}

impl Auth {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Auth::HostOps => "host-ops",
            Auth::Writes => "writes",
            Auth::All => "all",
        }
    }
}

/// The shared token; shows itself to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub(crate) fn is_placeholder(&self) -> bool {
        self.0 == PLACEHOLDER_TOKEN
    }

    pub(crate) fn is_short(&self) -> bool {
        self.0.len() < SHORT_TOKEN
    }

    /// The header that shows it to another daemon.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Whether `given` is this token; takes as long for a near miss as for any other text of that length.
    pub(crate) fn is(&self, given: &str) -> bool {
        let differences = self.0.bytes().zip(given.bytes()).fold(0, |found, (a, b)| found | (a ^ b));
        self.0.len() == given.len() && std::hint::black_box(differences) == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Every setting with its type, checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) node_id: String,
    pub(crate) host: String,
    pub(crate) role: Role,
    pub(crate) local_api: Option<LocalUrl>,
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) codexd: Option<LocalUrl>,
    pub(crate) control_api_base: Option<String>,
    pub(crate) token: Option<Token>,
    pub(crate) auth: Auth,
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) priority: u64,
    pub(crate) preferred: bool,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) lease_renew_interval: Duration,
    pub(crate) lease_ttl: Duration,
    pub(crate) renew_failure_threshold: u64,
    pub(crate) state_dir: PathBuf,
    pub(crate) logs_dir: PathBuf,
    pub(crate) runs_dir: PathBuf,
    pub(crate) max_active_runs: usize,
    pub(crate) log: log::Limits,
}

impl Config {
    /// Reads and checks every setting; the one I/O is the token's file.
    ///
    /// # Errors
    /// A value that its setting does not take, by the names of flag and variable.
    pub(crate) fn read(values: &Values) -> Result<Config, Usage> {
        let allowed_hosts = values.all("BAA_CONDUCTOR_LOCAL_API_ALLOWED_HOSTS", host)?;
        let listen = |text: &str| {
            let url = LocalUrl::parse(text)?;
            url.loopback_or_tailscale(&allowed_hosts)?;
            Ok(url)
        };
        let millis = |name| values.need(name, config::integer(INTERVAL_MS)).map(Duration::from_millis);
        let own = |name| values.need(name, config::path).map(|dir| config::own_directory(&dir, "conductor"));
        let roles = [Role::Primary, Role::Standby].map(|role| (role.name(), role));
        let auths = [Auth::HostOps, Auth::Writes, Auth::All].map(|auth| (auth.name(), auth));
        Ok(Config {
            node_id: values.need("--node-id", name)?,
            host: values.need("--host", name)?,
            role: values.need("--role", config::one_of(&roles))?,
            local_api: values.get("--local-api", listen)?,
            codexd: values.get("--codexd-local-api", upstream)?,
            control_api_base: values.get("--control-api-base", config::base_url)?,
            token: token(values)?,
            auth: values.need("BAA_CONDUCTOR_AUTH", config::one_of(&auths))?,
            allowed_origins: values.all("BAA_CONDUCTOR_ALLOWED_ORIGINS", origin)?,
            priority: values.need("--priority", config::integer(PRIORITY))?,
            preferred: values.need("--preferred", config::boolean)?,
            heartbeat_interval: millis("--heartbeat-interval-ms")?,
            lease_renew_interval: millis("--lease-renew-interval-ms")?,
            lease_ttl: Duration::from_secs(values.need("--lease-ttl-sec", config::integer(LEASE_TTL_SEC))?),
            renew_failure_threshold: values
                .need("--renew-failure-threshold", config::integer(RENEW_FAILURES))?,
            state_dir: own("--state-dir")?,
            logs_dir: own("--logs-dir")?,
            runs_dir: values.need("--runs-dir", config::path)?,
            max_active_runs: values.need("--max-active-runs", config::integer(ACTIVE_RUNS))? as usize,
            log: config::log_limits(values)?,
            allowed_hosts,
        })
    }

    /// `node@host(role)`.
    pub(crate) fn identity(&self) -> String {
        format!("{}@{}({})", self.node_id, self.host, self.role.name())
    }

    /// What works, and yet should be looked at.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut warn =
            |condition: bool, warning: &str| warnings.extend(condition.then(|| warning.to_string()));
        warn(
            self.local_api.is_none(),
            "BAA_CONDUCTOR_LOCAL_API is not configured; only the in-process snapshot interface is available.",
        );
        warn(
            self.codexd.is_none(),
            "BAA_CODEXD_LOCAL_API_BASE is not configured; /v1/codex routes will stay unavailable.",
        );
        warn(
            self.lease_renew_interval >= self.lease_ttl,
            "lease renew interval is >= lease TTL; leader renewals may race with lease expiry.",
        );
        let (missing, placeholder) = (self.token.is_none(), self.uses_placeholder_token());
        warn(missing, "BAA_SHARED_TOKEN is not configured; what asks for the token is refused.");
        warn(placeholder, "BAA_SHARED_TOKEN is the placeholder `replace-me`; it is taken on loopback alone.");
        warnings
    }

    /// Whether nobody has put a token of their own in yet.
    pub(crate) fn uses_placeholder_token(&self) -> bool {
        self.token.as_ref().is_some_and(Token::is_placeholder)
    }

    /// `conductor config`: a setting a line; the token never shows.
    pub(crate) fn text(&self) -> String {
        let mut lines = text(self.facts());
        for warning in self.warnings() {
            lines.push_str(&format!("warning: {warning}\n"));
        }
        lines
    }

    /// The same as one JSON object.
    pub(crate) fn json(&self) -> Value {
        let mut object = wire::object_of(self.facts());
        object.insert("warnings".to_string(), json!(self.warnings()));
        Value::Object(object)
    }

    fn facts(&self) -> Vec<(&'static str, Value)> {
        let url = |url: &Option<LocalUrl>| json!(url.as_ref().map(LocalUrl::to_string));
        let token = self
            .token
            .as_ref()
            .map(|token| if token.is_placeholder() { "placeholder" } else { "configured" });
        vec![
            ("identity", json!(self.identity())),
            ("control_api_base", json!(self.control_api_base)),
            ("codexd_local_api_base", url(&self.codexd)),
            ("local_api_base", url(&self.local_api)),
            ("firefox_ws_url", json!(self.local_api.as_ref().map(firefox_ws_url))),
            ("local_api_allowed_hosts", json!(self.allowed_hosts)),
            ("allowed_origins", json!(self.allowed_origins)),
            ("auth", json!(self.auth.name())),
            ("shared_token", json!(token)),
            ("priority", json!(self.priority)),
            ("preferred", json!(self.preferred)),
            ("heartbeat_interval_ms", json!(millis(self.heartbeat_interval))),
            ("lease_renew_interval_ms", json!(millis(self.lease_renew_interval))),
            ("lease_ttl_sec", json!(self.lease_ttl.as_secs())),
            ("renew_failure_threshold", json!(self.renew_failure_threshold)),
            ("state_dir", json!(self.state_dir)),
            ("logs_dir", json!(self.logs_dir)),
            ("runs_dir", json!(self.runs_dir)),
            ("max_active_runs", json!(self.max_active_runs)),
            ("log_segment_bytes", json!(self.log.segment_bytes)),
            ("log_total_bytes", json!(self.log.total_bytes)),
        ]
    }
}

/// Settings for people, one a line.
pub fn text(facts: impl IntoIterator<Item = (&'static str, Value)>) -> String {
    let mut lines = String::new();
    for (name, value) in facts {
        let shown = match &value {
            Value::Null => "not-configured".to_string(),
            Value::String(text) => text.clone(),
            Value::Array(items) if items.is_empty() && name == "local_api_allowed_hosts" => {
                "loopback-only".to_string()
            }
            Value::Array(items) if items.is_empty() => "none".to_string(),
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            other => other.to_string(),
        };
        lines.push_str(&format!("{name}: {shown}\n"));
    }
    lines
}

/// Where the browser bridge of a node that listens at `local_api` is.
pub(crate) fn firefox_ws_url(local_api: &LocalUrl) -> String {
    format!("{local_api}/ws/firefox").replacen("http", "ws", 1)
}

/// As the wire shows a duration.
pub(crate) fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

/// A kind: where another daemon of this machine listens.
///
/// # Errors
/// Any host but a loopback one, and port 0.
pub fn upstream(text: &str) -> Result<LocalUrl, String> {
    let url = LocalUrl::parse(text)?;
    url.loopback()?;
    match url.port {
        0 => Err("has no port to connect to".to_string()),
        _ => Ok(url),
    }
}

// Stands in file names, too.
fn name(text: &str) -> Result<String, String> {
    match text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) && !text.starts_with('.') {
        true => Ok(text.to_string()),
        false => Err("is no name of letters, digits, `.`, `_` and `-`".to_string()),
    }
}

/// A kind: a host name or an address, in lower case.
///
/// # Errors
/// Text that cannot be one.
pub fn host(text: &str) -> Result<String, String> {
    match text.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-".contains(&b)) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("is no host name or address".to_string()),
    }
}

fn origin(text: &str) -> Result<String, String> {
    let origin = text.trim_end_matches('/');
    match origin.split_once("://").is_some_and(|(_, rest)| !rest.is_empty() && !rest.contains(['/', ' '])) {
        true => Ok(origin.to_ascii_lowercase()),
        false => Err("is no origin of the form https://HOST".to_string()),
    }
}

/// The shared token: itself, or what its file holds.
///
/// # Errors
/// A file that cannot be read, or is empty.
pub fn token(values: &Values) -> Result<Option<Token>, Usage> {
    if let Some(token) = values.get("--shared-token", config::string)? {
        return sendable(token)
            .map(Some)
            .map_err(|why| Usage(format!("--shared-token (BAA_SHARED_TOKEN): it {why}")));
    }
    let read = |path: &str| match std::fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => Err("is an empty file".to_string()),
        Ok(text) => sendable(text.trim().to_string()),
        Err(error) => Err(format!("cannot be read: {error}")),
    };
    values.get("BAA_SHARED_TOKEN_FILE", read)
}

/// A token that a header can carry.
fn sendable(text: String) -> Result<Token, String> {
    match text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        true => Ok(Token(text)),
        false => Err("has more than one line of ASCII characters, so no caller could send it".to_string()),
    }
}

#[cfg(test)]
mod tests;
