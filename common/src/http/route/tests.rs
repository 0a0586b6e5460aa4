//! The checks of a table, and how a path finds its row.

use super::*;
use crate::fields;

const GET: Route<()> =
    Route::read("a", "/a", "Reads.", |_, _| Err(Error::new(INVALID_REQUEST, "never called")))
        .returns(fields![required "x": string, "An x.";]);
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
    check(Route { kind: Kind::Probe, access: Access::Token, ..GET }, "a: a probe never asks for the token");
    check(Route { path: "/a/:1", ..GET }, "a: parameter `1` is no identifier");
    check(Route { path: "/a/:", ..GET }, "a: parameter `` is no identifier");
    check(Route { path: "/:id/:id", ..GET }, "a: parameter `id` is there twice");
    check(Route { returns: &[], ..GET }, "a: nothing tells what its `data` holds");
    check(GET.bare("text/html"), "a: a bare answer has no `data`");
    let body: &[Field] = fields![required "x": string, "x";];
    check(Route { id: "a", body: Some(body), ..POST }, "a: a body with required fields has an example");
    static SAME: Record = Record { name: "Same", fields: fields![required "x": string, "x";] };
    static OTHER: Record = Record { name: "Same", fields: &[] };
    const BOTH: &[Field] = fields![required "a": record(&SAME), "x"; required "b": record(&OTHER), "x";];
    check(Route { returns: BOTH, ..GET }, "Same: two records have this name");
    let rooted = "a: the path does not begin with `/`, or has an empty segment";
    check(Route { path: "a", ..GET }, rooted);
    check(Route { path: "/a/", ..GET }, rooted);
    check(Route { path: "/a b", ..GET }, "a: the path has a character that clients encode");
    let fields = fields![optional "a": any, "Anything.";];
    check(Route { query: fields, ..GET }, "a: query value `a` cannot be written in a query string");
    check(Route { query: fields![optional "a": integer, "";], ..GET }, "a: field `a` has no summary");
}

#[test]
fn what_a_call_may_fail_with_follows_from_its_row() {
    let codes = |route: &Route<()>, token| -> Vec<u16> {
        route.failures(token).iter().map(|code| code.status).collect()
    };
    assert_eq!(codes(&GET, false), [400, 403, 408, 431, 500, 503, 505, 507]);
    assert_eq!(codes(&Route { kind: Kind::Probe, ..GET }, false), [400, 403, 408, 431, 500, 503, 505]);
    let post = [400, 400, 401, 403, 403, 408, 409, 413, 415, 429, 431, 500, 503, 505, 507];
    assert_eq!(codes(&POST, true), post);
    let item = Route { path: "/a/:id", ..GET };
    assert_eq!(codes(&item, false), [400, 403, 404, 408, 431, 500, 503, 505, 507]);
    let peers: &[u16] = &[400, 403, 408, 431, 500, 502, 503, 503, 504, 505, 507];
    assert_eq!(codes(&GET.asks(Asks::AppServer), false), peers);
    assert_eq!(codes(&GET.asks(Asks::Codexd), false).iter().filter(|status| **status == 503).count(), 4);
    assert!(codes(&GET.success(&[101, 200]), false).contains(&426));
    let naming = POST.asks(Asks::Codexd);
    assert!(!codes(&naming, false).contains(&404), "it names nothing");
    let body: &[Field] = fields![required "x": string, "x";];
    assert!(codes(&Route { body: Some(body), ..naming }, false).contains(&404));
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
        assert_eq!(error.message, format!("Path parameter `part_id` is not percent-encoded UTF-8: `{raw}`."));
    }
}
