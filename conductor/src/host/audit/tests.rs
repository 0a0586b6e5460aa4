use std::collections::BTreeSet;
use std::io::Read;

use serde_json::Value;

use super::super::tests::host;
use super::*;

fn audit(max_bytes: u64) -> Audit {
    let (host, _) = host();
    Audit { path: host.audit.path.clone(), max_bytes }
}

fn caller() -> Caller<'static> {
    Caller { request_id: "r-1", peer: "127.0.0.1:5".into() }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn older(audit: &Audit) -> PathBuf {
    audit.path.with_extension("jsonl.1")
}

#[test]
fn a_line_says_who_what_where_and_how() {
    let (audit, caller) = (audit(MAX_AUDIT_BYTES), caller());
    let call = audit.call(&caller, "exec", "echo \"hi\"\n", Some(Path::new("/x")));
    call.begin().unwrap();
    call.end("EXEC_TIMEOUT");
    audit.call(&caller, "files/read", "", None).end("INVALID_INPUT");
    let text = fs::read_to_string(&audit.path).unwrap();
    assert!(
        text.starts_with("{\"at\":\"20") && text.contains("\"what\":\"echo \\\"hi\\\"\\n\",\"where\":\"/x\""),
        "{text}"
    );
    let lines = lines(&audit.path);
    assert_eq!((&lines[0]["outcome"], &lines[0]["duration_ms"]), (&"started".into(), &Value::Null));
    assert_eq!((&lines[1]["outcome"], &lines[1]["peer"]), (&"EXEC_TIMEOUT".into(), &"127.0.0.1:5".into()));
    assert!(
        lines[1]["duration_ms"].is_u64() && lines[1]["request_id"] == "r-1" && lines[2]["where"].is_null()
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&audit.path), mode(audit.path.parent().unwrap())), (0o600, 0o700));
}

#[test]
fn it_is_bounded_with_one_older_file_and_many_may_write() {
    let audit = audit(45_000);
    let write = |what: &str| audit.call(&caller(), "exec", what, None).end("ok");
    // Each call opens the file for itself, so threads are to each other what processes are.
    thread::scope(|scope| {
        (0..4).for_each(|n| {
            scope.spawn(move || (0..100).for_each(|m| write(&format!("{n} {m}"))));
        });
    });
    let (old, new) = (lines(&older(&audit)), lines(&audit.path));
    let whats: BTreeSet<_> =
        old.iter().chain(&new).map(|line| line["what"].as_str().unwrap().to_owned()).collect();
    assert_eq!((whats.len(), old.len() + new.len()), (400, 400), "one rotation, and nothing is lost");
    assert!(old.len() > new.len(), "and none before it was full");
    (0..400).for_each(|n| write(&format!("later {n}")));
    assert_eq!(lines(&audit.path).last().unwrap()["what"], "later 399");
    for path in [&audit.path, &older(&audit)] {
        assert!(fs::metadata(path).unwrap().len() <= 45_000);
    }
    assert_eq!(fs::read_dir(audit.path.parent().unwrap()).unwrap().count(), 2);
}

#[test]
fn half_a_line_of_one_that_was_killed_costs_that_line_alone() {
    let (audit, caller) = (audit(MAX_AUDIT_BYTES), caller());
    audit.call(&caller, "exec", "one", None).end("ok");
    OpenOptions::new().append(true).open(&audit.path).unwrap().write_all(b"{\"at\":").unwrap();
    audit.call(&caller, "exec", "two", None).end("ok");
    let text = fs::read_to_string(&audit.path).unwrap();
    let whole = text.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count();
    assert_eq!((whole, text.lines().count()), (2, 3), "{text}");
}

#[test]
fn what_cannot_be_written_is_told_and_no_holder_is_waited_for() {
    let (audit, caller) = (audit(MAX_AUDIT_BYTES), caller());
    let call = audit.call(&caller, "exec", "one", None);
    call.end("ok");
    let held = OpenOptions::new().append(true).open(&audit.path).unwrap();
    held.lock().unwrap();
    let start = Instant::now();
    assert_eq!(call.begin().unwrap_err().code, STORAGE_FAILED);
    assert!(start.elapsed() < LOCK_WITHIN * 3, "{:?}", start.elapsed());
    drop(held);
    call.begin().unwrap();
    fs::remove_file(&audit.path).unwrap();
    fs::create_dir(&audit.path).unwrap();
    assert_eq!(call.begin().unwrap_err().code, STORAGE_FAILED);
    call.end("ok"); // the thing is done: nobody can be refused any more
}

#[test]
fn a_file_that_others_could_read_is_narrowed() {
    let (audit, caller) = (audit(MAX_AUDIT_BYTES), caller());
    fs::create_dir_all(audit.path.parent().unwrap()).unwrap();
    fs::write(&audit.path, "").unwrap();
    fs::set_permissions(&audit.path, Permissions::from_mode(0o644)).unwrap();
    audit.call(&caller, "exec", &"ä".repeat(MAX_WHAT_BYTES), None).end("ok");
    assert_eq!(fs::metadata(&audit.path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut text = String::new();
    File::open(&audit.path).unwrap().read_to_string(&mut text).unwrap();
    assert!(text.len() < MAX_WHAT_BYTES + 1000, "{}", text.len());
}
