//! The one error type, and the table of codes that callers branch on.
//!
//! An error has a code for programs, a sentence for the caller, and a cause that only the log sees; the request id
//! joins the two. Owns no rendering: `http::response` makes the envelope.

use std::borrow::Cow;
use std::fmt;

use serde_json::Value;

/// A stable name that callers branch on, with the HTTP status that carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// `error` in the envelope.
    pub name: Cow<'static, str>,
    /// The HTTP status.
    pub status: u16,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $constant:ident = $status:literal $name:literal;)*) => {
        $($(#[$doc])* pub const $constant: Code = Code { name: Cow::Borrowed($name), status: $status };)*
        /// Every code of ours, in order of status.
        pub const CODES: &[&Code] = &[$(&$constant),*];
    };
}

codes! {
    /// The body is not JSON, or not an object.
    INVALID_JSON = 400 "invalid_json";
    /// A field is missing or of the wrong type, a query value is bad, or the head cannot be parsed.
    INVALID_REQUEST = 400 "invalid_request";
    /// The token is missing or wrong.
    UNAUTHORIZED = 401 "unauthorized";
    /// A web page of another origin asks.
    FORBIDDEN_ORIGIN = 403 "forbidden_origin";
    /// The `Host` names somebody else.
    FORBIDDEN_HOST = 403 "forbidden_host";
    /// An unknown thing or route.
    NOT_FOUND = 404 "not_found";
    /// A known path, another method.
    METHOD_NOT_ALLOWED = 405 "method_not_allowed";
    /// The head or body did not arrive in time.
    REQUEST_TIMEOUT = 408 "request_timeout";
    /// The state forbids it.
    CONFLICT = 409 "conflict";
    /// The body is over its bound.
    PAYLOAD_TOO_LARGE = 413 "payload_too_large";
    /// The body's media type is not JSON.
    UNSUPPORTED_MEDIA_TYPE = 415 "unsupported_media_type";
    /// The route speaks WebSocket only.
    UPGRADE_REQUIRED = 426 "upgrade_required";
    /// This caller's kind of thing is at its bound.
    TOO_MANY_REQUESTS = 429 "too_many_requests";
    /// The request line or the headers are over their bound.
    HEADERS_TOO_LARGE = 431 "headers_too_large";
    /// A fault of ours; the log says which.
    INTERNAL_ERROR = 500 "internal_error";
    /// The child answered with a JSON-RPC error.
    APP_SERVER_ERROR = 502 "app_server_error";
    /// codexd's answer makes no sense.
    CODEXD_INVALID_RESPONSE = 502 "codexd_invalid_response";
    /// The child is not running and could not be reached in time.
    APP_SERVER_UNAVAILABLE = 503 "app_server_unavailable";
    /// conductor has no base of a codexd.
    CODEXD_NOT_CONFIGURED = 503 "codexd_not_configured";
    /// codexd did not answer.
    CODEXD_UNAVAILABLE = 503 "codexd_unavailable";
    /// The node is full.
    OVERLOADED = 503 "overloaded";
    /// The child did not answer in time.
    APP_SERVER_TIMEOUT = 504 "app_server_timeout";
    /// Neither HTTP/1.0 nor HTTP/1.1.
    HTTP_VERSION_NOT_SUPPORTED = 505 "http_version_not_supported";
    /// The state could not be made durable; nothing was done.
    STORAGE_FAILED = 507 "storage_failed";
}

/// Why something could not be done, for caller and log.
#[derive(Clone, Debug)]
pub struct Error {
    /// For branching.
    pub code: Code,
    /// For the caller: what could not be done, to what.
    pub message: String,
    /// For the caller's program; an object.
    pub details: Option<Value>,
    /// Response headers that belong to the code: `Allow`, `Retry-After`, `WWW-Authenticate`.
    pub headers: Vec<(&'static str, String)>,
    /// For the log alone.
    pub cause: Option<String>,
}

impl Error {
    /// An error with a code of the table.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error { code, message: message.into(), details: None, headers: Vec::new(), cause: None }
    }

    /// An error that another service gave: its own code under its own status.
    pub fn foreign(status: u16, name: String, message: impl Into<String>) -> Error {
        Error::new(Code { name: Cow::Owned(name), status }, message)
    }

    /// The same with details, a JSON object.
    pub fn details(mut self, details: Value) -> Error {
        self.details = Some(details);
        self
    }

    /// The same with one more response header.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Error {
        self.headers.push((name, value.into()));
        self
    }

    /// The same with a cause that only the log sees.
    pub fn because(mut self, cause: impl fmt::Display) -> Error {
        self.cause = Some(match self.cause {
            Some(inner) => format!("{inner}: {cause}"),
            None => cause.to_string(),
        });
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.cause {
            Some(cause) => write!(f, " ({cause})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_in_order_of_status() {
        for pair in CODES.windows(2) {
            assert!(pair[0].status <= pair[1].status, "{} before {}", pair[0].name, pair[1].name);
        }
        let names: std::collections::BTreeSet<_> = CODES.iter().map(|code| &code.name).collect();
        assert_eq!(names.len(), CODES.len());
    }
}
