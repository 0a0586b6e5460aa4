//! Numbers for Prometheus: its text format, and what every process tells of itself.
//!
//! Owns the form: a family stands together and once, labels are escaped, units are seconds and bytes. Knows nothing of
//! what is counted.

use std::fmt::{Display, Write};
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::sys;
use crate::time::Timestamp;

/// The media type of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How often something happened, and how long it took all together.
#[derive(Debug, Default)]
pub struct Timing {
    count: AtomicU64,
    nanos: AtomicU64,
}

impl Timing {
    /// It happened once more, and took so long.
    pub fn add(&self, took: Duration) {
        self.nanos.fetch_add(took.as_nanos().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether it ever did.
    pub fn happened(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    fn read(&self) -> (u64, Duration) {
        (self.count.load(Ordering::Relaxed), Duration::from_nanos(self.nanos.load(Ordering::Relaxed)))
    }
}

/// A page of metrics, family by family.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    names: Vec<String>,
}

/// The samples of one name.
pub struct Family<'a> {
    page: &'a mut Page,
    name: &'a str,
}

impl Page {
    /// A number that may rise and fall.
    pub fn gauge<'a>(&'a mut self, name: &'a str, help: &str) -> Family<'a> {
        self.family(name, "gauge", help)
    }

    /// A number that only rises, from 0 at the start of the process if `help` says nothing else; its name ends in `_total`.
    pub fn counter<'a>(&'a mut self, name: &'a str, help: &str) -> Family<'a> {
        self.family(name, "counter", help)
    }

    /// How often and how long, without quantiles.
    pub fn summary<'a>(&'a mut self, name: &'a str, help: &str) -> Family<'a> {
        self.family(name, "summary", help)
    }

    /// The whole text.
    pub fn into_text(self) -> String {
        self.text
    }

    fn family<'a>(&'a mut self, name: &'a str, kind: &str, help: &str) -> Family<'a> {
        debug_assert!(!self.names.iter().any(|other| other == name), "{name} is there twice");
        self.names.push(name.to_owned());
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { page: self, name }
    }
}

impl Family<'_> {
    /// The one number of a family without labels.
    pub fn is(self, value: impl Display) {
        self.with(&[], value);
    }

    /// The number for these labels; no two of a family have the same.
    pub fn with(self, labels: &[(&str, &str)], value: impl Display) -> Self {
        self.sample("", labels, value)
    }

    /// 1 for the one of these states that is so, 0 for the others.
    pub fn state(self, label: &str, states: &[&str], now: &str) {
        states.iter().fold(self, |family, state| family.with(&[(label, state)], u8::from(*state == now)));
    }

    /// Both numbers of a timing for these labels.
    pub fn timing(self, labels: &[(&str, &str)], timing: &Timing) -> Self {
        let (count, sum) = timing.read();
        self.sample("_sum", labels, sum.as_secs_f64()).sample("_count", labels, count)
    }

    fn sample(self, suffix: &str, labels: &[(&str, &str)], value: impl Display) -> Self {
        let text = &mut self.page.text;
        text.push_str(self.name);
        text.push_str(suffix);
        for (at, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            text.push_str(&format!("{}{label}=\"{value}\"", if at == 0 { '{' } else { ',' }));
        }
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {value}", if labels.is_empty() { "" } else { "}" });
        self
    }
}

/// What the process costs, under the names that all client libraries of Prometheus use. What the system does not tell
/// cheaply is left out: on macOS memory and threads.
pub fn process(page: &mut Page, started: Timestamp) {
    let since = started.millis() as f64 / 1000.0;
    page.gauge("process_start_time_seconds", "When the process began, in seconds since 1970.").is(since);
    if let Ok(used) = sys::cpu_time() {
        page.counter("process_cpu_seconds_total", "Processor time used.").is(used.as_secs_f64());
    }
    let folder = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
    if let Ok(entries) = fs::read_dir(folder) {
        let open = entries.count().saturating_sub(1); // the one that looks
        page.gauge("process_open_fds", "Descriptors that are open.").is(open);
    }
    if let Ok(most) = sys::descriptor_limit() {
        page.gauge("process_max_fds", "Descriptors that may be open.").is(most);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let number = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
    };
    if let Some(kib) = number("VmRSS") {
        page.gauge("process_resident_memory_bytes", "Memory in use.").is(kib * 1024);
    }
    if let Some(kib) = number("VmSize") {
        page.gauge("process_virtual_memory_bytes", "Address space in use.").is(kib * 1024);
    }
    if let Some(threads) = number("Threads") {
        page.gauge("process_threads", "Threads that run or wait.").is(threads);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_families_with_their_samples() {
        let (mut page, timing) = (Page::default(), Timing::default());
        page.gauge("a", "A \\ and\na line.").is(1.5);
        page.counter("b_total", "B.").with(&[("x", "1"), ("y", "a\\b\"c\nd")], 7).with(&[("x", "2")], 0);
        page.gauge("c", "C.").state("is", &["on", "off"], "off");
        timing.add(Duration::from_millis(1500));
        timing.add(Duration::from_millis(250));
        page.summary("d_seconds", "D.").timing(&[("x", "1")], &timing);
        page.gauge("empty", "Nothing yet.");
        let expected = r#"# HELP a A \\ and\na line.
# TYPE a gauge
a 1.5
# HELP b_total B.
# TYPE b_total counter
b_total{x="1",y="a\\b\"c\nd"} 7
b_total{x="2"} 0
# HELP c C.
# TYPE c gauge
c{is="on"} 0
c{is="off"} 1
# HELP d_seconds D.
# TYPE d_seconds summary
d_seconds_sum{x="1"} 1.75
d_seconds_count{x="1"} 2
# HELP empty Nothing yet.
# TYPE empty gauge
"#;
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    #[should_panic(expected = "a is there twice")]
    fn a_family_stands_once() {
        let mut page = Page::default();
        page.gauge("a", "A.").is(1);
        page.gauge("a", "A.").is(2);
    }

    #[test]
    fn a_process_tells_of_itself() {
        let mut page = Page::default();
        process(&mut page, Timestamp::from_millis(1500));
        let text = page.into_text();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("{name}: {text}")).parse::<f64>().unwrap()
        };
        assert_eq!(value("process_start_time_seconds"), 1.5);
        assert!(value("process_cpu_seconds_total") > 0.0);
        assert!(value("process_open_fds") >= 3.0 && value("process_open_fds") <= value("process_max_fds"));
        if cfg!(target_os = "linux") {
            assert!(value("process_resident_memory_bytes") > 100_000.0);
            assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
            assert!(value("process_threads") >= 1.0);
        }
    }
}
