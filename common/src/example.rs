//! Examples for the documents of a table: one line of shell for each row, which runs as it is printed.
//!
//! A line makes what it needs by the other rows: `$SESSION` in a path or a body is the `sessionId` (or `session_id`) of
//! the answer of the row that makes sessions, or else lists them. Knows no route by name.

use crate::http::{Method, Route};

/// A table, and where it is served.
pub struct Examples<'a, S: 'static> {
    /// `http://HOST:PORT`.
    pub base: &'a str,
    /// The table.
    pub routes: &'static [Route<S>],
    /// Which rows ask for the token.
    pub token: &'a dyn Fn(&Route<S>) -> bool,
}

impl<S> Examples<'_, S> {
    /// The line for a row; `None` for a mere WebSocket.
    pub fn curl(&self, route: &Route<S>) -> Option<String> {
        self.curl_with(route, "")
    }

    /// The same with this query string.
    pub fn curl_with(&self, route: &Route<S>, query: &str) -> Option<String> {
        if route.only_upgrades() {
            return None;
        }
        let mut line = String::new();
        let last = self.call(route, query);
        let before = self.routes.iter().find(|row| row.id == route.after).map(|row| self.call(row, ""));
        for call in before.iter().chain([&last]) {
            self.make(call, &mut line);
        }
        line += &before.map(|call| format!("{call} >/dev/null; ")).unwrap_or_default();
        Some(line + &last)
    }

    /// Puts into `line` what makes the variables of a call.
    fn make(&self, call: &str, line: &mut String) {
        for name in variables(call) {
            let sets = format!("{name}=$(");
            if let (Some(source), false) = (self.source(&name), line.contains(&sets)) {
                let made = self.call(source, "");
                self.make(&made, line);
                let key = name.to_ascii_lowercase();
                *line += &format!(
                    "{sets}{made} | sed -n 's/.*\"{key}_*[iI]d\": \"\\([^\"]*\\)\".*/\\1/p' | head -n 1); "
                );
            }
        }
    }

    /// What makes a thing, or else lists such things: `SESSION` is made by a POST to `…/sessions` or `…/session`.
    fn source(&self, name: &str) -> Option<&Route<S>> {
        let one = name.to_ascii_lowercase();
        let fits = |route: &&Route<S>| {
            let last = route.path.rsplit('/').next().unwrap_or_default();
            last.strip_suffix('s').unwrap_or(last) == one
        };
        let mut rows: Vec<_> = self.routes.iter().filter(fits).collect();
        rows.sort_by_key(|route| route.method != Method::Post);
        rows.first().copied()
    }

    fn call(&self, route: &Route<S>, query: &str) -> String {
        let url = format!("{}{}", self.base, path(route));
        let query = if route.body.is_none() && query.is_empty() { route.example } else { query };
        let quote = if url.contains('$') { '"' } else { '\'' }; // its variables are to be filled in
        let url = if query.is_empty() { url } else { format!("{quote}{url}?{query}{quote}") };
        let token = if (self.token)(route) { " -H \"Authorization: Bearer $BAA_SHARED_TOKEN\"" } else { "" };
        match route.body {
            None => format!("curl -s{token} {url}"),
            Some([]) => format!("curl -s -X POST{token} {url}"),
            Some(_) => {
                let body = if route.example.is_empty() { "{}".to_string() } else { spliced(route.example) };
                format!("curl -s{token} {url} -H 'content-type: application/json' -d '{body}'")
            }
        }
    }
}

/// The path with a variable for each parameter: what stands before it, as one of those.
fn path<S>(route: &Route<S>) -> String {
    let mut before = "";
    let segments = route.path.split('/').map(|segment| {
        let shown = match segment.strip_prefix(':') {
            Some(_) => format!("${}", before.strip_suffix('s').unwrap_or(before).to_ascii_uppercase()),
            None => segment.to_string(),
        };
        before = segment;
        shown
    });
    segments.collect::<Vec<_>>().join("/")
}

/// The variables of a text, once each.
fn variables(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in text.split('$').skip(1) {
        let name: String = rest.chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
        if !name.is_empty() && !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// A text for single quotes, its variables outside of them.
fn spliced(text: &str) -> String {
    let mut out = text.replace('\'', "'\\''");
    for name in variables(text) {
        out = out.replace(&format!("${name}"), &format!("'\"${name}\"'"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields;
    use crate::http::{Access, Answer, Request};
    use crate::wire::Field;

    fn never(_: &(), _: &Request) -> Result<Answer, crate::Error> {
        unreachable!()
    }

    const TEXT: &[Field] = fields![required "teaId": string, "Which."; optional "text": string, "A text.";];
    static TABLE: &[Route<()>] = &[
        Route::read("teas.list", "/teas", "x", never).example("limit=1"),
        Route::write("teas.create", "/teas", "x", TEXT, never),
        Route::write("cup.create", "/cup", "x", TEXT, never).example(r#"{"teaId":"$TEA","text":"it's"}"#),
        Route::read("cups.read", "/cups/:id", "x", never),
        Route::write("teas.drop", "/teas/:tea_id/drop", "x", &[], never).after("cup.create").token(),
        Route::read("cups.look", "/cups/:id/look", "x", never).example("a=1&b=2"),
        Route::read("guests.list", "/guests", "x", never),
        Route::read("guests.read", "/guests/:id", "x", never),
        Route::read("door", "/door", "x", never).success(&[101]),
    ];

    fn check(id: &str, expected: Option<&str>) {
        let token = |route: &Route<()>| route.access == Access::Token;
        let examples = Examples { base: "http://h:1", routes: TABLE, token: &token };
        let route = TABLE.iter().find(|route| route.id == id).unwrap();
        assert_eq!(examples.curl(route).as_deref(), expected);
    }

    #[test]
    fn a_line_makes_what_it_needs() {
        let tea = "TEA=$(curl -s http://h:1/teas -H 'content-type: application/json' -d '{}' \
            | sed -n 's/.*\"tea_*[iI]d\": \"\\([^\"]*\\)\".*/\\1/p' | head -n 1); ";
        let cup = "curl -s http://h:1/cup -H 'content-type: application/json' -d '{\"teaId\":\"'\"$TEA\"'\",\"text\":\"it'\\''s\"}'";
        let pick = |name: &str| {
            format!(" | sed -n 's/.*\"{name}_*[iI]d\": \"\\([^\"]*\\)\".*/\\1/p' | head -n 1); ")
        };
        check("teas.list", Some("curl -s 'http://h:1/teas?limit=1'"));
        check("cup.create", Some(&format!("{tea}{cup}")));
        check("cups.read", Some(&format!("{tea}CUP=$({cup}{}curl -s http://h:1/cups/$CUP", pick("cup"))));
        let look = format!("{tea}CUP=$({cup}{}curl -s \"http://h:1/cups/$CUP/look?a=1&b=2\"", pick("cup"));
        check("cups.look", Some(&look));
        let drop = "curl -s -X POST -H \"Authorization: Bearer $BAA_SHARED_TOKEN\" http://h:1/teas/$TEA/drop";
        check("teas.drop", Some(&format!("{tea}{cup} >/dev/null; {drop}")));
        let guests = format!("GUEST=$(curl -s http://h:1/guests{}", pick("guest"));
        check("guests.read", Some(&format!("{guests}curl -s http://h:1/guests/$GUEST")));
        check("door", None);
    }
}
