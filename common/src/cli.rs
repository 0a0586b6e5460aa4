//! The command line of a program: one table that the parser, the help and the reference read.
//!
//! Owns what a command is, how one ends and what it prints. Knows no program's commands; `config` reads the flags.

use std::ffi::OsString;
use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::process::ExitCode;

use crate::config::{self, EXIT_CODES, EXIT_FAILED, EXIT_USAGE, Flag, Usage, Values};
use crate::trace;

const SETTINGS: &str = "Settings (a flag wins over its variable; an empty variable is an unset one)";

/// A program: its name, and all that it can be told.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// As it is called.
    pub name: &'static str,
    /// What it is, in half a line.
    pub about: &'static str,
    /// Everything it can be asked to do, beside `help` and `version`.
    pub commands: &'static [Command],
    /// Every setting and switch.
    pub flags: &'static [Flag],
    /// Its own version.
    pub version: &'static str,
}

/// Something that a program does when it is asked.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// `start`.
    pub name: &'static str,
    /// What it needs to be told, in order: `SESSION`, `TEXT`.
    pub arguments: &'static [&'static str],
    /// What it does, in a line.
    pub help: &'static str,
    /// Command lines that a reader can copy.
    pub examples: &'static [&'static str],
    /// Does it.
    pub run: fn(&Values) -> Result<(), Failure>,
}

/// Why a command ended badly, with its exit code.
#[derive(Debug)]
pub struct Failure(pub u8, pub String);

impl Failure {
    /// What could not be done, and why.
    pub fn new(what: &str, why: &dyn Display) -> Failure {
        Failure(EXIT_FAILED, format!("{what}: {why}"))
    }
}

impl From<Usage> for Failure {
    fn from(usage: Usage) -> Failure {
        Failure(EXIT_USAGE, usage.0)
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure(EXIT_FAILED, message)
    }
}

/// Prints what was asked for.
///
/// # Errors
/// If stdout cannot be written; that nobody reads on is no failure (`conductor config | head`).
pub fn say(text: impl Display) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new("cannot write to stdout", &error))
        }
        _ => Ok(()),
    }
}

impl Program {
    /// Does what the process was asked to do, and says how that ended.
    pub fn main(&self) -> ExitCode {
        let done = self.read(std::env::args_os().skip(1), |name| std::env::var_os(name));
        let Err(Failure(code, message)) = done.map_err(Failure::from).and_then(|values| self.run(&values))
        else {
            return ExitCode::SUCCESS;
        };
        let hint = if code == EXIT_USAGE { format!("; see `{} help`", self.name) } else { String::new() };
        // Nobody can be told that stderr is gone.
        let _ = writeln!(std::io::stderr(), "{}: {message}{hint}", self.name);
        ExitCode::from(code)
    }

    /// What `args` (without the program's name) and the variables that `env` looks up ask for.
    ///
    /// # Errors
    /// Those of [`Values::read`]; a command that there is not, one without its arguments, or a flag that it does not take.
    pub fn read(
        &self,
        args: impl IntoIterator<Item = OsString>,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Values, Usage> {
        let values = Values::read(self.flags, args, env)?;
        match values.command() {
            "" => return Err(Usage("no command".to_string())),
            "help" | "version" => return Ok(values),
            _ => {}
        }
        let command = self.command(values.command())?;
        values.takes(command.arguments)?;
        match self.flags.iter().find(|flag| !flag.is_of(command.name) && values.has(flag.name)) {
            None => Ok(values),
            Some(flag) => Err(Usage(format!(
                "{} is not for `{}`, but for `{}`",
                flag.name,
                command.name,
                flag.commands.join("`, `")
            ))),
        }
    }

    fn run(&self, values: &Values) -> Result<(), Failure> {
        match values.command() {
            "version" => say(format_args!("{} {}\n", self.name, self.version)),
            "help" => match values.given_arguments() {
                [] => say(self.help()),
                [name, ..] => say(self.help_of(self.command(name)?)),
            },
            name => {
                let command = self.command(name)?;
                trace::set(values)?;
                (command.run)(values)
            }
        }
    }

    fn command(&self, name: &str) -> Result<&'static Command, Usage> {
        let known = || self.commands.iter().map(|command| command.name).chain(["help", "version"]);
        self.commands
            .iter()
            .find(|command| command.name == name)
            .ok_or_else(|| Usage(format!("unknown command `{name}`{}", config::did_you_mean(name, known()))))
    }

    /// All of it, for `help`.
    pub fn help(&self) -> String {
        let mut rows: Vec<(String, &str)> =
            self.commands.iter().map(|command| (self.line(command), command.help)).collect();
        rows.push((format!("{} help [COMMAND]", self.name), "This text, or all about one command."));
        rows.push((format!("{} version", self.name), "Its version."));
        let (own, settings) = self.flags_of(|flag| !flag.commands.is_empty());
        let codes = EXIT_CODES.map(|(code, meaning)| (code.to_string(), meaning));
        format!(
            "{}: {}\n\nCommands:\n{}\nFlags of commands:\n{}\n{SETTINGS}:\n{}\nExit codes:\n{}",
            self.name,
            self.about,
            columns(&rows),
            config::help(&own),
            config::help(&settings),
            columns(&codes),
        )
    }

    /// One command, for `help COMMAND` and `COMMAND --help`.
    pub fn help_of(&self, command: &Command) -> String {
        let (own, settings) = self.flags_of(|flag| flag.commands.contains(&command.name));
        let mut text = format!("{}\n\n{}\n", self.line(command), command.help);
        if !own.is_empty() {
            let _ = write!(text, "\nFlags:\n{}", config::help(&own));
        }
        if !command.examples.is_empty() {
            let _ = write!(text, "\nExamples:\n  {}\n", command.examples.join("\n  "));
        }
        let _ = write!(text, "\n{SETTINGS}:\n{}", config::help(&settings));
        text
    }

    /// The flags of commands that `wanted` takes, and the settings.
    fn flags_of(&self, wanted: impl Fn(&Flag) -> bool) -> (Vec<&Flag>, Vec<&Flag>) {
        let settings = self.flags.iter().filter(|flag| flag.commands.is_empty());
        (self.flags.iter().filter(|flag| wanted(flag)).collect(), settings.collect())
    }

    /// How a command is called.
    fn line(&self, command: &Command) -> String {
        let mut words = vec![self.name, command.name];
        words.extend(command.arguments);
        let flags = self.flags.iter().filter(|flag| flag.commands.contains(&command.name));
        let flags = flags.map(|flag| match flag.value {
            "" => format!(" [{}]", flag.name),
            value => format!(" [{} {value}]", flag.name),
        });
        words.join(" ") + &flags.collect::<String>()
    }
}

/// Two columns, the first as wide as it must be.
fn columns(rows: &[(String, &str)]) -> String {
    let width = rows.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
    rows.iter().map(|(left, right)| format!("  {left:width$}  {right}\n")).collect()
}
