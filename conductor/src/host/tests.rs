//! A host without a daemon, for the tests of its parts; and what belongs to none of them.

use std::path::PathBuf;
use std::sync::atomic::AtomicU32;

use common::config::Values;

use super::*;
use crate::config::FLAGS;

/// A host with the token `secret`, and the empty folder that is all its own.
pub(super) fn host() -> (Host, PathBuf) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("baa-host-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let dir = env::temp_dir().join(name);
    let _ = fs::remove_dir_all(&dir); // an older process of the same number left it
    fs::create_dir_all(&dir).unwrap();
    let args = ["start", "--shared-token", "secret", "--logs-dir"].map(Into::into);
    let args = args.into_iter().chain([dir.join("logs").into_os_string()]);
    let config = Config::read(&Values::read(FLAGS, args, |_| None).unwrap()).unwrap();
    (Host::new(&config), dir)
}

/// A command that lasts, told apart by its number from every other one and from those of another run of the tests.
pub(crate) fn long_sleep(number: u8) -> String {
    format!("sleep 20.{number:02}{}", std::process::id())
}

/// Whether a process whose command line holds this runs.
pub(crate) fn runs(mark: &str) -> bool {
    let listed = std::process::Command::new("ps").args(["-axo", "stat=,args="]).output().unwrap();
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    text.lines().any(|line| line.contains(mark) && !line.trim_start().starts_with('Z'))
}

pub(super) fn object(value: Value) -> Object {
    value.as_object().unwrap().clone()
}

#[test]
fn what_macos_withholds_is_told_apart_from_what_the_mode_forbids() {
    let (mut host, dir) = host();
    let denied = io::Error::from(ErrorKind::PermissionDenied);
    let code = |host: &Host, cwd: &Path| host.fault_of(&denied, cwd, cwd).code;
    let home = dir.canonicalize().unwrap();
    fs::create_dir_all(home.join("Documents/project")).unwrap();
    std::os::unix::fs::symlink(home.join("Documents/project"), home.join("link")).unwrap();
    host.protected_home = None;
    assert_eq!(code(&host, &home.join("Documents")), "PERMISSION_DENIED", "on any other system");
    host.protected_home = Some(home.clone());
    for inside in ["Desktop", "Documents/project", "Downloads/a/b", "link"] {
        assert_eq!(code(&host, &home.join(inside)), "TCC_PERMISSION_DENIED", "{inside}");
    }
    for outside in ["", "Music", "DesktopOther", "x/Desktop"] {
        assert_eq!(code(&host, &home.join(outside)), "PERMISSION_DENIED", "{outside}");
    }
    let missing = host.fault_of(&ErrorKind::NotFound.into(), &home, &home.join("Desktop"));
    assert_eq!(missing.code, "FILE_NOT_FOUND");
    // A folder that can be read is no matter, wherever it is.
    let exec = Exec::read(&object(json!({ "command": "true", "cwd": home.join("link") }))).unwrap();
    assert_eq!(exec::run(&host, &exec, &|| false).outcome(), "ok");
}

#[test]
fn errors_of_the_system_have_codes() {
    let (host, dir) = host();
    for (kind, code, retryable) in [
        (ErrorKind::NotFound, "FILE_NOT_FOUND", false),
        (ErrorKind::NotADirectory, "NOT_A_DIRECTORY", false),
        (ErrorKind::IsADirectory, "NOT_A_FILE", false),
        (ErrorKind::AlreadyExists, "FILE_ALREADY_EXISTS", false),
        (ErrorKind::ReadOnlyFilesystem, "PERMISSION_DENIED", false),
        (ErrorKind::InvalidFilename, "INVALID_INPUT", false),
        (ErrorKind::StorageFull, "FILE_FAILED", true),
    ] {
        let fault = host.fault_of(&kind.into(), &dir, &dir);
        assert_eq!((fault.code, fault.retryable), (code, retryable));
    }
}
