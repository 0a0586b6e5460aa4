//! Who is asked for the token, for every row of the table.

use common::http::{Access, Kind, Method};

use super::*;
use crate::routes::ROUTES;

const PUBLIC: &str = "Host: control.example.test\r\n";
const TOKEN: &str = "Authorization: Bearer secret\r\n";

/// Asks for every row: where the token is missing or wrong, 401 comes exactly from those that `asks` says; with it, none.
#[track_caller]
fn walk(args: &str, headers: &str, asks: fn(Kind, Access) -> bool) {
    // without a codexd: who gets past the token is told that it is missing
    let public = "--control-api-base https://control.example.test";
    let front = Front::start(&format!("{public} --shared-token secret {args}"));
    for route in ROUTES {
        let path: Vec<_> = route.path.split('/').map(|part| part.replace(':', "a")).collect();
        let ask = |token: &str| {
            let body = if route.method == Method::Post { "{}" } else { "" };
            let headers = format!("{headers}{token}");
            front.ask(route.method.as_str(), &path.join("/"), &headers, body)
        };
        for token in ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic secret\r\n"] {
            let response = ask(token);
            let asked = response.status == 401;
            assert_eq!(asked, asks(route.kind, route.access), "{} {args} {headers}{token}", route.id);
            if asked {
                let realm = response.header("www-authenticate");
                assert_eq!(realm, Some("Bearer realm=\"baa-conductor-host-ops\""));
                assert_eq!(response.envelope()["error"], "unauthorized");
            }
        }
        assert_ne!(ask(TOKEN).status, 401, "{} {args} {headers}", route.id);
    }
}

fn host_operations(_: Kind, access: Access) -> bool {
    access == Access::Token
}

fn writes(kind: Kind, access: Access) -> bool {
    kind == Kind::Write || access == Access::Token
}

fn all(kind: Kind, _: Access) -> bool {
    kind != Kind::Probe
}

#[test]
fn every_route_asks_for_the_token_as_the_settings_say() {
    walk("", "", host_operations);
    walk("BAA_CONDUCTOR_AUTH=host-ops", "Host: [::1]:4317\r\n", host_operations);
    walk("BAA_CONDUCTOR_AUTH=writes", "", writes);
    walk("BAA_CONDUCTOR_AUTH=all", "", all);
    walk("BAA_CONDUCTOR_AUTH=all", PUBLIC, all);
}

#[test]
fn who_may_come_from_outside_writes_with_the_token_alone() {
    walk("", PUBLIC, writes);
    walk("", "Host: Control.Example.Test:443\r\n", writes);
    let allowed = "BAA_CONDUCTOR_LOCAL_API_ALLOWED_HOSTS=mini.example.test";
    walk(allowed, "Host: mini.example.test\r\n", writes);
    // a proxy on this machine that puts our own address into `Host`
    for header in
        ["Forwarded: for=192.0.2.1", "X-Forwarded-For: 192.0.2.1", "x-forwarded-host: a", "X-Real-IP: ::1"]
    {
        walk("", &format!("{header}\r\n"), writes);
    }
}
