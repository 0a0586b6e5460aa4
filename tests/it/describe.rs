//! The node tells all that a caller needs, and what it tells is so: every printed line runs, every answer is as described.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use e2e::api_page;
use e2e::codex::Codex;
use e2e::golden::golden;
use e2e::http::{get, post};
use e2e::node::{Node, conductor, conductor_launch};
use e2e::process::{Daemon, Launch};
use e2e::wait::{SOON, eventually};
use serde_json::{Value, json};

const TOKEN: &str = "a-token-of-this-test";
const PAGES: [&str; 3] = ["/describe", "/describe/business", "/describe/control"];

/// A node whose fake child thinks before it speaks, so that there is a turn to interrupt.
fn bench() -> (Node, Daemon) {
    let node = Node::start(&Codex::Fake, &["--server-arg", "--think-ms", "--server-arg", "1500"]);
    let launch = Launch::of("conductor", node.dir.path()).env("BAA_SHARED_TOKEN", TOKEN);
    let conductor = Daemon::start(&conductor_launch(launch, node.codexd.url()));
    node.ready();
    (node, conductor)
}

/// A line that a document prints, and the operation that it is an example of.
struct Printed {
    line: String,
    operation: Value,
    document: Value,
}

fn printed(daemon: &Daemon, pages: &[&str]) -> Vec<Printed> {
    let document = get(&format!("{}/openapi.json", daemon.url())).json();
    let of = |operation: &Value, line: &Value| Printed {
        line: line.as_str().unwrap().to_owned(),
        operation: operation.clone(),
        document: document.clone(),
    };
    let mut found = Vec::new();
    for operation in
        document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values())
    {
        let sample = &operation["x-codeSamples"][0]["source"];
        if sample.is_string() {
            found.push(of(operation, sample));
        }
    }
    for page in pages {
        let data = get(&format!("{}{page}", daemon.url())).data(200);
        for example in data["examples"].as_array().unwrap() {
            let path = example["path"].as_str().unwrap().split('?').next().unwrap();
            let template: Vec<_> = path
                .split('/')
                .map(|part| match part.strip_prefix(':') {
                    Some(name) => format!("{{{name}}}"),
                    None => part.to_owned(),
                })
                .collect();
            let method = example["method"].as_str().unwrap().to_ascii_lowercase();
            found.push(of(&document["paths"][template.join("/")][method], &example["curl"]));
        }
    }
    let mut seen = BTreeSet::new();
    found.retain(|printed| seen.insert(printed.line.clone()));
    found
}

/// Runs a line as it is printed: the last status that curl saw, and what it got.
fn run(dir: &Path, line: &str) -> (String, String) {
    fs::write(dir.join(".curlrc"), "write-out = \"\\n%{http_code}\"\nmax-time = 30\n").unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).current_dir(dir).env("CURL_HOME", dir).env("BAA_SHARED_TOKEN", TOKEN);
    let output = shell.env("no_proxy", "127.0.0.1").env("PWD", dir).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{line}\n{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    let (body, status) = stdout.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

#[test]
fn every_printed_line_runs_and_gets_what_is_promised() {
    let (node, conductor) = bench();
    let mut lines = printed(&conductor, &PAGES);
    assert!(lines.len() >= 25, "{}", lines.len());
    lines.extend(printed(&node.codexd, &[]));
    for Printed { line, operation, document } in lines {
        if line.contains("$APPROVAL") {
            let session = node.session(json!({"approvalPolicy": "untrusted"}));
            node.say(&session, "[[exec touch approved]]");
            let pending = || get(&node.url("/v1/codexd/approvals")).data(200)["approvals"][0].is_object();
            eventually("an approval", SOON, || pending().then_some(()));
        }
        let (status, body) = run(node.dir.path(), &line);
        assert!(status.starts_with('2'), "{status} to {line}\n{body}");
        let answer = &operation["responses"][&status];
        assert!(answer.is_object(), "{status} is not promised: {line}");
        let schema = &answer["content"]["application/json"]["schema"];
        if schema.is_object() {
            let got: Value =
                serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {line}\n{body}"));
            fits(&document, schema, &got, &line);
        }
    }
}

#[test]
fn what_codexd_tells_of_real_work_is_as_described() {
    for codex in Codex::both() {
        let node = Node::start(&codex, &[]);
        let conductor = conductor(&node.dir, node.codexd.url());
        node.ready();
        let session = node.session(json!({"metadata": {"a": [1]}}));
        let turn = node.turn(&session, "[[exec echo hi]] [[patch new.txt a line]] [[say done]]");
        let failed = node.say(&session, "[[fail 500]]");
        assert_eq!(node.end(&session, &failed, SOON), "failed");
        let document = get(&format!("{}/openapi.json", conductor.url())).json();
        for (template, id, query) in [
            ("/v1/codex", "", ""),
            ("/v1/codex/sessions", "", "?limit=1"),
            ("/v1/codex/sessions/{session_id}", session.as_str(), ""),
            ("/v1/codex/sessions/{session_id}/transcript", &session, ""),
            ("/v1/codex/turns/{turn_id}", &turn, ""),
            ("/v1/codex/turns/{turn_id}", &failed, ""),
            ("/v1/codex/events", "", "?limit=1000"),
            ("/v1/codex/models", "", ""),
        ] {
            let path = template.replace("{session_id}", id).replace("{turn_id}", id);
            let answer = get(&format!("{}{path}{query}", conductor.url()));
            let promised = &document["paths"][template]["get"]["responses"][answer.status.to_string()];
            fits(&document, &promised["content"]["application/json"]["schema"], &answer.json(), &path);
            if template.ends_with("transcript") {
                let first = &answer.data(200)["turns"][0];
                assert!(first["commands"][0].is_object() && first["fileChanges"][0].is_object(), "{first:#}");
            }
        }
        let status = get(&node.url("/v1/codexd/status")).json();
        let document = get(&node.url("/openapi.json")).json();
        let promised = &document["paths"]["/v1/codexd/status"]["get"]["responses"]["200"];
        fits(&document, &promised["content"]["application/json"]["schema"], &status, "status");
    }
}

/// Holds a value to its schema, and the schema to the value: no field that is not told of.
fn fits(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        return fits(document, document.pointer(name.trim_start_matches('#')).unwrap(), value, at);
    }
    if let (Some(any), false) = (schema["anyOf"].as_array(), value.is_null()) {
        return fits(document, &any[0], value, at);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let types = &schema["type"];
    let typed = types.is_null()
        || types == kind
        || types.as_array().is_some_and(|types| types.contains(&json!(kind)));
    assert!(typed || schema["anyOf"].is_array(), "{at}: {value} is no {types}");
    let allowed = schema["enum"].as_array().is_none_or(|values| values.contains(value));
    assert!(
        allowed && (schema["const"].is_null() || schema["const"] == *value),
        "{at}: {value} is not of {schema}"
    );
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        fits(document, &schema["items"], item, &format!("{at}[{index}]"));
    }
    let Some(properties) = schema["properties"].as_object() else { return };
    for (name, field) in value.as_object().into_iter().flatten() {
        let told = properties.get(name).unwrap_or_else(|| panic!("{at}: nothing tells of {name}"));
        fits(document, told, field, &format!("{at}.{name}"));
    }
    for (name, _) in properties {
        // Absent values are null; only the union of a host operation leaves its `error` out.
        let absent = name == "error" && value["ok"] == true;
        assert!(value.is_null() || absent || value.get(name).is_some(), "{at}: {name} is missing");
    }
}

#[test]
fn the_example_of_a_session_makes_one_in_the_folder_where_it_is_run() {
    let (node, conductor) = bench();
    let business = get(&format!("{}/describe/business", conductor.url())).data(200);
    let examples = business["examples"].as_array().unwrap();
    let create = examples.iter().find(|example| example["path"] == "/v1/codex/sessions").unwrap();
    let folder = node.dir.folder("a folder");
    let (status, body) = run(&folder, create["curl"].as_str().unwrap());
    let session = serde_json::from_str::<Value>(&body).unwrap()["data"]["session"].take();
    assert_eq!((status.as_str(), &session["purpose"]), ("201", &json!("duplex")));
    assert_eq!(session["cwd"], json!(folder));
    assert_eq!(examples[0]["path"] == "/v1/codex", !business["endpoints"].to_string().contains("/v1/tasks"));
}

#[test]
fn a_script_that_knows_the_address_alone_has_a_turn_done() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/turn.py");
    assert!(fs::read_to_string(&script).unwrap().lines().count() <= 40);
    for codex in Codex::both() {
        let node = Node::start(&codex, &[]);
        let conductor = conductor(&node.dir, node.codexd.url());
        node.ready();
        let launch = Launch { program: "python3".into(), ..Launch::of("conductor", node.dir.path()) };
        let script = script.clone().into_os_string();
        let launch = launch.args([script, conductor.url().into(), "[[say it works]]".into()]);
        let (status, stdout, stderr) = launch.env("no_proxy", "127.0.0.1").run(SOON);
        assert!(status.success(), "{codex:?}: {stderr}");
        assert_eq!(stdout, "it works\n", "{codex:?}");
    }
}

#[test]
fn the_documents_leave_out_what_is_hidden_and_are_bare() {
    let (node, conductor) = bench();
    for daemon in [&node.codexd, &conductor] {
        let answer = get(&format!("{}/openapi.json", daemon.url()));
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some("application/json; charset=utf-8"))
        );
        let document = answer.json();
        assert_eq!((&document["openapi"], &document["ok"]), (&json!("3.1.0"), &Value::Null));
        assert_eq!(document["servers"][0]["url"], daemon.url());
        let paths: Vec<_> = document["paths"].as_object().unwrap().keys().collect();
        assert!(paths.iter().all(|path| !path.contains("runs")), "{paths:?}");
    }
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api.md")).unwrap();
    assert!(!page.contains("/runs"));
    // What a document says of a session is what codexd takes and gives.
    let made = post(&format!("{}/v1/codex/sessions", conductor.url()), &json!({"cwd": "relative"}));
    assert_eq!(made.failure(400, "invalid_request")["details"]["upstream_details"]["field"], "cwd");
}

#[test]
fn the_api_page_is_what_the_tables_say() {
    let (node, conductor) = bench();
    let document = |daemon: &Daemon| get(&format!("{}/openapi.json", daemon.url())).json();
    let daemons = [
        ("conductor", "http://127.0.0.1:4317", document(&conductor)),
        ("codexd", "http://127.0.0.1:4319", document(&node.codexd)),
    ];
    golden("../../docs/api.md", &api_page::page(&daemons));
}
