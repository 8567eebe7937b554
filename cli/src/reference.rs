//! A command line as a page of Markdown, made from clap's own tree, so that it says what the program does.

use std::fmt::Write;

use clap::{Arg, ArgAction, Command};

/// The part of `docs/reference.md` about one program.
pub(crate) fn page(mut program: Command) -> String {
    program.build();
    let mut text = String::new();
    let name = program.get_name().to_owned();
    line(&mut text, format_args!("## `{name}`\n"));
    line(&mut text, format_args!("{}\n", about(&program)));
    line(&mut text, format_args!("Options of every sub-command:\n"));
    arguments(&mut text, program.get_arguments().filter(|arg| is_shown(arg) && arg.is_global_set()));
    for command in program.get_subcommands().filter(|command| is_shown_command(command)) {
        section(&mut text, &name, command);
    }
    if let Some(after) = program.get_after_help() {
        line(&mut text, format_args!("```text\n{after}\n```\n"));
    }
    text
}

fn section(text: &mut String, path: &str, command: &Command) {
    let path = format!("{path} {}", command.get_name());
    let mut usage = command.clone().render_usage().to_string();
    usage = usage.trim_start_matches("Usage: ").to_owned();
    line(text, format_args!("### `{path}`\n"));
    line(text, format_args!("{}\n", about(command)));
    line(text, format_args!("```text\n{usage}\n```\n"));
    arguments(text, command.get_arguments().filter(|arg| is_shown(arg) && !arg.is_global_set()));
    if let Some(after) = command.get_after_help() {
        line(text, format_args!("```text\n{after}\n```\n"));
    }
    for inner in command.get_subcommands().filter(|command| is_shown_command(command)) {
        section(text, &path, inner);
    }
}

fn arguments<'a>(text: &mut String, arguments: impl Iterator<Item = &'a Arg>) {
    let rows: Vec<String> = arguments.map(row).collect();
    if rows.is_empty() {
        return;
    }
    line(text, format_args!("| option | default | what |\n|---|---|---|\n{}\n", rows.join("\n")));
}

fn row(arg: &Arg) -> String {
    let value = |arg: &Arg| {
        let names = arg.get_value_names().unwrap_or_default();
        names.iter().map(|name| format!("<{name}>")).collect::<Vec<_>>().join(" ")
    };
    let takes_value = arg.get_action().takes_values();
    let name = match (arg.get_long(), takes_value) {
        (Some(long), true) => format!("--{long} {}", value(arg)),
        (Some(long), false) => format!("--{long}"),
        (None, _) => value(arg),
    };
    let default = arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect::<Vec<_>>().join(" ");
    let default = if takes_value { default } else { String::new() };
    let mut what = arg.get_help().map(ToString::to_string).unwrap_or_default().replace('\n', " ").replace('|', "\\|");
    let possible: Vec<_> =
        arg.get_possible_values().iter().filter(|value| !value.is_hide_set()).map(|value| format!("`{}`", value.get_name())).collect();
    if takes_value && !possible.is_empty() {
        // Writing to a text does not fail.
        let _written = write!(what, ": {}", possible.join(", "));
    }
    if let Some(variable) = arg.get_env() {
        let _written = write!(what, "; in the environment `{}`", variable.to_string_lossy());
    }
    format!("| `{}` | {default} | {what} |", name.trim_end())
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

fn is_shown(arg: &Arg) -> bool {
    !arg.is_hide_set() && !matches!(arg.get_action(), ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version)
}

fn is_shown_command(command: &Command) -> bool {
    !command.is_hide_set() && command.get_name() != "help"
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a text does not fail.
    let _written = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

    use super::*;

    /// Does things
    #[derive(Parser)]
    #[command(name = "program", after_help = "Exit codes: 0.")]
    struct Cli {
        /// Settings
        #[arg(long, global = true, value_name = "FILE", env = "PROGRAM_CONFIG")]
        config: Option<String>,
        #[command(subcommand)]
        command: Kind,
    }

    #[derive(Subcommand)]
    enum Kind {
        /// Find things
        Find {
            /// What | where
            what: String,
            /// How
            #[arg(long, value_enum, default_value = "near")]
            how: How,
            #[arg(long)]
            all: bool,
        },
        #[command(hide = true)]
        Secret,
    }

    #[derive(Clone, ValueEnum)]
    enum How {
        Near,
        Far,
    }

    /// Proves that commands, options, values, defaults, variables and what stands below a help are in the page, and nothing hidden is.
    #[test]
    fn everything() {
        let text = page(Cli::command());
        for part in [
            "## `program`\n\nDoes things\n",
            "| `--config <FILE>` |  | Settings; in the environment `PROGRAM_CONFIG` |",
            "### `program find`\n\nFind things\n\n```text\nprogram find [OPTIONS] <WHAT>\n```\n",
            "| `<WHAT>` |  | What \\| where |",
            "| `--how <HOW>` | `near` | How: `near`, `far` |",
            "| `--all` |  |  |",
            "Exit codes: 0.",
        ] {
            assert!(text.contains(part), "{part}\n----\n{text}");
        }
        assert!(!text.contains("secret") && !text.contains("--help"), "{text}");
    }
}
