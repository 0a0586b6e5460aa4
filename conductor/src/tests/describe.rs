//! What the table says of itself, to whom.

use common::http::Surface;
use serde_json::{Value, json};

use super::*;
use crate::routes::ROUTES;

const PAGES: [&str; 4] = ["/describe", "/describe/business", "/describe/control", "/v1/capabilities"];

fn data(front: &Front, path: &str) -> Value {
    front.get(path).envelope()["data"].take()
}

fn paths(rows: &Value) -> Vec<&str> {
    rows.as_array().unwrap().iter().map(|row| row["path"].as_str().unwrap()).collect()
}

#[test]
fn nothing_is_asked_of_codexd() {
    let upstream = Upstream::always(200, r#"{"ok": true, "data": 1}"#);
    let front = Front::start(&format!("--codexd-local-api {}", upstream.base));
    for path in PAGES.iter().chain(&["/openapi.json", "/health"]) {
        assert_eq!(front.get(path).status, 200, "{path}");
    }
    assert!(upstream.seen.lock().unwrap().is_empty());
}

#[test]
fn each_surface_has_its_rows_and_no_others() {
    let front = Front::start("--shared-token secret");
    for (page, surface) in
        [("/describe/business", Surface::Business), ("/describe/control", Surface::Control)]
    {
        let data = data(&front, page);
        let wanted =
            ROUTES.iter().filter(|route| route.describe && [surface, Surface::Both].contains(&route.surface));
        let wanted: Vec<_> = wanted.map(|route| route.path).collect();
        assert_eq!(paths(&data["endpoints"]), wanted);
        let (business, text) = (surface == Surface::Business, data["endpoints"].to_string());
        for foreign in ["/v1/system/pause", "/v1/exec", "/v1/runs"] {
            assert!(!business || !text.contains(foreign), "{foreign}");
        }
        assert!(business || !text.contains("/v1/tasks"));
        assert!(text.contains("/v1/codex") == business);
        assert_eq!(data["surface"], if business { "business" } else { "control" });
    }
}

#[test]
fn hidden_rows_stand_nowhere() {
    let front = Front::start("");
    let hidden = ROUTES.iter().filter(|route| route.surface == Surface::Hidden || !route.describe);
    let hidden: Vec<_> = hidden.map(|route| format!("\"{}\"", route.id)).collect();
    for page in PAGES {
        let text = front.get(page).body;
        assert!(hidden.iter().all(|id| !text.contains(id)), "{page}");
    }
    let openapi = front.get("/openapi.json").body;
    for route in ROUTES {
        let shown = openapi.contains(&format!("\"operationId\": \"{}\"", route.id));
        assert_eq!(shown, route.surface != Surface::Hidden, "{}", route.id);
    }
    let describe = data(&front, "/describe");
    for list in
        [&describe["capabilities"]["read_endpoints"], &data(&front, "/v1/capabilities")["read_endpoints"]]
    {
        assert!(!list.to_string().contains("/v1/runs") && list.to_string().contains("/v1/codex"));
    }
    assert!(!describe["codex"]["routes"].to_string().contains("/v1/codex/runs"));
}

#[test]
fn the_codex_block_says_whether_there_is_a_codexd() {
    let front = Front::start("");
    let notes = json!([
        "Codex routes stay unavailable until independent codexd is configured.",
        "Set BAA_CODEXD_LOCAL_API_BASE to the codexd local HTTP base URL before using /v1/codex.",
    ]);
    let expected = json!({
        "auth_mode": "local_network_only", "backend": "independent_codexd", "enabled": false,
        "route_prefix": "/v1/codex", "routes": null, "target_base_url": null, "transport": "local_http", "notes": notes,
    });
    for page in PAGES {
        let mut codex = data(&front, page)["codex"].take();
        let routes = codex["routes"].take();
        assert_eq!(paths(&routes)[..2], ["/v1/codex", "/v1/codex/sessions"]);
        assert_eq!(codex, expected, "{page}");
    }
    let front = Front::start("--codexd-local-api http://127.0.0.1:4319/");
    for page in PAGES {
        let codex = data(&front, page)["codex"].take();
        assert_eq!(
            (&codex["enabled"], &codex["target_base_url"]),
            (&json!(true), &json!("http://127.0.0.1:4319"))
        );
        assert_ne!(codex["notes"], notes);
    }
}

#[test]
fn describe_tells_what_this_is_and_where_to_read_on() {
    let front = Front::start("--shared-token secret");
    let describe = data(&front, "/describe");
    assert_eq!(
        (&describe["name"], &describe["version"]),
        (&json!("baa-conductor-daemon"), &json!(env!("CARGO_PKG_VERSION")))
    );
    assert_eq!(describe["origin"], format!("http://{}", front.address));
    assert_eq!(describe["system"]["mode"], "running");
    assert_eq!(describe["websocket"]["auth_mode"], "local_network_only");
    assert_eq!(describe["websocket"]["url"], format!("ws://{}/ws/firefox", front.address));
    let endpoints = &describe["describe_endpoints"];
    assert_eq!(
        (&endpoints["business"]["path"], &endpoints["control"]["path"]),
        (&json!("/describe/business"), &json!("/describe/control"))
    );
    assert!(endpoints["business"]["summary"].is_string() && endpoints["control"]["summary"].is_string());
    let header = "Authorization: Bearer <BAA_SHARED_TOKEN>";
    for page in PAGES.iter().filter(|page| **page != "/describe/business") {
        let operations = data(&front, page)["host_operations"].take();
        assert_eq!(operations["auth"], json!({ "header": header, "configured": true }), "{page}");
        let there = ROUTES.iter().filter(|route| route.id.starts_with("host.")).count();
        assert_eq!(
            (operations["enabled"] == true, operations["operations"].as_array().unwrap().len()),
            (there > 0, there)
        );
    }
    let capabilities = data(&front, "/v1/capabilities");
    assert_eq!(capabilities["runtime"]["identity"], "mini-main@mini(primary)");
    assert_eq!(capabilities["runtime"]["lease_state"], "leader");
    let probes =
        ROUTES.iter().filter(|route| route.kind == common::http::Kind::Probe).map(|route| route.path);
    assert_eq!(paths(&capabilities["diagnostics"]), probes.collect::<Vec<_>>());
    let without = data(&Front::start(""), "/describe/control");
    assert_eq!(without["host_operations"]["auth"]["configured"], false);
    assert_eq!(without["auth"]["configured"], false);
}

#[test]
fn an_endpoint_tells_what_it_takes_and_gives() {
    let front = Front::start("");
    let business = data(&front, "/describe/business");
    let rows = business["endpoints"].as_array().unwrap();
    let turn = rows.iter().find(|row| row["id"] == "codex.turn.create").unwrap();
    assert_eq!(
        (&turn["method"], &turn["path"], &turn["kind"], &turn["auth"]),
        (&json!("POST"), &json!("/v1/codex/turn"), &json!("write"), &json!("token_from_outside"))
    );
    let session_id =
        json!({ "name": "sessionId", "type": "string", "required": true, "summary": "The session." });
    assert_eq!(turn["body"][0], session_id);
    let wait = json!({
        "name": "waitMs", "type": "integer", "required": false, "min": 0, "max": 600_000,
        "summary": "Waits so long for the end of the turn.",
    });
    assert_eq!((&turn["query"], &turn["success"]), (&json!([wait]), &json!([200, 202])));
    assert_eq!((&turn["event_stream"], &turn["idempotency_key"]), (&json!(true), &json!(true)));
    let of = |list: &Value, name: &str| {
        list.as_array().unwrap().iter().find(|field| field["name"] == name).unwrap().clone()
    };
    assert_eq!(of(&turn["returns"], "session")["type"], "Session");
    let id = of(&business["types"]["Session"], "sessionId");
    assert_eq!((&id["type"], &id["always"]), (&json!("string"), &json!(true)));
    let read = rows.iter().find(|row| row["id"] == "codex.sessions.read").unwrap();
    assert_eq!((&read["path_parameters"], &read["body"]), (&json!(["session_id"]), &Value::Null));
    assert_eq!(of(&read["returns"], "recentEvents")["type"], "Event[]");
    for row in rows {
        for field in row["returns"].as_array().into_iter().flatten() {
            let name = field["type"].as_str().unwrap().trim_end_matches("[]");
            let named = name.starts_with(char::is_uppercase);
            assert!(!named || business["types"][name].is_array(), "{name} of {row}");
        }
    }
}

#[test]
fn who_comes_from_outside_is_told_of_the_public_base_and_of_the_token() {
    let front = Front::start("--control-api-base https://control.example.test --shared-token secret");
    let ask = |host: &str, path: &str| front.ask("GET", path, &format!("Host: {host}\r\n"), "").json();
    let create = |business: &Value| {
        let rows = business["data"]["examples"].as_array().unwrap();
        rows.iter().find(|row| row["path"] == "/v1/codex/sessions").unwrap()["curl"]
            .as_str()
            .unwrap()
            .to_string()
    };
    let (inside, outside) = (ask("localhost", "/describe"), ask("control.example.test", "/describe"));
    assert_eq!(outside["data"]["origin"], "https://control.example.test");
    assert_eq!(inside["data"]["origin"], format!("http://{}", front.address));
    let business = ask("localhost", "/describe/business");
    assert!(!create(&business).contains("Bearer"));
    let rows = business["data"]["endpoints"].as_array().unwrap();
    let auth = |id: &str| rows.iter().find(|row| row["id"] == id).unwrap()["auth"].clone();
    assert_eq!(
        (auth("codex.sessions.create"), auth("codex.sessions.list")),
        (json!("token_from_outside"), json!("none"))
    );
    let line = create(&ask("control.example.test", "/describe/business"));
    assert!(
        line.contains("https://control.example.test/v1") && line.contains("Bearer $BAA_SHARED_TOKEN"),
        "{line}"
    );
    let openapi = ask("localhost", "/openapi.json");
    assert_eq!(openapi["paths"]["/v1/codex/sessions"]["post"]["security"], json!([{}, { "token": [] }]));
    assert_eq!(openapi["paths"]["/v1/codex/sessions"]["get"]["security"], json!([]));
    let all = Front::start("BAA_CONDUCTOR_AUTH=all --shared-token secret");
    let openapi = all.ask("GET", "/openapi.json", "Authorization: Bearer secret\r\n", "").json();
    assert_eq!(openapi["paths"]["/v1/codex"]["get"]["security"], json!([{ "token": [] }]));
    assert_eq!(openapi["paths"]["/healthz"]["get"]["security"], json!([]));
}

#[test]
fn examples_are_those_whose_rows_are_there() {
    let front = Front::start("");
    for page in &PAGES[..3] {
        for example in data(&front, page)["examples"].as_array().unwrap() {
            let path = example["path"].as_str().unwrap().split('?').next().unwrap();
            assert!(ROUTES.iter().any(|route| route.path == path), "{example}");
            let base = format!("http://{}", front.address);
            assert!(example["curl"].as_str().unwrap().contains(&base), "{example}");
        }
    }
    let business = data(&front, "/describe/business");
    let shown =
        |path: &str| business["examples"].as_array().unwrap().iter().find(|row| row["path"] == path).cloned();
    assert!(shown("/v1/codex").is_some());
    let create = shown("/v1/codex/sessions").unwrap()["curl"].as_str().unwrap().to_string();
    assert!(create.contains(r#"{"cwd":"#) && create.contains(r#""purpose":"duplex"}"#), "{create}");
    let tasks = ROUTES.iter().any(|route| route.id == "tasks.list");
    assert_eq!(shown("/v1/tasks?limit=5").is_some(), tasks);
}
