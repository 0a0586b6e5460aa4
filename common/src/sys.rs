//! The only unsafe code: system calls that std does not have, one line each.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// Flags with which opening a file never waits (for the other end of a FIFO, for a line) and never makes a terminal ours.
pub const OPEN_AT_ONCE: i32 = libc::O_NONBLOCK | libc::O_NOCTTY;

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends `signal` to every member of the process group `pgid`.
///
/// # Errors
/// `ESRCH` if the group has no member, `EINVAL` for a group below 2 (0 would be our own, 1 everybody's).
pub fn signal_group(pgid: u32, signal: i32) -> io::Result<()> {
    let pgid = i32::try_from(pgid).ok().filter(|&pgid| pgid > 1).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: kill takes two integers and touches no memory of ours.
    check(unsafe { libc::kill(-pgid, signal) })
}

/// Blocks until the child `pid` has ended, and leaves it a zombie, so that its pid stays taken.
pub fn wait_until_zombie(pid: u32) -> io::Result<()> {
    loop {
        // SAFETY: siginfo_t is plain data for which all zeroes is a valid value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is valid for writes for the whole call.
        let result = unsafe { libc::waitid(libc::P_PID, pid, &mut info, libc::WEXITED | libc::WNOWAIT) };
        match check(result) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Waits until one of these can be read or has come to its end, at most `patience`, and says of each whether it is so. One
/// that is `None` never is.
pub fn wait_readable<const N: usize>(files: [Option<BorrowedFd<'_>>; N], patience: Duration) -> [bool; N] {
    let number = |file: Option<BorrowedFd<'_>>| file.map_or(-1, |file| file.as_raw_fd());
    let mut polled = files.map(|file| libc::pollfd { fd: number(file), events: libc::POLLIN, revents: 0 });
    let millis = libc::c_int::try_from(patience.as_micros().div_ceil(1000)).unwrap_or(libc::c_int::MAX);
    // SAFETY: `polled` is valid for writes of its N elements for the whole call; the descriptors are open while borrowed.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, millis) };
    polled.map(|polled| ready > 0 && polled.revents != 0)
}

/// How many columns the terminal of `file` has, if it is one that knows.
pub fn terminal_columns(file: BorrowedFd<'_>) -> Option<usize> {
    // SAFETY: winsize is plain data for which all zeroes is a valid value.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: this request writes one winsize, and `size` is valid for that; the descriptor is open while it is borrowed.
    let asked = unsafe { libc::ioctl(file.as_raw_fd(), libc::TIOCGWINSZ, &mut size) };
    check(asked).ok().map(|()| usize::from(size.ws_col)).filter(|&columns| columns > 0)
}

/// Lets so many connections wait to be accepted, as far as the system allows; std asks for 128.
pub fn set_backlog(listener: &TcpListener, most: usize) -> io::Result<()> {
    let most = libc::c_int::try_from(most).unwrap_or(libc::c_int::MAX);
    // SAFETY: listen takes two integers and touches no memory of ours; the descriptor is open while it is borrowed.
    check(unsafe { libc::listen(listener.as_raw_fd(), most) })
}

/// Whether the peer has closed its sending half or is gone, as far as that is known here; never waits, and leaves what it
/// has sent to be read.
pub fn has_left(stream: &TcpStream) -> bool {
    let (mut byte, flags) = ([0_u8; 1], libc::MSG_PEEK | libc::MSG_DONTWAIT);
    // SAFETY: `byte` is valid for writes of its one byte for the whole call; the descriptor is open while it is borrowed.
    let seen = unsafe { libc::recv(stream.as_raw_fd(), byte.as_mut_ptr().cast(), 1, flags) };
    let waits = |kind| matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
    seen == 0 || (seen < 0 && !waits(io::Error::last_os_error().kind()))
}

/// Whether this process may look into a folder and make files there; a disk that is read-only is a no.
pub fn may_use(folder: &Path) -> io::Result<()> {
    let path = CString::new(folder.as_os_str().as_bytes())?;
    // SAFETY: `path` is a string that ends with a NUL and lives for the whole call.
    check(unsafe { libc::access(path.as_ptr(), libc::R_OK | libc::W_OK | libc::X_OK) })
}

/// What this process may still write on the disk of `path`.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: statvfs is plain data for which all zeroes is a valid value.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends with a NUL, and `found` is valid for writes, for the whole call.
    check(unsafe { libc::statvfs(path.as_ptr(), &mut found) })?;
    Ok((found.f_bavail as u64).saturating_mul(found.f_frsize as u64))
}

/// How many descriptors may be open, and how far that may be raised.
fn descriptor_limits() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writes for the whole call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    Ok(limit)
}

/// How many descriptors may be open.
pub fn descriptor_limit() -> io::Result<u64> {
    descriptor_limits().map(|limit| limit.rlim_cur)
}

/// The processor time that all threads of this process have used.
pub fn cpu_time() -> io::Result<Duration> {
    // SAFETY: rusage is plain data for which all zeroes is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is valid for writes for the whole call.
    check(unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) })?;
    let time = |part: libc::timeval| {
        let (seconds, micros) = (u64::try_from(part.tv_sec), u64::try_from(part.tv_usec));
        Duration::from_secs(seconds.unwrap_or(0)) + Duration::from_micros(micros.unwrap_or(0))
    };
    Ok(time(usage.ru_utime) + time(usage.ru_stime))
}

/// Raises the soft limit of open descriptors to the hard one (at most 65 536, which macOS takes too), and says what it is then.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    const CEILING: libc::rlim_t = 65_536;
    let mut limit = descriptor_limits()?;
    let wanted = limit.rlim_max.min(CEILING);
    if limit.rlim_cur < wanted {
        let raised = libc::rlimit { rlim_cur: wanted, rlim_max: limit.rlim_max };
        // SAFETY: `raised` is valid for reads for the whole call.
        if check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) }).is_ok() {
            limit = raised;
        }
    }
    Ok(limit.rlim_cur)
}

/// What is this large gets pages of its own, which go back to the system when it is freed: glibc's default at the start.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_PAGES: libc::c_int = 128 * 1024;

/// Has all threads share one heap that keeps nothing large. glibc gives each thread its own by default, and what is free in
/// one no other can use: with many short threads they hold several times what is in use. And once something large was freed,
/// it keeps what is that large in the heap from then on: one body of 10 MiB stayed for good. To be called before there are
/// threads; other allocators do without.
pub fn share_heap() {
    // SAFETY: mallopt takes two integers and touches no memory of ours.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        // refused, it costs memory and nothing else
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES);
    }
}

/// Gives what is free in the heap back to the system; glibc keeps all below the newest thing in use.
pub fn trim_heap() {
    // SAFETY: malloc_trim touches free memory only.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    let _ = unsafe { libc::malloc_trim(0) };
}
