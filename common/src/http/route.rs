//! The table of routes: what dispatch, describe, OpenAPI and the docs read, and how a path finds its row.
//!
//! Owns matching and the checks of a table. Knows nothing of sockets or of what a handler does.

use percent_encoding::percent_decode_str;

use super::{Answer, Request};
use crate::Error;
use crate::error::INVALID_REQUEST;
use crate::wire::{self, Field, Type};

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
    /// The statuses of its success.
    pub success: &'static [u16],
    /// What `data` holds in the answer.
    pub returns: &'static [Field],
    /// What serves it.
    pub handler: Handler<S>,
}

impl<S> Route<S> {
    /// A probe: plain text, on no surface but the diagnostics.
    pub const fn probe(
        id: &'static str,
        path: &'static str,
        summary: &'static str,
        handler: Handler<S>,
    ) -> Route<S> {
        let row = Route::read(id, path, summary, handler);
        Route { kind: Kind::Probe, surface: Surface::Diagnostics, ..row }
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
            returns: &[],
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

    /// The same, telling what `data` holds.
    pub const fn returns(self, returns: &'static [Field]) -> Route<S> {
        Route { returns, ..self }
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
        if route.kind == Kind::Probe && route.access == Access::Token {
            fault("a probe never asks for the token".to_string());
        }
        for field in wire::faults(route.query).into_iter().chain(wire::faults(route.body.unwrap_or_default()))
        {
            fault(field);
        }
        for field in route.query {
            if matches!(field.kind, Type::Object | Type::Array | Type::Any) {
                fault(format!("query value `{}` cannot be written in a query string", field.name));
            }
        }
        for other in &routes[..index] {
            if other.method == route.method && overlap(other.path, route.path) {
                fault(format!("a path may mean this and {}", other.id));
            }
        }
    }
    faults
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
mod tests {
    use super::*;
    use crate::fields;

    const GET: Route<()> =
        Route::read("a", "/a", "Reads.", |_, _| Err(Error::new(INVALID_REQUEST, "never called")));
    const POST: Route<()> =
        Route { id: "b", method: Method::Post, path: "/b", kind: Kind::Write, body: Some(&[]), ..GET };

    static TABLE: &[Route<()>] = &[
        GET,
        POST,
        Route { id: "a.item", path: "/a/:id", ..GET },
        Route { id: "a.change", path: "/a/:id", ..POST },
        Route { id: "a.part", path: "/a/:id/part/:part_id", ..GET },
    ];

    #[test]
    fn a_sound_table_has_no_faults() {
        assert_eq!(faults(TABLE), Vec::<String>::new());
    }

    #[test]
    fn each_mistake_in_a_table_is_a_line() {
        let check = |route: Route<()>, expected: &str| {
            assert_eq!(faults(&[Route { id: "x", path: "/x", ..GET }, route]), [expected]);
        };
        let id = "the id is empty or there twice";
        let ambiguous = "a: a path may mean this and x";
        let post = "a: a POST has body fields (perhaps none of them), a GET has no body";
        check(Route { id: "x", ..GET }, &format!("x: {id}"));
        check(Route { id: "", ..GET }, &format!(": {id}"));
        check(Route { summary: " ", ..GET }, "a: no summary");
        check(Route { path: "/x", ..GET }, ambiguous);
        check(Route { path: "/:any", ..GET }, ambiguous);
        check(Route { id: "a", body: None, ..POST }, post);
        check(Route { body: Some(&[]), ..GET }, post);
        check(Route { kind: Kind::Write, ..GET }, "a: a GET never writes");
        check(
            Route { kind: Kind::Probe, access: Access::Token, ..GET },
            "a: a probe never asks for the token",
        );
        check(Route { path: "/a/:1", ..GET }, "a: parameter `1` is no identifier");
        check(Route { path: "/a/:", ..GET }, "a: parameter `` is no identifier");
        check(Route { path: "/:id/:id", ..GET }, "a: parameter `id` is there twice");
        let rooted = "a: the path does not begin with `/`, or has an empty segment";
        check(Route { path: "a", ..GET }, rooted);
        check(Route { path: "/a/", ..GET }, rooted);
        check(Route { path: "/a b", ..GET }, "a: the path has a character that clients encode");
        let fields = fields![optional "a": any, "Anything.";];
        check(Route { query: fields, ..GET }, "a: query value `a` cannot be written in a query string");
        check(Route { query: fields![optional "a": integer, "";], ..GET }, "a: field `a` has no summary");
    }

    #[test]
    fn a_request_finds_its_row_or_what_is_allowed() {
        let check = |method: &str, path: &str, expected: &str| {
            let found = match find(TABLE, method, path) {
                Found::Route(route, row) => {
                    assert_eq!(TABLE[row].id, route.id);
                    route.id.to_string()
                }
                Found::Allow(allow) => format!("allow {allow}"),
                Found::Nothing => "nothing".to_string(),
            };
            assert_eq!(found, expected, "{method} {path}");
        };
        check("GET", "/a", "a");
        check("HEAD", "/a", "a");
        check("POST", "/b", "b");
        check("GET", "/a/7", "a.item");
        check("POST", "/a/7", "a.change");
        check("GET", "/a/7/part/8", "a.part");
        check("POST", "/a", "allow GET, HEAD");
        check("HEAD", "/b", "allow POST");
        check("DELETE", "/a/7", "allow GET, HEAD, POST");
        check("get", "/a", "allow GET, HEAD");
        for path in ["/", "", "/c", "/a/", "/a//part/8", "/a/7/part", "/a/7/8/part", "a"] {
            check("GET", path, "nothing");
        }
    }

    #[test]
    fn parameters_are_decoded_or_named_in_the_refusal() {
        let route = &TABLE[4];
        let expected = vec![("id", "a/b".to_string()), ("part_id", "\u{e9}".to_string())];
        assert_eq!(params(route, "/a/a%2Fb/part/%C3%A9").unwrap(), expected);
        for raw in ["%", "%2", "%zz", "%ff", "a%c3"] {
            let error = params(route, &format!("/a/x/part/{raw}")).unwrap_err();
            assert_eq!(
                error.message,
                format!("Path parameter `part_id` is not percent-encoded UTF-8: `{raw}`.")
            );
        }
    }
}
