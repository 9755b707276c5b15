//! The list of every setting, made from the command line itself, and the README's table of it.
//!
//! **Invariants.** What the table says is what `--help` says: both come from one place.
//! **Not here.** The settings (`arguments`, `limit_arguments`).

use std::fmt::Write;

use clap::{Arg, Command, CommandFactory};

use super::arguments::Arguments;
use super::environment::{SECRETS_PATH_DEFAULT, SECRETS_PATH_VARIABLE};
use super::file::{CONFIG_PATH_DEFAULT, CONFIG_VARIABLE};
use super::parse::with_environment;
use super::secret::{BUILT_IN, NEXT_SECRET_VARIABLES, SECRET_VARIABLES};

/// The keys of the secrets in the configuration file: the one that drivers must show, and the one that is to follow.
pub(super) const SECRET_KEYS: [&str; 2] = ["server_secret", "server_secret_next"];
/// The key of the folder of files that stand in for variables.
pub(super) const SECRETS_PATH_KEY: &str = "secrets_path";

/// One setting of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its key in the configuration file; `None` where it cannot stand there.
    pub key: Option<String>,
    /// Its flags, as written; `None` where it has none.
    pub flag: Option<String>,
    /// Its environment variable, and the name of its file under `SECRETS_PATH`.
    pub variable: String,
    /// What serves where it is not set, for a reader.
    pub default: String,
    /// The same as its flag would take it; `None` where that would be nothing.
    pub default_value: Option<String>,
    /// What its value is counted in, or stands for.
    pub unit: String,
    /// How its value is written in the configuration file.
    pub form: Form,
    /// The heading that it stands under in `--help`.
    pub heading: String,
    /// What it bounds or chooses, and why.
    pub help: String,
}

/// How a value is written in the configuration file. A string is always taken, and so is a whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A whole number.
    Number,
    /// Whether something is done; true and false are taken as well.
    Switch,
    /// A list of strings and whole numbers; a string with commas is taken as well.
    List,
    /// A string.
    Text,
}

impl Form {
    fn of(unit: &str) -> Form {
        match unit {
            "BYTES" | "COUNT" | "MS" | "PORT" => Form::Number,
            "SWITCH" => Form::Switch,
            "PORTS" | "SOURCES" | "SECONDS" => Form::List,
            _ => Form::Text,
        }
    }

    /// What is to be written, for a complaint.
    pub(super) fn wanted(self) -> &'static str {
        match self {
            Form::Number => "a whole number",
            Form::Switch => "true or false",
            Form::List => "a list of strings, such as [\"10.0.0.0/8\", \"::1\"]",
            Form::Text => "a string",
        }
    }

    /// A value in TOML. Strings of JSON are strings of TOML.
    pub(super) fn toml(self, value: &str) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        match self {
            Form::Number => value.to_owned(),
            Form::Switch | Form::Text => quoted(value),
            Form::List => {
                let elements = value.split(',').map(str::trim).filter(|element| !element.is_empty());
                format!("[{}]", elements.map(quoted).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// Every setting, in the order of `--help`; those without a flag last.
pub fn settings() -> Vec<Setting> {
    let command = Arguments::command();
    let mut settings: Vec<Setting> = Vec::new();
    for heading in headings(&command) {
        let under = |argument: &&Arg| argument.get_help_heading() == Some(heading);
        settings.extend(command.get_arguments().filter(under).filter_map(setting));
    }
    let bare = |variable: &str, key: Option<&str>, default: Option<&str>, help: &str| Setting {
        key: key.map(str::to_owned),
        flag: None,
        variable: variable.to_owned(),
        default: default.map_or_else(String::new, |default| format!("`{default}`")),
        default_value: default.map(str::to_owned),
        unit: String::new(),
        form: Form::Text,
        heading: "Secrets".to_owned(),
        help: help.to_owned(),
    };
    let [first, second] = SECRET_VARIABLES;
    let [first_next, second_next] = NEXT_SECRET_VARIABLES;
    let [key, key_next] = SECRET_KEYS;
    let other_name = |variable: &str| format!("Another name of `{variable}`, which it goes before");
    let next_help = "Another secret that is let in as well, while drivers change to it";
    let path_help = "Folder of files that stand in for variables; not itself in a file there";
    settings.extend([
        bare(first, None, None, &other_name(second)),
        bare(second, Some(key), Some(BUILT_IN), "The secret that drivers must show; production needs one"),
        bare(first_next, None, None, &other_name(second_next)),
        bare(second_next, Some(key_next), None, next_help),
        bare(SECRETS_PATH_VARIABLE, Some(SECRETS_PATH_KEY), Some(SECRETS_PATH_DEFAULT), path_help),
    ]);
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

/// The same of the setting whose argument has this id.
pub(super) fn name_of(id: &str) -> String {
    let command = with_environment();
    command.get_arguments().find(|argument| argument.get_id() == id).map_or_else(String::new, name)
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
    let is_file = variable == CONFIG_VARIABLE;
    let default_value = argument.get_default_values().first().map(|value| value.to_string_lossy().into_owned());
    let default_value = default_value.filter(|value| !value.is_empty());
    let default = match default_value.as_deref() {
        None if is_file => format!("`{CONFIG_PATH_DEFAULT}`, if it is there"),
        None if unit == "FILTER" => "by `SG_ENV`".to_owned(),
        None => String::new(),
        Some(default) => match unit {
            "BYTES" => format!("{default} bytes"),
            "MS" => format!("{default} ms"),
            _ => format!("`{default}`"),
        },
    };
    let long = argument.get_long()?;
    Some(Setting {
        // The file does not name itself.
        key: (!is_file).then(|| argument.get_id().to_string()),
        flag: Some(format!("{short}--{long} {unit}")),
        variable,
        default,
        default_value,
        unit: unit.to_owned(),
        form: Form::of(unit),
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
    fn a_settings_key_is_its_flags_name_with_underscores_and_no_two_have_the_same() {
        let mut keys = Vec::new();
        for setting in settings() {
            let Some(key) = setting.key else { continue };
            if let Some(flag) = setting.flag {
                assert!(flag.contains(&format!("--{} ", key.replace('_', "-"))), "{flag} {key}");
            } else {
                assert_eq!(setting.variable.to_lowercase(), key);
            }
            assert!(!keys.contains(&key), "{key}");
            keys.push(key);
        }
    }

    #[test]
    fn the_table_has_a_row_for_every_setting() {
        let rows = settings_table().lines().count() - 2;
        assert_eq!(rows, settings().len());
        assert!(settings_table().contains("| `-p, --port PORT` | `SG_SERVER_PORT` | `3000` |"));
    }
}
