//! Checks of the help pages, with a snapshot of each page.

use clap::{Command, Parser};

use super::help::GROUPS;
use super::{Cli, command};

/// Width of the snapshots and the maximum width on a terminal, in columns.
const WIDTH: usize = 100;

/// All help pages with the words of their command: the main page first, then
/// the pages of all subcommands.
fn pages() -> Vec<(Vec<String>, Command)> {
    fn collect(command: &Command, path: &[String], pages: &mut Vec<(Vec<String>, Command)>) {
        let mut path = path.to_vec();
        path.push(command.get_name().to_owned());
        pages.push((path.clone(), command.clone()));
        for subcommand in command.get_subcommands() {
            if subcommand.get_name() != "help" {
                collect(subcommand, &path, pages);
            }
        }
    }
    let mut main = command().term_width(WIDTH);
    main.build();
    let mut pages = Vec::new();
    collect(&main, &[], &mut pages);
    assert!(pages.len() > 40, "{}", pages.len());
    pages
}

/// The command lines of the examples at the end of a page.
fn examples(page: &Command) -> Vec<String> {
    let end = page.get_after_help().map(ToString::to_string);
    let end = end.unwrap_or_default();
    let lines = end.lines().skip_while(|line| *line != "Examples:").skip(1);
    lines
        .map_while(|line| line.strip_prefix("  "))
        .map(str::to_owned)
        .collect()
}

/// The words of the `pixels` command in an example, without pipes, redirections
/// and the description on the main page.
fn words(example: &str) -> Vec<String> {
    let command = &example[example.find("pixels").unwrap()..];
    let command = command.split("   ").next().unwrap();
    let command = command.split(['|', '>']).next().unwrap();
    command
        .split_whitespace()
        .map(|word| word.trim_matches('\'').to_owned())
        .collect()
}

#[test]
fn command_tree_is_valid() {
    command().debug_assert();
}

#[test]
fn main_page_lists_each_command_once() {
    let listed = GROUPS.iter().flat_map(|(_, names)| names.split(' '));
    let mut listed: Vec<&str> = listed.filter(|name| *name != "help").collect();
    let main = command();
    let commands = main.get_subcommands().filter(|it| !it.is_hide_set());
    let mut commands: Vec<&str> = commands.map(Command::get_name).collect();
    listed.sort();
    commands.sort();
    assert_eq!(listed, commands);
}

#[test]
fn first_lines_are_short_and_without_dot() {
    for (path, page) in pages() {
        let about = page.get_about().unwrap().to_string();
        let line = format!("{path:?}: {about}");
        assert!(about.chars().count() <= 70, "{line}");
        assert!(!about.ends_with('.') && !about.contains('\n'), "{line}");
    }
}

#[test]
fn all_arguments_have_help() {
    for (path, page) in pages() {
        for argument in page.get_arguments().filter(|it| !it.is_hide_set()) {
            assert!(
                argument.get_help().is_some(),
                "{path:?} {}",
                argument.get_id()
            );
        }
    }
}

#[test]
fn global_options_have_own_heading() {
    for (path, page) in pages().iter().skip(1) {
        let json = page.get_arguments().find(|it| it.get_id() == "json");
        let heading = json.unwrap().get_help_heading();
        assert_eq!(heading, Some("Global options"), "{path:?}");
    }
}

#[test]
fn pages_end_with_examples_that_parse() {
    for (path, page) in pages() {
        let examples = examples(&page);
        assert!((2..=5).contains(&examples.len()), "{path:?} {examples:?}");
        let first = words(&examples[0]);
        assert!(first.starts_with(&path), "{path:?}: {first:?}");
        for example in examples {
            let parsed = Cli::try_parse_from(words(&example));
            assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
        }
    }
}

/// One snapshot per page. Only that of the main page has the global options.
#[test]
fn pages_match_their_snapshots() {
    for (path, _) in pages() {
        let arguments = path.iter().map(String::as_str).chain(["--help"]);
        let main = command().term_width(WIDTH);
        let help = main.try_get_matches_from(arguments).unwrap_err();
        let mut text = help.render().to_string();
        if path.len() > 1 {
            let start = text.find("\nGlobal options:\n").unwrap();
            let end = text.find("\nExamples:\n").unwrap();
            text.replace_range(start..end, "");
        }
        let mut settings = insta::Settings::clone_current();
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(path.join("-"), text));
    }
}
