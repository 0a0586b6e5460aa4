//! Flags and environment -> typed values, once; what is left over is an error.
//!
//! Each program has one table of [`Flag`]s: the parser, the variables and the help text read it. Also owns the form of
//! base URLs and the rule which hosts a daemon may listen on. Knows no program's flags, and reads no file.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use crate::log;

/// Exit code: the program did not do what it was asked.
pub const EXIT_FAILED: u8 = 1;
/// Exit code: a wrong flag, variable or host.
pub const EXIT_USAGE: u8 = 2;
/// Exit code: the daemon that was asked is not there.
pub const EXIT_UNAVAILABLE: u8 = 69;

/// Every exit code, and what it says.
pub const EXIT_CODES: [(u8, &str); 4] = [
    (0, "Done."),
    (EXIT_FAILED, "Not done, or not well; stderr says why."),
    (EXIT_USAGE, "A wrong command, flag, variable or host; nothing was done."),
    (EXIT_UNAVAILABLE, "The daemon that was asked is not there."),
];

/// A wrong flag, variable or host; the sentence names it. The program exits with [`EXIT_USAGE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// One setting: a flag, its variable, and what the help says of both.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// `--host`; the variable's own name when there is no flag.
    pub name: &'static str,
    /// `BAA_CONDUCTOR_HOST`; empty when only the flag exists.
    pub env: &'static str,
    /// What stands for the value in the help, `HOST`; empty for a switch.
    pub value: &'static str,
    /// Taken when neither is given; empty: nothing is.
    pub default: &'static str,
    /// A line for the help.
    pub help: &'static str,
    /// May be repeated; its variable holds items with this between them.
    pub list: Option<char>,
    /// The commands that alone take it; empty: it is a setting, which all of them read.
    pub commands: &'static [&'static str],
}

impl Flag {
    /// A setting with one value and no default.
    pub const fn new(name: &'static str, env: &'static str, value: &'static str, help: &'static str) -> Flag {
        Flag { name, env, value, default: "", help, list: None, commands: &[] }
    }

    /// A flag without a value; its variable, if it has one, says `true` or `false`.
    pub const fn switch(name: &'static str, env: &'static str, help: &'static str) -> Flag {
        Flag { name, env, value: "", default: "false", help, list: None, commands: &[] }
    }

    /// A setting that only a variable gives; its name is the variable's.
    pub const fn variable(env: &'static str, value: &'static str, help: &'static str) -> Flag {
        Flag::new(env, env, value, help)
    }

    /// The same with a default.
    pub const fn default(mut self, default: &'static str) -> Flag {
        self.default = default;
        self
    }

    /// The same for these commands alone.
    pub const fn of(mut self, commands: &'static [&'static str]) -> Flag {
        self.commands = commands;
        self
    }

    /// Whether `command` takes it.
    pub fn is_of(&self, command: &str) -> bool {
        self.commands.is_empty() || self.commands.contains(&command)
    }

    /// The same, repeatable; its variable holds items with `separator` between them.
    pub const fn list(mut self, separator: char) -> Flag {
        self.list = Some(separator);
        self
    }
}

/// What a command line and an environment say, by the rows of a table.
#[derive(Debug)]
pub struct Values {
    table: &'static [Flag],
    given: Vec<Vec<String>>,
    command: String,
    arguments: Vec<String>,
}

impl Values {
    /// Reads `args` (without the program's name) and the variables that `env` looks up; flags win, and an empty variable
    /// is an unset one. The first argument that is no flag is the command; `-h` and `--help` make it `help` (of what would be the command), and
    /// `--version` makes it `version`. After `--` nothing is a flag.
    ///
    /// # Errors
    /// An unknown flag, one without its value or given twice, text that is not UTF-8.
    pub fn read(
        table: &'static [Flag],
        args: impl IntoIterator<Item = OsString>,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Values, Usage> {
        let mut args: Vec<OsString> = args.into_iter().collect();
        let end = args.iter().position(|arg| arg == "--").unwrap_or(args.len());
        let plain = args.split_off(end);
        let mut args = pico_args::Arguments::from_vec(split_pairs(table, args));
        let mut given = vec![Vec::new(); table.len()];
        // Lists first and switches last: a list's items (a child's arguments) may look like flags of ours.
        let rank = |flag: &Flag| (flag.value.is_empty(), flag.list.is_none());
        let mut order: Vec<usize> = (0..table.len()).collect();
        order.sort_by_key(|&row| rank(&table[row]));
        for row in order {
            let flag = &table[row];
            if flag.name.starts_with('-') {
                given[row] = from_flags(flag, &mut args)?;
            }
            if given[row].is_empty() {
                given[row] = from_env(flag, &env)?;
            }
        }
        let help = args.contains(["-h", "--help"]);
        let version = args.contains("--version");
        let mut rest = Vec::new();
        for arg in args.finish() {
            let arg = text(arg, "an argument")?;
            if arg.starts_with('-') && arg.len() > 1 {
                return Err(unknown_flag(table, &arg));
            }
            rest.push(arg);
        }
        for arg in plain.into_iter().skip(1) {
            rest.push(text(arg, "an argument")?);
        }
        let asked = if rest.is_empty() || help { String::new() } else { rest.remove(0) };
        let command = match (help, version) {
            (true, _) => "help".to_string(),
            (false, true) => "version".to_string(),
            (false, false) => asked,
        };
        Ok(Values { table, given, command, arguments: rest })
    }

    /// The command, empty if there is none.
    pub fn command(&self) -> &str {
        &self.command
    }

    /// Whether `name` was given.
    ///
    /// # Panics
    /// If the table has no such row.
    pub fn has(&self, name: &str) -> bool {
        !self.row(name).0.is_empty()
    }

    /// What stands behind the command.
    pub fn given_arguments(&self) -> &[String] {
        &self.arguments
    }

    /// That the command has exactly these arguments; `[NAME]` may be missing.
    ///
    /// # Errors
    /// One that is missing, by its name here, or one too many.
    pub(crate) fn takes(&self, names: &[&str]) -> Result<(), Usage> {
        if let Some(missing) = names.get(self.arguments.len()).filter(|name| !name.starts_with('[')) {
            return Err(Usage(format!("`{}` needs {missing}", self.command)));
        }
        match self.arguments.get(names.len()) {
            Some(extra) => Err(Usage(format!("unexpected argument `{extra}` after `{}`", self.command))),
            None => Ok(()),
        }
    }

    /// Exactly the arguments that the command takes, in order.
    ///
    /// # Errors
    /// One that is missing (by its name here), or one too many.
    pub fn arguments<const N: usize>(&self, names: [&str; N]) -> Result<[&str; N], Usage> {
        self.takes(&names)?;
        let mut found = [""; N];
        for (slot, argument) in found.iter_mut().zip(&self.arguments) {
            *slot = argument;
        }
        Ok(found)
    }

    /// The value of `name` as `kind` reads it, the default if it was not given, `None` without a default.
    ///
    /// # Errors
    /// What `kind` says of the value, with the names of flag and variable before it.
    ///
    /// # Panics
    /// If the table has no such row.
    pub fn get<T>(&self, name: &str, kind: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, Usage> {
        Ok(self.all(name, kind)?.into_iter().next())
    }

    /// The same for a value that must be there.
    ///
    /// # Errors
    /// Those of [`get`](Values::get), and its absence.
    pub fn need<T>(&self, name: &str, kind: impl Fn(&str) -> Result<T, String>) -> Result<T, Usage> {
        self.get(name, kind)?.ok_or_else(|| Usage(format!("{} is required", names(self.row(name).1))))
    }

    /// Every value of a list, each as `kind` reads it.
    ///
    /// # Errors
    /// Those of [`get`](Values::get).
    pub fn all<T>(&self, name: &str, kind: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, Usage> {
        let (given, flag) = self.row(name);
        let read =
            |value: &str| kind(value).map_err(|fault| Usage(format!("{}: `{value}` {fault}", names(flag))));
        match (given.is_empty(), flag.default.is_empty()) {
            (false, _) => given.iter().map(|value| read(value)).collect(),
            (true, true) => Ok(Vec::new()),
            (true, false) => flag.default.split(|c| Some(c) == flag.list).map(read).collect(),
        }
    }

    fn row(&self, name: &str) -> (&[String], &'static Flag) {
        match self.table.iter().position(|flag| flag.name == name) {
            Some(row) => (&self.given[row], &self.table[row]),
            None => panic!("{name} is not in the table"),
        }
    }
}

/// The table as the help shows it, a flag a line.
pub fn help(table: &[&Flag]) -> String {
    let left = |flag: &Flag| format!("  {} {}", flag.name, flag.value);
    let width = table.iter().map(|flag| left(flag).trim_end().len()).max().unwrap_or(0);
    let mut out = String::new();
    for flag in table {
        let mut notes: Vec<String> = Vec::new();
        notes.extend((!flag.env.is_empty() && flag.env != flag.name).then(|| flag.env.to_string()));
        notes.extend(flag.list.map(|_| "repeatable".to_string()));
        notes.extend(
            (!flag.value.is_empty() && !flag.default.is_empty()).then(|| format!("default {}", flag.default)),
        );
        let notes = if notes.is_empty() { String::new() } else { format!(" [{}]", notes.join(", ")) };
        out.push_str(&format!("{:width$}  {}{notes}\n", left(flag).trim_end(), flag.help));
    }
    out
}

/// A kind for [`Values::get`]: any text.
pub fn string(text: &str) -> Result<String, String> {
    Ok(text.to_string())
}

/// A kind: a path, made absolute by the working directory.
pub fn path(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|error| format!("is no usable path: {error}"))
}

/// A kind: a whole number within `bounds`.
pub fn integer(bounds: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> {
    move |text| {
        let number = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        number
            .filter(|number| bounds.contains(number))
            .ok_or_else(|| format!("is no whole number from {} to {}", bounds.start(), bounds.end()))
    }
}

/// A kind: `true` or `false`, also as `1` and `0`.
pub fn boolean(text: &str) -> Result<bool, String> {
    one_of(&[("true", true), ("false", false), ("1", true), ("0", false)])(text)
}

/// A kind: one of these words, for what it stands.
pub fn one_of<T: Copy>(words: &[(&str, T)]) -> impl Fn(&str) -> Result<T, String> {
    |text| {
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            format!("is none of {}", words.join(", "))
        })
    }
}

/// The bounds of a daemon's log, by the flags that both daemons have.
///
/// # Errors
/// A value that its flag does not take, or a total without room for two segments.
pub fn log_limits(values: &Values) -> Result<log::Limits, Usage> {
    let bytes = |flag: &str| values.need(flag, integer(log::MIN_SEGMENT_BYTES..=1 << 40));
    let (segment_bytes, total_bytes) = (bytes("--log-segment-bytes")?, bytes("--log-total-bytes")?);
    match total_bytes < 2 * segment_bytes {
        true => Err(Usage("--log-total-bytes must hold two segments of --log-segment-bytes".to_string())),
        false => Ok(log::Limits { segment_bytes, total_bytes }),
    }
}

/// A kind: an `http` or `https` URL of a service, which loses its trailing slashes.
pub fn base_url(text: &str) -> Result<String, String> {
    let base = text.trim_end_matches('/');
    let rest = base.strip_prefix("https://").or_else(|| base.strip_prefix("http://")).unwrap_or_default();
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#' | '@');
    match rest.is_empty() || rest.starts_with('/') || rest.contains(bad) {
        true => Err("is no http or https URL of a service".to_string()),
        false => Ok(base.to_string()),
    }
}

/// `http://HOST:PORT` of a daemon on this node; port 0 asks for a free one. Shown without a trailing slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalUrl {
    /// A name in lower case, or an address without brackets.
    pub host: String,
    /// The port; 0 is any.
    pub port: u16,
}

impl LocalUrl {
    /// A kind: `http://HOST:PORT`, with or without a slash behind, and nothing more.
    ///
    /// # Errors
    /// Any other form.
    pub fn parse(text: &str) -> Result<LocalUrl, String> {
        let form = || "is no URL of the form http://HOST:PORT".to_string();
        let rest = text.strip_prefix("http://").ok_or_else(form)?.trim_end_matches('/');
        let bracketed = rest.strip_prefix('[').and_then(|rest| rest.split_once("]:"));
        let (host, port) = bracketed.or_else(|| rest.rsplit_once(':')).ok_or_else(form)?;
        let name = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        let host_is_fine = match bracketed {
            Some(_) => host.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(name),
        };
        let port = integer(0..=u16::MAX.into())(port).ok().filter(|_| host_is_fine && !port.is_empty());
        let port = port.and_then(|port| u16::try_from(port).ok()).ok_or_else(form)?;
        Ok(LocalUrl { host: host.to_ascii_lowercase(), port })
    }

    /// Where to bind or connect. `localhost` is 127.0.0.1, so that both sides mean the same family. `None` for any other
    /// name, which no host rule lets in.
    pub fn address(&self) -> Option<IpAddr> {
        match self.host.as_str() {
            "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
            host => host.parse().ok(),
        }
    }

    /// The host rule of a daemon that stays on this machine.
    ///
    /// # Errors
    /// Any host but a loopback one.
    pub fn loopback(&self) -> Result<(), String> {
        match self.address().is_some_and(|address| address.is_loopback()) {
            true => Ok(()),
            false => Err("has a host that is not loopback".to_string()),
        }
    }

    /// The host rule of a daemon that a reverse proxy on the Tailscale network may reach.
    ///
    /// # Errors
    /// Neither loopback, nor an address in 100.64.0.0/10 that `allowed` lists.
    pub fn loopback_or_tailscale(&self, allowed: &[String]) -> Result<(), String> {
        let tailscale = |address| matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64);
        match (self.loopback(), self.address().is_some_and(tailscale)) {
            (Ok(()), _) => Ok(()),
            (Err(_), true) if allowed.contains(&self.host) => Ok(()),
            (Err(_), true) => Err("has a Tailscale address that the allowed hosts do not list".to_string()),
            (Err(_), false) => Err("has a host that is neither loopback nor a Tailscale address".to_string()),
        }
    }
}

impl fmt::Display for LocalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "http://[{}]:{}", self.host, self.port),
            false => write!(f, "http://{}:{}", self.host, self.port),
        }
    }
}

/// The directory of daemon `name`: `dir` itself if that is its name already, else `name` below it.
pub fn own_directory(dir: &Path, name: &str) -> PathBuf {
    match dir.file_name().is_some_and(|last| last == name) {
        true => dir.to_path_buf(),
        false => dir.join(name),
    }
}

/// `--name=value` as two arguments, for flags that take a value: keeps the order of a list that is written both ways,
/// and quotes that belong to a value.
fn split_pairs(table: &[Flag], args: Vec<OsString>) -> Vec<OsString> {
    let mut out = Vec::with_capacity(args.len());
    for arg in args {
        match arg.to_str().and_then(|text| text.split_once('=')) {
            Some((name, value)) if table.iter().any(|flag| flag.name == name && !flag.value.is_empty()) => {
                out.extend([OsString::from(name), OsString::from(value)]);
            }
            _ => out.push(arg),
        }
    }
    out
}

fn from_flags(flag: &Flag, args: &mut pico_args::Arguments) -> Result<Vec<String>, Usage> {
    let values = if flag.value.is_empty() {
        std::iter::from_fn(|| args.contains(flag.name).then(|| "true".to_string())).collect()
    } else {
        let values = args.values_from_fn(flag.name, |value| Ok::<_, String>(value.to_string()));
        values.map_err(|fault| match fault {
            pico_args::Error::NonUtf8Argument => Usage(format!("the value of {} is not UTF-8", flag.name)),
            _ => Usage(format!("{} needs a value", flag.name)),
        })?
    };
    match values.len() > 1 && flag.list.is_none() {
        true => Err(Usage(format!("{} is given more than once", flag.name))),
        false if values.iter().any(String::is_empty) => Err(Usage(format!("{} needs a value", flag.name))),
        false => Ok(values),
    }
}

fn from_env(flag: &Flag, env: impl Fn(&str) -> Option<OsString>) -> Result<Vec<String>, Usage> {
    let Some(value) = env(flag.env).filter(|value| !flag.env.is_empty() && !value.is_empty()) else {
        return Ok(Vec::new());
    };
    let value = text(value, flag.env)?;
    Ok(match flag.list {
        Some(separator) => {
            let items = value.split(separator).map(str::trim).filter(|item| !item.is_empty());
            items.map(str::to_string).collect()
        }
        None => vec![value],
    })
}

fn text(value: OsString, what: &str) -> Result<String, Usage> {
    value.into_string().map_err(|value| Usage(format!("{what} is not UTF-8: {}", value.to_string_lossy())))
}

fn names(flag: &Flag) -> String {
    match flag.env.is_empty() || flag.env == flag.name {
        true => flag.name.to_string(),
        false => format!("{} ({})", flag.name, flag.env),
    }
}

fn unknown_flag(table: &[Flag], arg: &str) -> Usage {
    let name = arg.split('=').next().unwrap_or(arg);
    if table.iter().any(|flag| flag.name == name) {
        return Usage(format!("{name} takes no value"));
    }
    Usage(format!("unknown flag {name}{}", did_you_mean(name, table.iter().map(|flag| flag.name))))
}

/// `; did you mean …?` with the word that `name` was most likely meant to be; empty if none is near.
pub(crate) fn did_you_mean<'a>(name: &str, words: impl Iterator<Item = &'a str>) -> String {
    // A typing error is two edits at most; more would suggest what has nothing to do with it.
    const NEAR: usize = 2;
    let nearest = words.map(|word| (distance(name, word), word)).min();
    match nearest.filter(|(edits, _)| *edits <= NEAR) {
        Some((_, near)) => format!("; did you mean {near}?"),
        None => String::new(),
    }
}

/// Levenshtein's: how many letters to insert, drop or replace.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
