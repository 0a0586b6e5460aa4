use super::*;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_report_is_a_line_a_check_with_what_to_do() {
    let checks = [Check::ok("port", "free"), Check::fail("disk", "full\u{1b}[2J\nok", "Make room.")];
    let said = "ok    port  free\nfail  disk  full\\u{1b}[2J\\nok\n            Make room.\n";
    assert_eq!(text(&checks), said);
    assert_eq!(json!(checks[1])["status"], "fail");
    assert_eq!(json!(checks[0]), json!({"name": "port", "status": "ok", "message": "free", "hint": null}));
    for (status, exit) in [(Status::Warn, None), (Status::Fail, Some(1))] {
        let check = Check { name: "x", status, message: String::new(), hint: None };
        let doctor = Doctor { checks: vec![check], ..Doctor::default() };
        assert_eq!(doctor.verdict().err().map(|failure| failure.0), exit);
    }
}

#[test]
fn what_hangs_is_left_behind() {
    let (_never, wait) = mpsc::channel::<()>();
    assert_eq!(within(Duration::from_millis(20), move || wait.recv().is_ok()), None);
    assert_eq!(within(STEP_WITHIN, || 7), Some(7));
    assert_eq!(within(STEP_WITHIN, || -> u8 { panic!("in a check") }), None);
}

#[test]
fn a_clock_that_is_behind_what_it_wrote_shows() {
    let file = crate::test::folder("doctor-clock").join("events.jsonl");
    let written = File::create(&file).unwrap();
    let begun = (Instant::now(), SystemTime::now());
    let look = |begun| clock(begun, vec![file.clone(), "/nowhere".into()]).status;
    assert_eq!(look(begun), Status::Ok);
    written.set_modified(SystemTime::now() + Duration::from_secs(60)).unwrap();
    assert_eq!(look(begun), Status::Warn);
    written.set_modified(SystemTime::now()).unwrap();
    let jump = Duration::from_secs(3600);
    assert_eq!(look((begun.0, begun.1 - jump)), Status::Warn, "forward");
    assert_eq!(look((begun.0, begun.1 + jump)), Status::Warn, "back");
}

#[test]
fn a_disk_is_measured_once_for_all_that_shall_fit() {
    let dir = crate::test::folder("doctor-disk");
    let need = |bound, used| Need { folder: dir.join("not/yet"), bound, used };
    let free = sys::free_bytes(&dir).unwrap();
    assert!(free > LEAST_FREE_BYTES, "the tests have no room");
    assert_eq!(disk(&[need(1 << 20, 0)]).status, Status::Ok);
    assert_eq!(disk(&[need(free, 0), need(1 << 30, 0)]).status, Status::Warn, "together");
    assert_eq!(disk(&[need(free, free), need(1 << 20, 0)]).status, Status::Ok, "that is there already");
}

#[test]
fn a_folder_is_private_and_a_folder() {
    let dir = crate::test::folder("doctor-folder");
    let mode = |mode| fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
    let look = |private| folder("state", &dir, private);
    mode(0o755);
    assert_eq!((look(true).status, look(false).status), (Status::Warn, Status::Ok));
    mode(0o700);
    assert_eq!(look(true).status, Status::Ok);
    assert_eq!(folder("state", &dir.join("a/b"), true).status, Status::Ok, "it can be made");
    File::create(dir.join("file")).unwrap();
    assert_eq!(folder("state", &dir.join("file"), true).status, Status::Fail);
    assert!(!is_locked(&dir).unwrap() && !is_locked(&dir.join("a")).unwrap());
    let _lock = document::lock_folder(&dir, Duration::ZERO).unwrap();
    assert!(is_locked(&dir).unwrap());
}
