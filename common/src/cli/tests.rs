use super::*;

const DONE: fn(&Values) -> Result<(), Failure> = |_| Ok(());

const PROGRAM: Program = Program {
    name: "thing",
    about: "what tests call",
    version: "1.2.3",
    flags: &[
        Flag::new("--base", "T_BASE", "URL", "Where it is.").default("http://127.0.0.1:1"),
        Flag::switch("--json", "", "JSON instead of text.").of(&["show"]),
        Flag::new("--after", "", "SEQ", "Where to begin.").of(&["show", "tail"]),
    ],
    commands: &[
        Command { name: "show", arguments: &[], help: "Shows.", examples: &["thing show --json"], run: DONE },
        Command {
            name: "tail",
            arguments: &[],
            help: "Tails.",
            examples: &["thing tail --after 1"],
            run: DONE,
        },
        Command {
            name: "say",
            arguments: &["WHERE", "TEXT"],
            help: "Says. And more.",
            examples: &["thing say here 'a b' --base \"x y\""],
            run: DONE,
        },
    ],
};

fn read(line: &str) -> Result<Values, String> {
    PROGRAM.read(words(line), |_| None).map_err(|usage| usage.0)
}

#[test]
fn what_cannot_be_done_is_named_with_what_could() {
    for (line, fault) in [
        ("", "no command"),
        ("sing", "unknown command `sing`"),
        ("shw", "unknown command `shw`; did you mean show?"),
        ("hlep", "unknown command `hlep`; did you mean help?"),
        ("show --jsno", "unknown flag --jsno; did you mean --json?"),
        ("tail --json", "--json is not for `tail`, but for `show`"),
        ("say --after 1 a b", "--after is not for `say`, but for `show`, `tail`"),
        ("say here", "`say` needs TEXT"),
        ("say", "`say` needs WHERE"),
        ("show now", "unexpected argument `now` after `show`"),
    ] {
        assert_eq!(read(line).err().as_deref(), Some(fault).filter(|fault| !fault.is_empty()), "{line:?}");
    }
}

#[test]
fn help_is_of_the_whole_or_of_a_command_and_has_what_it_takes() {
    let all = PROGRAM.help();
    assert!(
        all.starts_with(
            "thing: what tests call\n\nCommands:\n  thing show [--json] [--after SEQ]\n      Shows.\n"
        ),
        "{all}"
    );
    assert!(
        all.contains("  thing say WHERE TEXT\n      Says.\n  thing help") && all.contains("\n  69  "),
        "{all}"
    );
    let one = PROGRAM.help_of(PROGRAM.command("tail").unwrap());
    assert!(
        one.starts_with("thing tail [--after SEQ]\n\nTails.\n\nFlags:\n  --after SEQ  Where to begin.\n"),
        "{one}"
    );
    assert!(one.contains("\nExamples:\n  thing tail --after 1\n") && !one.contains("--json"), "{one}");
    for (line, arguments) in
        [("help", &[][..]), ("help show", &["show"]), ("tail --help", &["tail"]), ("-h", &[])]
    {
        let values = read(line).unwrap();
        assert_eq!(
            (values.command(), values.given_arguments()),
            ("help", &arguments.iter().map(|a| a.to_string()).collect::<Vec<_>>()[..]),
            "{line}"
        );
        assert!(PROGRAM.run(&values).is_ok(), "{line}");
    }
    for line in ["help help", "help version", "--version", "version"] {
        assert!(PROGRAM.run(&read(line).unwrap()).is_ok(), "{line}");
    }
    let unknown = PROGRAM.run(&read("help shw").unwrap()).unwrap_err();
    assert_eq!((unknown.0, unknown.1.as_str()), (EXIT_USAGE, "unknown command `shw`; did you mean show?"));
}

#[test]
fn who_erred_is_sent_to_the_help_that_has_it() {
    let hint = |line: &str| PROGRAM.hint(&words(line));
    assert_eq!(hint("say here"), "; see `thing help say`");
    assert_eq!(hint("sing"), "; see `thing help`");
}

#[test]
fn a_fault_of_a_table_is_seen() {
    assert_eq!(faults(&PROGRAM), Vec::<String>::new());
    const BAD: Program = Program {
        flags: &[Flag::switch("--json", "", "no sentence").of(&["sow"])],
        commands: &[Command {
            name: "show",
            arguments: &[],
            help: "Shows.",
            examples: &["thing show --jsno"],
            run: DONE,
        }],
        ..PROGRAM
    };
    assert_eq!(
        faults(&BAD),
        [
            "--json has a help that is no sentence",
            "--json is for no command",
            "thing show --jsno does not parse: unknown flag --jsno; did you mean --json?"
        ]
    );
}
