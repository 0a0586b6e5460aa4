//! The table of routes: what dispatch, describe, OpenAPI and the docs read, and how a path finds its row.
//!
//! Owns matching and the checks of a table. Knows nothing of sockets or of what a handler does.

use percent_encoding::percent_decode_str;

use super::{Answer, Request};
use crate::Error;
use crate::error::{CODES, Code, INVALID_REQUEST};
use crate::wire::{self, Field, Record, Type};

/// A method that a route may have. `HEAD` is served by the `GET` row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`, and `HEAD` with it.
    Get,
    /// `POST`.
    Post,
}

impl Method {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
        }
    }
}

/// What a call does, for access rules and documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Asks whether the process is well; served even when the node is full.
    Probe,
    /// Changes nothing.
    Read,
    /// Changes something, so no foreign web page may ask for it.
    Write,
}

/// Which document shows a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// The probes.
    Diagnostics,
    /// Work: codex, tasks.
    Business,
    /// The node: mode, host operations.
    Control,
    /// Business and control.
    Both,
    /// Neither, yet no secret.
    None,
    /// Works, and no document shows it.
    Hidden,
}

/// Whether a route always asks for the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Not by itself.
    Open,
    /// Always.
    Token,
}

/// Which other process a route has to ask, and fails with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// None.
    Nobody,
    /// codexd's child.
    AppServer,
    /// codexd, and whatever that asks.
    Codexd,
}

/// What a success carries, beside an upgrade (101).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `data` in the envelope, as `returns` tells.
    Data,
    /// A body of this media type, and nothing around it.
    Bare(&'static str),
}

/// What serves a route: the daemon's shared state and a complete request in, an answer or an error out.
pub type Handler<S> = fn(&S, &Request) -> Result<Answer, Error>;

/// One row of the table.
pub struct Route<S: 'static> {
    /// A name that is unique in the table, as `codex.turn.create`.
    pub id: &'static str,
    /// The method.
    pub method: Method,
    /// The path; a segment that begins with `:` is a parameter.
    pub path: &'static str,
    /// What a call does.
    pub kind: Kind,
    /// Which document shows it.
    pub surface: Surface,
    /// Whether it always asks for the token.
    pub access: Access,
    /// Whether `/describe*` lists it.
    pub describe: bool,
    /// A sentence for the documents.
    pub summary: &'static str,
    /// Values of the query string that it knows; checked before the handler runs.
    pub query: &'static [Field],
    /// Fields of the body; `None` for a route without one.
    pub body: Option<&'static [Field]>,
    /// The statuses of its success; 101 for one that can become a WebSocket.
    pub success: &'static [u16],
    /// What its success carries.
    pub form: Form,
    /// What `data` holds in the answer; of an optional value `null` is one, and what depends on the call may be missing.
    pub returns: &'static [Field],
    /// Whether `Accept: text/event-stream` gets events as they come.
    pub streams: bool,
    /// Whether it takes an `Idempotency-Key`.
    pub keyed: bool,
    /// Whom it asks.
    pub asks: Asks,
    /// For the example in the documents: a body, or the query string of a route without one. `$SESSION` and the like stand
    /// for what another example makes, see `crate::example`.
    pub example: &'static str,
    /// The row that its example calls before, if any.
    pub after: &'static str,
    /// What serves it.
    pub handler: Handler<S>,
}

impl<S> Route<S> {
    /// A probe: plain text (or what `returns` tells), on no surface but the diagnostics.
    pub const fn probe(
        id: &'static str,
        path: &'static str,
        summary: &'static str,
        handler: Handler<S>,
    ) -> Route<S> {
        let row = Route::read(id, path, summary, handler);
        Route { kind: Kind::Probe, surface: Surface::Diagnostics, form: Form::Bare("text/plain"), ..row }
    }

    /// A `GET` that changes nothing.
    pub const fn read(
        id: &'static str,
        path: &'static str,
        summary: &'static str,
        handler: Handler<S>,
    ) -> Route<S> {
        Route {
            id,
            method: Method::Get,
            path,
            kind: Kind::Read,
            surface: Surface::Business,
            access: Access::Open,
            describe: true,
            summary,
            query: &[],
            body: None,
            success: &[200],
            form: Form::Data,
            returns: &[],
            streams: false,
            keyed: false,
            asks: Asks::Nobody,
            example: "",
            after: "",
            handler,
        }
    }

    /// A `POST` with these fields.
    pub const fn write(
        id: &'static str,
        path: &'static str,
        summary: &'static str,
        body: &'static [Field],
        handler: Handler<S>,
    ) -> Route<S> {
        let row = Route::read(id, path, summary, handler);
        Route { method: Method::Post, kind: Kind::Write, body: Some(body), ..row }
    }

    /// The same, changing nothing: a `POST` that only carries what is asked for.
    pub const fn reads(self) -> Route<S> {
        Route { kind: Kind::Read, ..self }
    }

    /// The same on another surface.
    pub const fn on(self, surface: Surface) -> Route<S> {
        Route { surface, ..self }
    }

    /// The same with values in its query string.
    pub const fn query(self, query: &'static [Field]) -> Route<S> {
        Route { query, ..self }
    }

    /// The same, asking for the token always.
    pub const fn token(self) -> Route<S> {
        Route { access: Access::Token, ..self }
    }

    /// The same with other statuses of success than 200.
    pub const fn success(self, success: &'static [u16]) -> Route<S> {
        Route { success, ..self }
    }

    /// The same, answering with an envelope, and telling what its `data` holds.
    pub const fn returns(self, returns: &'static [Field]) -> Route<S> {
        Route { form: Form::Data, returns, ..self }
    }

    /// The same, answering with a body of this media type and no envelope.
    pub const fn bare(self, media: &'static str) -> Route<S> {
        Route { form: Form::Bare(media), ..self }
    }

    /// The same, with a stream for those who accept one.
    pub const fn streams(self) -> Route<S> {
        Route { streams: true, ..self }
    }

    /// The same, taking an `Idempotency-Key`.
    pub const fn keyed(self) -> Route<S> {
        Route { keyed: true, ..self }
    }

    /// The same, asking another process.
    pub const fn asks(self, asks: Asks) -> Route<S> {
        Route { asks, ..self }
    }

    /// The same, with a body (or a query string) for its example.
    pub const fn example(self, example: &'static str) -> Route<S> {
        Route { example, ..self }
    }

    /// The same, with another row that its example calls before.
    pub const fn after(self, after: &'static str) -> Route<S> {
        Route { after, ..self }
    }

    /// Whether it can become a WebSocket.
    pub fn upgrades(&self) -> bool {
        self.success.contains(&101)
    }

    /// Whether it is nothing but a WebSocket.
    pub fn only_upgrades(&self) -> bool {
        self.success == [101]
    }

    /// The codes that a call may fail with, in order of status; `token` if it may be asked for the token.
    pub fn failures(&self, token: bool) -> Vec<&'static Code> {
        let post = self.method == Method::Post;
        let has_fields = self.body.is_some_and(|fields| !fields.is_empty());
        let names_a_thing = self.params().next().is_some() || (self.asks != Asks::Nobody && has_fields);
        let fails = |code: &&Code| match code.name.as_ref() {
            "invalid_request"
            | "forbidden_host"
            | "request_timeout"
            | "headers_too_large"
            | "internal_error"
            | "overloaded"
            | "http_version_not_supported" => true,
            "unauthorized" => token,
            "forbidden_origin" => post || self.upgrades(),
            "not_found" => names_a_thing,
            "invalid_json"
            | "conflict"
            | "payload_too_large"
            | "unsupported_media_type"
            | "too_many_requests" => post,
            "upgrade_required" => self.upgrades(),
            "app_server_error" | "app_server_unavailable" | "app_server_timeout" => self.asks != Asks::Nobody,
            "codexd_invalid_response" | "codexd_not_configured" | "codexd_unavailable" => {
                self.asks == Asks::Codexd
            }
            // Reads too: what they would show may be what could not be made durable.
            "storage_failed" => self.kind != Kind::Probe,
            _ => false, // of no route: `method_not_allowed`
        };
        CODES.iter().copied().filter(fails).collect()
    }

    /// The names of the path's parameters, in order.
    pub fn params(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|segment| segment.strip_prefix(':'))
    }

    fn matches(&self, path: &str) -> bool {
        let (mut ours, mut theirs) = (self.path.split('/'), path.split('/'));
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return true,
                (Some(our), Some(their)) if our == their => {}
                (Some(our), Some(their)) if our.starts_with(':') && !their.is_empty() => {}
                _ => return false,
            }
        }
    }
}

/// What the table says about a method and a path.
pub(super) enum Found<S: 'static> {
    /// The row, and its place in the table.
    Route(&'static Route<S>, usize),
    /// The path is there, the method is not; the value of `Allow`.
    Allow(String),
    Nothing,
}

/// Looks a request up; `HEAD` finds the `GET` row.
pub(super) fn find<S>(routes: &'static [Route<S>], method: &str, path: &str) -> Found<S> {
    let wanted = if method == "HEAD" { "GET" } else { method };
    let mut allow = Vec::new();
    for (row, route) in routes.iter().enumerate().filter(|(_, route)| route.matches(path)) {
        if route.method.as_str() == wanted {
            return Found::Route(route, row);
        }
        allow.push(match route.method {
            Method::Get => "GET, HEAD",
            Method::Post => "POST",
        });
    }
    if allow.is_empty() { Found::Nothing } else { Found::Allow(allow.join(", ")) }
}

/// The decoded parameters of a path that `route` matches.
///
/// # Errors
/// `invalid_request` for a segment that is no percent-encoded UTF-8.
pub(super) fn params<S>(route: &Route<S>, path: &str) -> Result<Vec<(&'static str, String)>, Error> {
    let pairs = route.path.split('/').zip(path.split('/'));
    pairs
        .filter_map(|(ours, theirs)| Some((ours.strip_prefix(':')?, theirs)))
        .map(|(name, raw)| match decode(raw) {
            Some(value) => Ok((name, value)),
            None => Err(Error::new(
                INVALID_REQUEST,
                format!("Path parameter `{name}` is not percent-encoded UTF-8: `{raw}`."),
            )),
        })
        .collect()
}

/// Percent-decodes; `None` for a `%` without two hex digits, and for what is no UTF-8.
pub(super) fn decode(raw: &str) -> Option<String> {
    let mut escapes = raw.split('%').skip(1);
    if !escapes.all(|rest| rest.len() >= 2 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit())) {
        return None;
    }
    Some(percent_decode_str(raw).decode_utf8().ok()?.into_owned())
}

/// One line for each mistake in a table; a test of each daemon asserts that there is none.
pub fn faults<S>(routes: &[Route<S>]) -> Vec<String> {
    let mut faults = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let mut fault = |text: String| faults.push(format!("{}: {text}", route.id));
        path_faults(route, &mut fault);
        if route.id.is_empty() || routes[..index].iter().any(|other| other.id == route.id) {
            fault("the id is empty or there twice".to_string());
        }
        if route.summary.trim().is_empty() {
            fault("no summary".to_string());
        }
        if (route.method == Method::Post) != route.body.is_some() {
            fault("a POST has body fields (perhaps none of them), a GET has no body".to_string());
        }
        if route.method == Method::Get && route.kind == Kind::Write {
            fault("a GET never writes".to_string());
        }
        if route.form == Form::Data && route.returns.is_empty() && !route.only_upgrades() {
            fault("nothing tells what its `data` holds".to_string());
        }
        if route.form != Form::Data && !route.returns.is_empty() {
            fault("a bare answer has no `data`".to_string());
        }
        if route.example.is_empty() && route.body.is_some_and(|body| body.iter().any(|field| field.required))
        {
            fault("a body with required fields has an example".to_string());
        }
        if route.kind == Kind::Probe && route.access == Access::Token {
            fault("a probe never asks for the token".to_string());
        }
        for fields in [route.query, route.body.unwrap_or_default(), route.returns] {
            wire::faults(fields).into_iter().for_each(&mut fault);
        }
        for field in route.query {
            if !matches!(
                field.kind,
                Type::String { .. } | Type::Integer { .. } | Type::Boolean | Type::Enum(_)
            ) {
                fault(format!("query value `{}` cannot be written in a query string", field.name));
            }
        }
        for other in &routes[..index] {
            if other.method == route.method && overlap(other.path, route.path) {
                fault(format!("a path may mean this and {}", other.id));
            }
        }
    }
    let records = records(routes);
    for (index, record) in records.iter().enumerate() {
        if records[..index].iter().any(|other| other.name == record.name) {
            faults.push(format!("{}: two records have this name", record.name));
        }
    }
    faults
}

/// Every record that the documents of a table tell of, once.
pub fn records<S>(routes: &[Route<S>]) -> Vec<&'static Record> {
    let mut found: Vec<&Record> = Vec::new();
    for route in routes.iter().filter(|route| route.surface != Surface::Hidden) {
        for fields in [route.body.unwrap_or_default(), route.returns] {
            for record in wire::records(fields) {
                if !found.contains(&record) {
                    found.push(record);
                }
            }
        }
    }
    found
}

fn path_faults<S>(route: &Route<S>, fault: &mut impl FnMut(String)) {
    let params: Vec<_> = route.params().collect();
    for (index, name) in params.iter().enumerate() {
        let identifier = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if name.is_empty() || !identifier || name.as_bytes()[0].is_ascii_digit() {
            fault(format!("parameter `{name}` is no identifier"));
        }
        if params[..index].contains(name) {
            fault(format!("parameter `{name}` is there twice"));
        }
    }
    let literal = |b: u8| b.is_ascii_alphanumeric() || b"/:-_.".contains(&b);
    let rooted = route.path.strip_prefix('/');
    if !rooted.is_some_and(|rest| rest.is_empty() || rest.split('/').all(|segment| !segment.is_empty())) {
        fault("the path does not begin with `/`, or has an empty segment".to_string());
    }
    if !route.path.bytes().all(literal) {
        fault("the path has a character that clients encode".to_string());
    }
}

/// Whether some path matches both.
fn overlap(a: &str, b: &str) -> bool {
    let same = |(x, y): (&str, &str)| x == y || x.starts_with(':') || y.starts_with(':');
    a.split('/').count() == b.split('/').count() && a.split('/').zip(b.split('/')).all(same)
}

#[cfg(test)]
mod tests;
