//! Parts of the help pages that clap does not generate: command groups and
//! examples.

use clap::Command;

/// The end of a help page: example command lines, which a test parses.
macro_rules! examples {
    ($($line:literal)+) => { concat!("Examples:" $(, "\n  ", $line)+) };
}

/// The commands of the main help page.
pub(super) const GROUPS: &[(&str, &str)] = &[
    (
        "Lifecycle",
        "create start stop destroy list status provision expire prune",
    ),
    (
        "Work",
        "exec console sessions push pull sync forward top events",
    ),
    ("State", "checkpoint fork base"),
    ("Network", "network"),
    ("Agents", "mcp"),
    (
        "Host",
        "setup doctor quickstart config completions man help",
    ),
];

/// Adds the subcommands, in groups, to the help page of `main`.
pub fn with_groups(main: Command) -> Command {
    let mut template = "{about-with-newline}\n{usage-heading} {usage}\n".to_owned();
    for (group, names) in GROUPS {
        template.push_str(&format!("\n{group}:\n"));
        for name in names.split(' ') {
            template.push_str(&format!("  {name:<11}  {}\n", about(&main, name)));
        }
    }
    template.push_str("\nOptions:\n{options}{after-help}");
    main.help_template(template)
}

fn about(main: &Command, name: &str) -> String {
    let Some(command) = main.find_subcommand(name) else {
        // clap adds this command later.
        return "Print this message or the help of a command".into();
    };
    let about = command.get_about().into_iter().map(ToString::to_string);
    let aliases = command.get_visible_aliases();
    let aliases = aliases.map(|alias| format!(" [alias: {alias}]"));
    about.chain(aliases).collect()
}

pub const MAIN_EXAMPLES: &str = concat!(
    examples!(
        "pixels create box --egress agent     create a pixel with the agent policy"
        "pixels exec box -- uname -a          run a command in it"
        "pixels console box                   open a shell in it"
        "pixels destroy box                   delete it"
    ),
    "\n\nThe pixel NAME is the instance px-NAME on the server. Commands accept both names.\n\n",
    "Exit codes: 0 success, 1 failure, 2 wrong usage or configuration (no request was sent), \
     3 not found, 4 already exists, 5 server unreachable or not authorized, 130 and 143 \
     interrupted. exec and console exit with the command's own code, or 124 timed out, 125 \
     failure of pixels, 126 not executable, 127 command not found, 128+N killed by signal N.",
);
