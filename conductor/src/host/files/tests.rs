use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::thread;

use super::super::tests::{host, object};
use super::*;

fn read_in(host: &Host, given: Value) -> Value {
    read(host, &ReadFile::read(&object(given)).unwrap()).json()
}

fn write_in(host: &Host, given: Value) -> Value {
    write(host, &WriteFile::read(&object(given)).unwrap()).json()
}

fn code(union: &Value) -> &str {
    union["error"]["code"].as_str().unwrap_or("ok")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn what_is_written_is_read() {
    let (host, dir) = host();
    let given = json!({ "path": "a/b.txt", "cwd": dir, "content": "ä\n", "createParents": true });
    let union = write_in(&host, given);
    let path = dir.join("a/b.txt");
    let result = json!({ "absolutePath": path, "bytesWritten": 3, "created": true, "overwritten": false });
    assert_eq!((code(&union), &union["result"]), ("ok", &result));
    let input = json!({ "path": "a/b.txt", "cwd": dir, "contentBytes": 3, "overwrite": true,
        "createParents": true, "encoding": "utf8" });
    assert_eq!(union["input"], input, "and not the content");
    let union = read_in(&host, json!({ "path": path }));
    let result = json!({ "absolutePath": path, "content": "ä\n", "bytes": 3, "encoding": "utf8" });
    assert_eq!((code(&union), &union["result"]), ("ok", &result));

    let bytes = json!({ "path": path, "content": "/wA=", "encoding": "base64" });
    let union = write_in(&host, bytes);
    assert_eq!((&union["result"]["created"], &union["result"]["overwritten"]), (&json!(false), &json!(true)));
    assert_eq!(fs::read(&path).unwrap(), b"\xff\0");
    assert_eq!(code(&read_in(&host, json!({ "path": path }))), "NOT_UTF8");
    let union = read_in(&host, json!({ "path": path, "encoding": "base64" }));
    assert_eq!((&union["result"]["content"], &union["result"]["bytes"]), (&json!("/wA="), &json!(2)));
    assert_eq!(fs::read_dir(dir.join("a")).unwrap().count(), 1, "nothing else stays");
}

#[test]
fn what_cannot_be_done_has_codes() {
    let (host, dir) = host();
    let at = |name: &str| dir.join(name);
    fs::write(at("file"), "old").unwrap();
    fs::create_dir(at("folder")).unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    symlink(at("loop"), at("loop")).unwrap();
    let long = "x".repeat(300);
    for (path, expected) in [
        ("none", "FILE_NOT_FOUND"),
        ("dangling", "FILE_NOT_FOUND"),
        ("folder", "NOT_A_FILE"),
        ("file/x", "NOT_A_DIRECTORY"),
        ("/dev/zero", "NOT_A_FILE"),
        ("loop", "FILE_FAILED"),
        (long.as_str(), "INVALID_INPUT"),
    ] {
        assert_eq!(code(&read_in(&host, json!({ "path": path, "cwd": dir }))), expected, "{path}");
    }
    for (more, expected) in [
        (json!({ "path": "none/x" }), "FILE_NOT_FOUND"),
        (json!({ "path": "file/x" }), "NOT_A_DIRECTORY"),
        (json!({ "path": "file/x/y", "createParents": true }), "NOT_A_DIRECTORY"),
        (json!({ "path": "folder" }), "NOT_A_FILE"),
        (json!({ "path": "new/" }), "NOT_A_FILE"),
        (json!({ "path": "/" }), "NOT_A_FILE"),
        (json!({ "path": "/dev/null" }), "NOT_A_FILE"),
        (json!({ "path": "dangling" }), "FILE_NOT_FOUND"),
        (json!({ "path": "dangling", "overwrite": false }), "FILE_ALREADY_EXISTS"),
        (json!({ "path": "file", "overwrite": false }), "FILE_ALREADY_EXISTS"),
        (json!({ "path": long }), "INVALID_INPUT"),
        (json!({ "path": "file", "content": "?", "encoding": "base64" }), "INVALID_INPUT"),
    ] {
        let mut given = object(json!({ "content": "new", "cwd": dir }));
        given.extend(object(more));
        let union = write_in(&host, given.into());
        assert_eq!(code(&union), expected, "{union}");
        assert!(
            union["result"]["absolutePath"].is_string() && union["result"]["created"] == false,
            "{union}"
        );
    }
    assert_eq!(fs::read_to_string(at("file")).unwrap(), "old");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 4, "nothing else stays");
}

#[test]
fn bad_bodies_are_told_by_their_field() {
    let field = |fault: Fault| (fault.code, fault.details["field"].as_str().unwrap().to_owned());
    for (given, name) in [
        (json!({}), "path"),
        (json!({ "path": "" }), "path"),
        (json!({ "path": 1 }), "path"),
        (json!({ "path": "a\0b" }), "path"),
        (json!({ "path": "x".repeat(MAX_PATH_BYTES + 1) }), "path"),
        (json!({ "path": "a", "encoding": "latin1" }), "encoding"),
        (json!({ "path": "a", "cwd": "" }), "cwd"),
    ] {
        assert_eq!(
            field(ReadFile::read(&object(given.clone())).unwrap_err()),
            ("INVALID_INPUT", name.into())
        );
        let mut given = object(given);
        given.insert("content".into(), json!(""));
        assert_eq!(field(WriteFile::read(&given).unwrap_err()), ("INVALID_INPUT", name.into()));
    }
    for given in [json!({ "path": "a" }), json!({ "path": "a", "content": 1 })] {
        assert_eq!(field(WriteFile::read(&object(given)).unwrap_err()).1, "content");
    }
}

#[test]
fn a_file_may_fill_its_bound_and_no_more() {
    let (host, dir) = host();
    let path = dir.join("large");
    for (bytes, expected) in [(MAX_READ_BYTES, "ok"), (MAX_READ_BYTES + 1, "FILE_TOO_LARGE")] {
        File::create(&path).unwrap().set_len(bytes as u64).unwrap();
        assert_eq!(code(&read_in(&host, json!({ "path": path }))), expected);
    }
    assert_eq!(
        code(&read_in(&host, json!({ "path": "/proc/self/status" }))),
        if cfg!(target_os = "linux") { "ok" } else { "FILE_NOT_FOUND" }
    );
}

#[test]
fn a_fifo_is_not_waited_for() {
    let (host, dir) = host();
    let path = dir.join("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert_eq!(code(&read_in(&host, json!({ "path": path }))), "NOT_A_FILE");
    assert_eq!(code(&write_in(&host, json!({ "path": path, "content": "x" }))), "NOT_A_FILE");
}

#[test]
fn a_link_stays_and_what_it_leads_to_is_written() {
    let (host, dir) = host();
    let (file, link) = (dir.join("there/file"), dir.join("link"));
    fs::create_dir(dir.join("there")).unwrap();
    fs::write(&file, "old").unwrap();
    symlink("there/file", &link).unwrap();
    let union = write_in(&host, json!({ "path": link, "content": "new" }));
    assert_eq!((code(&union), &union["result"]["overwritten"]), ("ok", &json!(true)));
    assert_eq!(
        (fs::read_link(&link).unwrap(), fs::read_to_string(&file).unwrap()),
        ("there/file".into(), "new".into())
    );
}

#[test]
fn a_replaced_file_keeps_its_mode_and_a_new_one_follows_the_umask() {
    let (host, dir) = host();
    let path = dir.join("script");
    fs::write(&path, "old").unwrap();
    for kept in [0o755, 0o600, 0o4711] {
        fs::set_permissions(&path, Permissions::from_mode(kept)).unwrap();
        assert_eq!(code(&write_in(&host, json!({ "path": path, "content": "new" }))), "ok");
        assert_eq!(mode(&path), kept);
    }
    let (new, reference) = (dir.join("new"), dir.join("reference"));
    write_in(&host, json!({ "path": new, "content": "" }));
    fs::write(&reference, "").unwrap();
    assert_eq!(mode(&new), mode(&reference));
}

#[test]
fn of_many_that_must_not_overwrite_one_writes() {
    let (host, dir) = host();
    for round in 0..20 {
        let path = dir.join(format!("{round}"));
        let made = thread::scope(|scope| {
            let write = |n: usize| {
                write_in(&host, json!({ "path": path, "content": format!("{n}"), "overwrite": false }))
            };
            let writers: Vec<_> = (0..4).map(|n| scope.spawn(move || (n, write(n)))).collect();
            let ends: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
            assert!(ends.iter().all(|(_, union)| ["ok", "FILE_ALREADY_EXISTS"].contains(&code(union))));
            ends.into_iter().filter(|(_, union)| code(union) == "ok").map(|(n, _)| n).collect::<Vec<_>>()
        });
        assert_eq!(made.len(), 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}", made[0]));
    }
    let names: Vec<_> = fs::read_dir(&dir).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(names.iter().all(|name| !OsStr::as_encoded_bytes(name).starts_with(b".")), "{names:?}");
}
