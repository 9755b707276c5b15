//! The list of every setting, made from the command line itself, and the README's table of it.
//!
//! **Invariants.** What the table says is what `--help` says: both come from one place.
//! **Not here.** The settings (`arguments`, `limit_arguments`).

use std::fmt::Write;

use clap::{Arg, Command, CommandFactory};

use super::arguments::Arguments;
use super::environment::{SECRETS_PATH_DEFAULT, SECRETS_PATH_VARIABLE};
use super::secret::{NEXT_SECRET_VARIABLES, SECRET_VARIABLES};

/// One setting of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its flags, as written; `None` where it has none.
    pub flag: Option<String>,
    /// Its environment variable, and the name of its file under `SECRETS_PATH`.
    pub variable: String,
    /// What serves where it is not set.
    pub default: String,
    /// What its value is counted in, or stands for.
    pub unit: String,
    /// The heading that it stands under in `--help`.
    pub heading: String,
    /// What it bounds or chooses, and why.
    pub help: String,
}

/// Every setting, in the order of `--help`; those without a flag last.
pub fn settings() -> Vec<Setting> {
    let command = Arguments::command();
    let mut settings: Vec<Setting> = Vec::new();
    for heading in headings(&command) {
        let under = |argument: &&Arg| argument.get_help_heading() == Some(heading);
        settings.extend(command.get_arguments().filter(under).filter_map(setting));
    }
    let secret = |variable: &str, default: &str, help: &str| Setting {
        flag: None,
        variable: variable.to_owned(),
        default: default.to_owned(),
        unit: String::new(),
        heading: "Secrets".to_owned(),
        help: help.to_owned(),
    };
    let [first, second] = SECRET_VARIABLES;
    settings.push(secret(first, "", "The secret that drivers must show"));
    settings.push(secret(
        second,
        "`testing`",
        "The same, where the one above is not set; production needs one of both",
    ));
    let [first_next, second_next] = NEXT_SECRET_VARIABLES;
    settings.push(secret(first_next, "", "Another secret that is let in as well, while drivers change to it"));
    settings.push(secret(second_next, "", "The same, where the one above is not set"));
    settings.push(secret(
        SECRETS_PATH_VARIABLE,
        &format!("`{SECRETS_PATH_DEFAULT}`"),
        "Folder of files that stand in for variables; not itself in a file",
    ));
    settings
}

/// The settings as a Markdown table, with a newline at its end.
pub fn settings_table() -> String {
    let mut table = String::from("| flag | environment | default | what it bounds, and why |\n|---|---|---|---|\n");
    for setting in settings() {
        let flag = setting.flag.map_or_else(String::new, |flag| format!("`{flag}`"));
        let help = setting.help.replace('|', "\\|");
        // A String takes every write.
        let _ = writeln!(table, "| {flag} | `{}` | {} | {help} |", setting.variable, setting.default);
    }
    table
}

/// How a setting is called in a message: its flags and its variable.
pub(super) fn name(argument: &Arg) -> String {
    let long = argument.get_long().map(|long| format!("--{long}"));
    let short = argument.get_short().map(|short| format!("-{short}"));
    let flags: Vec<String> = [short, long].into_iter().flatten().collect();
    let flags = if flags.is_empty() { argument.get_id().to_string().to_uppercase() } else { flags.join("/") };
    match variable(argument) {
        Some(variable) => format!("{flags} ({variable})"),
        None => flags,
    }
}

/// The variable of a setting; `None` for an action.
pub(super) fn variable(argument: &Arg) -> Option<&str> {
    argument.get_env()?.to_str()
}

fn headings(command: &Command) -> Vec<&str> {
    let mut headings: Vec<&str> = Vec::new();
    for heading in command.get_arguments().filter_map(Arg::get_help_heading) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    headings
}

fn setting(argument: &Arg) -> Option<Setting> {
    let variable = variable(argument)?.to_owned();
    let unit = argument.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
    let short = argument.get_short().map_or_else(String::new, |short| format!("-{short}, "));
    let default = argument.get_default_values().first().map(|value| value.to_string_lossy().into_owned());
    let default = match default.as_deref() {
        None | Some("") if unit == "FILTER" => "by `SG_ENV`".to_owned(),
        None | Some("") => String::new(),
        Some(default) => match unit {
            "BYTES" => format!("{default} bytes"),
            "MS" => format!("{default} ms"),
            _ => format!("`{default}`"),
        },
    };
    Some(Setting {
        flag: Some(format!("{short}--{} {unit}", argument.get_long()?)),
        variable,
        default,
        unit: unit.to_owned(),
        heading: argument.get_help_heading()?.to_owned(),
        help: argument.get_help()?.to_string(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_a_variable_a_unit_and_a_help_of_one_line() {
        let settings = settings();
        for setting in &settings {
            assert!(!setting.help.contains('\n') && !setting.help.is_empty(), "{setting:?}");
            assert!(setting.flag.is_none() || !setting.unit.is_empty(), "{setting:?}");
        }
        let mut variables: Vec<&str> = settings.iter().map(|setting| setting.variable.as_str()).collect();
        variables.sort_unstable();
        variables.dedup();
        assert_eq!(variables.len(), settings.len());
    }

    #[test]
    fn a_flags_variable_is_its_name_with_the_prefix() {
        for setting in settings() {
            let (Some(flag), Some(name)) = (setting.flag, setting.variable.strip_prefix("DISPATCH_")) else {
                continue;
            };
            let expected = format!("--{} ", name.to_lowercase().replace('_', "-"));
            assert!(flag.starts_with(&expected), "{flag} {name}");
        }
    }

    #[test]
    fn the_table_has_a_row_for_every_setting() {
        let rows = settings_table().lines().count() - 2;
        assert_eq!(rows, settings().len());
        assert!(settings_table().contains("| `-p, --port PORT` | `SG_SERVER_PORT` | `3000` |"));
    }
}
