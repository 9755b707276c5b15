//! The configuration file that is shipped: every setting with its default, its reason and its other names, all commented
//! out.
//!
//! **Invariants.** It says what `--help` says, as both come from one place; read as it is, it sets nothing.
//! **Not here.** Reading a file (`file`).

use std::fmt::Write;

use super::changes::RESTART_KEYS;
use super::settings::{SECRET_KEYS, Setting, settings};

const HEAD: &str = "\
# Settings of dispatch. What stands behind a single # is the default: take the # away and change it.
#
# A flag goes before its variable, a variable before a file of its name under SECRETS_PATH, that before this file.
# `dispatch check-config` checks the file, and says of each setting where it came from.
# SIGHUP has it read again; `needs a restart` says what that cannot change.
# Secrets are best in variables or in files under SECRETS_PATH; with one in here, let few read this file.
# docs/configuration.md has the rest.
";
const COLUMNS_MAX: usize = 110;

/// The text of the file.
pub fn template() -> String {
    let mut text = HEAD.to_owned();
    let mut heading = String::new();
    for setting in settings() {
        let Some(key) = &setting.key else { continue };
        if setting.heading != heading {
            heading.clone_from(&setting.heading);
            // A String takes every write.
            let _ = write!(text, "\n\n## {heading}\n");
        }
        let _ = write!(text, "\n{}#{key} = {}\n", comment(&setting), value(&setting, key));
    }
    text
}

fn value(setting: &Setting, key: &str) -> String {
    let default = setting.default_value.as_deref().filter(|_| !SECRET_KEYS.contains(&key));
    setting.form.toml(default.unwrap_or_default())
}

/// What the setting is for, in lines, and its other names.
fn comment(setting: &Setting) -> String {
    let flag = setting.flag.as_ref().map(|flag| format!("{flag}; "));
    let needs_restart = setting.key.as_deref().is_some_and(|key| RESTART_KEYS.contains(&key));
    let restart = if needs_restart { "; needs a restart" } else { "" };
    let names = format!("{}{}{restart}", flag.unwrap_or_default(), setting.variable);
    let mut lines = String::new();
    let mut line = String::from("##");
    for word in setting.help.split_whitespace() {
        if line.len() + 1 + word.len() > COLUMNS_MAX {
            let _ = writeln!(lines, "{line}");
            line = String::from("##");
        }
        let _ = write!(line, " {word}");
    }
    let _ = write!(lines, "{line}\n##   {names}\n");
    lines
}
