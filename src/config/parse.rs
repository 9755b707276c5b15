//! From arguments, environment and files to clap's matches, and from clap's complaints to one line.
//!
//! **Invariants.** A flag goes before what is found elsewhere, that before the default; a complaint names the flag, the
//! variable and where the value was found.
//! **Not here.** Which settings there are (`arguments`), what they mean together (`config`).

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;

use clap::error::{ContextKind, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory};

use super::arguments::Arguments;
use super::error::ConfigError;
use super::origin::{Origin, Position};
use super::places::Places;
use super::settings;

/// Existing images start `/dispatch` with the command `/dispatch -b …`: the name stands there twice.
pub(super) fn without_repeated_name(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut given: Vec<OsString> = arguments.into_iter().collect();
    if given.is_empty() {
        given.push("dispatch".into());
    }
    let repeats = |argument: &OsString| {
        Path::new(argument).file_name().is_some_and(|name| name == "dispatch") || *argument == given[0]
    };
    if given.get(1).is_some_and(repeats) {
        given.remove(1);
    }
    given
}

/// The command line without its variables: they are looked up in `places`, so that files can stand in for them, and
/// tests need no environment.
pub(super) fn without_environment() -> clap::Command {
    let bare = |command: clap::Command| command.mut_args(|argument| argument.env(None::<&'static str>));
    bare(Arguments::command()).mut_subcommands(bare)
}

/// The command line with its variables, for help and names. It shows their names only: clap reads their values, too.
pub fn with_environment() -> clap::Command {
    let named = |command: clap::Command| command.mut_args(|argument| argument.hide_env_values(true));
    named(Arguments::command()).mut_subcommands(named)
}

/// What is found of every setting that the command line leaves open, as arguments, and where each was found, by its id.
pub(super) fn from_places(
    matches: &ArgMatches,
    places: &Places,
) -> Result<(Vec<OsString>, HashMap<String, Origin>), ConfigError> {
    let mut additions = Vec::new();
    let mut origins = HashMap::new();
    for setting in settings::settings() {
        let (Some(id), Some(_)) = (setting.key, setting.flag) else { continue };
        if matches.value_source(&id) == Some(ValueSource::CommandLine) {
            continue;
        }
        let Some((text, origin)) = places.find(&setting.variable, &id)? else { continue };
        if matches!(origin, Origin::Config(_)) {
            check_elements(&id, places.entry(&id).map_or(&[], |entry| &entry.elements))?;
        }
        additions.push(flag(&id, &text));
        origins.insert(id, origin);
    }
    Ok((additions, origins))
}

/// Checks each element of a list by itself, so that a complaint names its own place.
fn check_elements(id: &str, elements: &[(String, Position)]) -> Result<(), ConfigError> {
    for (text, position) in elements {
        let origins = || HashMap::from([(id.to_owned(), Origin::Config(position.clone()))]);
        let alone = ["dispatch".into(), flag(id, text)];
        without_environment().try_get_matches_from(alone).map_err(|error| refusal(&error, &origins()))?;
    }
    Ok(())
}

fn flag(id: &str, text: &str) -> OsString {
    format!("--{}={text}", id.replace('_', "-")).into()
}

/// The help with its variables, which the parsed command line does not know of.
pub(super) fn help(given: &[OsString], error: clap::Error) -> String {
    match with_environment().try_get_matches_from(given) {
        Err(full) if full.kind() == ErrorKind::DisplayHelp => full.render().to_string(),
        _ => error.render().to_string(),
    }
}

/// One line for what clap found wrong.
pub(super) fn refusal(error: &clap::Error, origins: &HashMap<String, Origin>) -> ConfigError {
    let context = |kind| error.get(kind).map(ToString::to_string);
    let text = error.render().to_string();
    let paragraph: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let line = paragraph.join(" ").replacen("error: ", "", 1);
    let is_value = matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation);
    let (Some(usage), Some(value), true) =
        (context(ContextKind::InvalidArg), context(ContextKind::InvalidValue), is_value)
    else {
        return ConfigError::Arguments(line);
    };
    if value.is_empty() && error.kind() == ErrorKind::InvalidValue && origins.is_empty() {
        // A flag without its value, which clap says better.
        return ConfigError::Arguments(line);
    }
    let command = with_environment();
    let flag = usage.split_whitespace().next().unwrap_or_default();
    let named = |argument: &&clap::Arg| argument.get_long().is_some_and(|long| flag.strip_prefix("--") == Some(long));
    let Some(argument) = command.get_arguments().find(named) else {
        return ConfigError::Arguments(line);
    };
    let setting = settings::name(argument);
    let reason = std::error::Error::source(error).map(ToString::to_string);
    let reason =
        reason.or_else(|| context(ContextKind::ValidValue).map(|values| format!("it must be one of {values}")));
    let reason = reason.unwrap_or(line).replace('\n', " ");
    match origins.get(argument.get_id().as_str()) {
        Some(origin) => ConfigError::Variable { setting, value, origin: origin.clone(), reason },
        None => ConfigError::Flag { setting, value, reason },
    }
}
