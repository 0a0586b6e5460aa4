//! status-api's settings: the table of flags and variables, and the typed values.
//!
//! Refuses wrong values before anything starts. Knows nothing of the running daemon.

use common::config::{Flag, LocalUrl, Usage, Values};
use common::trace;
use conductor::shared::{Token, host, text, token, upstream};
use serde_json::{Value, json};

/// Every setting, in the order of the help.
pub(crate) const FLAGS: &[Flag] = &[
    Flag::new("--local-api", "BAA_STATUS_API_LOCAL_API", "URL", "Where to listen.")
        .default("http://127.0.0.1:4318"),
    Flag::variable(
        "BAA_STATUS_API_ALLOWED_HOSTS",
        "HOSTS",
        "Tailscale addresses to listen on, names it is asked by.",
    )
    .list(','),
    Flag::new("--conductor-local-api", "BAA_CONDUCTOR_LOCAL_API", "URL", "Where conductor listens."),
    Flag::new("--codexd-local-api", "BAA_CODEXD_LOCAL_API_BASE", "URL", "Where codexd listens."),
    Flag::new(
        "--shared-token",
        "BAA_SHARED_TOKEN",
        "TOKEN",
        "Token for conductor, where its reads ask for it.",
    ),
    Flag::variable("BAA_SHARED_TOKEN_FILE", "FILE", "File with that token, read if it is not given itself."),
    trace::LEVEL,
    trace::FORMAT,
    Flag::switch("--json", "", "JSON instead of text.").of(&["config"]),
];

/// Every setting with its type, checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) local_api: LocalUrl,
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) conductor: Option<LocalUrl>,
    pub(crate) codexd: Option<LocalUrl>,
    pub(crate) token: Option<Token>,
}

impl Config {
    /// Reads and checks every setting; the one I/O is the token's file.
    ///
    /// # Errors
    /// A value that its setting does not take, by the names of flag and variable.
    pub(crate) fn read(values: &Values) -> Result<Config, Usage> {
        let allowed_hosts = values.all("BAA_STATUS_API_ALLOWED_HOSTS", host)?;
        let here = |text: &str| {
            let url = LocalUrl::parse(text)?;
            url.loopback_or_tailscale(&allowed_hosts)?;
            Ok(url)
        };
        // conductor may listen where we may, and nowhere else is the token sent.
        let conductor = |text: &str| match here(text)? {
            url if url.port == 0 => Err("has no port to connect to".to_string()),
            url => Ok(url),
        };
        Ok(Config {
            local_api: values.need("--local-api", here)?,
            conductor: values.get("--conductor-local-api", conductor)?,
            codexd: values.get("--codexd-local-api", upstream)?,
            token: token(values)?,
            allowed_hosts,
        })
    }

    /// `status-api config`: a setting a line; the token never shows.
    pub(crate) fn text(&self) -> String {
        text(self.facts())
    }

    /// The same as one JSON object.
    pub(crate) fn json(&self) -> Value {
        Value::Object(self.facts().map(|(name, value)| (name.to_string(), value)).into_iter().collect())
    }

    fn facts(&self) -> [(&'static str, Value); 5] {
        let url = |url: &Option<LocalUrl>| json!(url.as_ref().map(LocalUrl::to_string));
        [
            ("local_api_base", json!(self.local_api.to_string())),
            ("local_api_allowed_hosts", json!(self.allowed_hosts)),
            ("conductor_local_api_base", url(&self.conductor)),
            ("codexd_local_api_base", url(&self.codexd)),
            ("shared_token", json!(self.token.as_ref().map(|_| "configured"))),
        ]
    }
}
