//! Who may call what: the token, and which callers it is asked of.
//!
//! Hosts and origins are the listener's business; here the caller has passed them.

use common::Error;
use common::config::LocalUrl;
use common::error::UNAUTHORIZED;
use common::http::{Access, Gate, Kind, Request, Route};
use common::openapi::Token;

use crate::api::Node;
use crate::config::{Auth, Config};

/// What a proxy adds to the requests that it passes on, even where it puts our own address into `Host`.
const FORWARDED: [&str; 10] = [
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "cf-connecting-ip",
    "true-client-ip",
    "fly-client-ip",
    "tailscale-user-login",
];
/// And so do all of these.
const FORWARDED_PREFIX: &str = "x-forwarded-";

/// The host of the public reverse proxy, if there is one that is not this machine itself.
pub(crate) fn public_host(config: &Config) -> Option<String> {
    let (_, rest) = config.control_api_base.as_deref()?.split_once("://")?;
    let host = without_port(rest.split('/').next()?).to_ascii_lowercase();
    let here = LocalUrl { host: host.clone(), port: 0 }.loopback().is_ok();
    (!here).then_some(host)
}

/// Whose requests are heard at all.
pub(crate) fn gate(config: &Config) -> Gate {
    let hosts = config.allowed_hosts.iter().cloned().chain(public_host(config)).collect();
    Gate { hosts, origins: config.allowed_origins.clone() }
}

/// Lets a call pass, or asks for the token.
///
/// # Errors
/// `unauthorized` where the token is asked for and missing, wrong, not configured, or a placeholder outside loopback.
pub(crate) fn authorize(node: &Node, route: &Route<Node>, request: &Request) -> Result<(), Error> {
    match route.kind != Kind::Probe && asks_token(node, route, comes_from_outside(node, request)) {
        true => check_token(node, request),
        false => Ok(()),
    }
}

/// Lets a write pass that does not always ask for the token.
///
/// # Errors
/// As `authorize`.
pub(crate) fn may_write(node: &Node, request: &Request) -> Result<(), Error> {
    match asks(node, Kind::Write, Access::Open, comes_from_outside(node, request)) {
        true => check_token(node, request),
        false => Ok(()),
    }
}

/// Lets a call pass that asks for host operations.
///
/// # Errors
/// As `authorize`.
pub(crate) fn needs_token(node: &Node, request: &Request) -> Result<(), Error> {
    check_token(node, request)
}

fn check_token(node: &Node, request: &Request) -> Result<(), Error> {
    let given = request.header("authorization").and_then(|value| value.split_once(' '));
    let given =
        given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    let right = match (&node.config.token, given) {
        (Some(token), Some(given)) => {
            token.is(given) && !(token.is_placeholder() && comes_from_outside(node, request))
        }
        _ => false,
    };
    if right {
        return Ok(());
    }
    let (method, path) = (request.method.as_str(), &request.path);
    let message = match &node.config.token {
        Some(_) => format!("{method} {path} needs the shared token of this node."),
        None => format!(
            "{method} {path} needs the shared token of this node, which has none: start conductor with BAA_SHARED_TOKEN or BAA_SHARED_TOKEN_FILE."
        ),
    };
    Err(Error::new(UNAUTHORIZED, message)
        .header("WWW-Authenticate", "Bearer realm=\"baa-conductor-host-ops\""))
}

/// Whether a route asks for the token of a caller that may come from outside of this machine, or of one that does not.
pub(crate) fn asks_token(node: &Node, route: &Route<Node>, outside: bool) -> bool {
    asks(node, route.kind, route.access, outside)
}

fn asks(node: &Node, kind: Kind, access: Access, outside: bool) -> bool {
    match (kind, access, node.config.auth) {
        (Kind::Probe, ..) => false,
        (_, Access::Token, _) | (_, _, Auth::All) | (Kind::Write, _, Auth::Writes) => true,
        (Kind::Write, _, Auth::HostOps) => outside,
        (Kind::Read, ..) => false,
    }
}

/// Of which callers a route asks for the token, for documents.
pub(crate) fn token(node: &Node, route: &Route<Node>) -> Token {
    let all_outside = node.local_api.loopback().is_err();
    match (asks_token(node, route, all_outside), asks_token(node, route, true)) {
        (true, _) => Token::Always,
        (false, true) => Token::FromOutside,
        (false, false) => Token::Never,
    }
}

/// Whether a request may have begun on another machine: it came for an address or a name that is not this machine's
/// alone, or a proxy says that it passed it on.
pub(crate) fn comes_from_outside(node: &Node, request: &Request) -> bool {
    let here =
        |host: &str| LocalUrl { host: without_port(host).to_ascii_lowercase(), port: 0 }.loopback().is_ok();
    node.local_api.loopback().is_err()
        || request.header("host").is_some_and(|host| !here(host))
        || request.headers().iter().any(|(name, _)| tells_of_a_proxy(name))
}

fn tells_of_a_proxy(header: &str) -> bool {
    let begin = header.get(..FORWARDED_PREFIX.len());
    begin.is_some_and(|begin| begin.eq_ignore_ascii_case(FORWARDED_PREFIX))
        || FORWARDED.iter().any(|name| header.eq_ignore_ascii_case(name))
}

/// The base that a caller should use: this node's own, or the public one if it came by that.
pub(crate) fn origin(node: &Node, request: &Request) -> String {
    let public = node.config.control_api_base.as_ref().filter(|_| came_by_public_host(node, request));
    public.cloned().unwrap_or_else(|| node.local_api.to_string())
}

fn came_by_public_host(node: &Node, request: &Request) -> bool {
    let host = without_port(request.header("host").unwrap_or_default());
    public_host(&node.config).is_some_and(|public| public.eq_ignore_ascii_case(host))
}

/// `host` of `host:port`; of a bracketed address the address.
fn without_port(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split(':').next().unwrap_or_default(),
    }
}
