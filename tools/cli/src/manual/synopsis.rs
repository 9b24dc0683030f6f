//! The SYNOPSIS of a page: each form of the command line, with the names of the values.
//!
//! Contract: every option but `--help` and `--version` is there; what is optional is in brackets,
//! what can be repeated has an ellipsis. An option and its value stay on one line.

use super::roff::escape;
use clap::{Arg, ArgAction, Command};

/// The lines of the section. `command` is built ([`Command::build`]).
pub(super) fn synopsis(command: &Command) -> String {
    let mut forms = Vec::new();
    if !command.is_subcommand_required_set() {
        forms.push(form(command.get_name(), command));
    }
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        forms.push(form(&format!("{} {}", command.get_name(), sub.get_name()), sub));
    }
    forms.join(".br\n")
}

fn form(name: &str, command: &Command) -> String {
    let options = command.get_arguments().filter(|arg| !arg.is_positional());
    let all = options.chain(command.get_positionals());
    let mut lines = format!(".B {}\n", escape(name));
    for arg in all.filter(|arg| !arg.is_hide_set() && !is_help(arg)) {
        lines += &argument(arg);
        lines.push('\n');
    }
    lines
}

fn is_help(arg: &Arg) -> bool {
    use ArgAction::{Help, HelpLong, HelpShort, Version};
    matches!(arg.get_action(), Help | HelpLong | HelpShort | Version)
}

/// `[-n|--count N]`, `NAME...`.
fn argument(arg: &Arg) -> String {
    let short = arg.get_short().map(|c| format!("-{c}"));
    let long = arg.get_long().map(|name| format!("--{name}"));
    let names: Vec<_> =
        short.into_iter().chain(long).map(|n| format!("\\fB{}\\fR", escape(&n))).collect();
    let values = arg.get_num_args().filter(|values| values.takes_values());
    let value = values.map(|values| {
        let names = arg.get_value_names().unwrap_or_default();
        let names: Vec<_> = names.iter().map(|name| escape(name)).collect();
        // As in `--help`, an argument without a name for its value goes by its own.
        let name = if names.is_empty() { escape(arg.get_id().as_str()) } else { names.join("\\ ") };
        (format!("\\fI{name}\\fR"), values)
    });
    let mut text = names.join("|");
    match value {
        Some((value, _)) if arg.is_positional() => text = value,
        Some((value, values)) if values.min_values() == 0 => text += &format!("[={value}]"),
        Some((value, _)) => text += &format!("\\ {value}"),
        None => {}
    }
    if !arg.is_required_set() {
        text = format!("[{text}]");
    }
    let many = arg.get_num_args().is_some_and(|values| values.max_values() > 1);
    if many || matches!(arg.get_action(), ArgAction::Append) { text + "..." } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_names_and_what_is_optional_has_brackets() {
        let arg = |name: &'static str| Arg::new(name).long(name);
        let mut command = Command::new("x")
            .arg(arg("count").short('n').value_name("N"))
            .arg(arg("to").required(true))
            .arg(arg("quiet").action(ArgAction::SetTrue))
            .arg(arg("uid").action(ArgAction::Append))
            .arg(arg("color").num_args(0..=1).require_equals(true).value_name("WHEN"))
            .arg(arg("secret").hide(true))
            .arg(Arg::new("NAME").num_args(1..).required(true));
        command.build();
        let plain = synopsis(&command).replace("\\fB", "").replace("\\fI", "").replace("\\fR", "");
        let plain = plain.replace("\\ ", " ").replace("\\-", "-").replace('\n', " ");
        assert_eq!(
            plain.trim_end(),
            ".B x [-n|--count N] --to to [--quiet] [--uid uid]... [--color[=WHEN]] NAME..."
        );
    }

    #[test]
    fn each_subcommand_has_its_form() {
        let sub = Command::new("ls").arg(Arg::new("json").long("json").action(ArgAction::SetTrue));
        let optional = Command::new("x").disable_help_subcommand(true).subcommand(sub);
        for (required, forms) in [(false, 2), (true, 1)] {
            let mut command = optional.clone().subcommand_required(required);
            command.build();
            assert_eq!(synopsis(&command).matches(".B ").count(), forms);
        }
    }
}
