//! The settings as they are in force: each with its value and where that came from, and how `check-config` prints them.
//!
//! **Invariants.** A secret is never in here, only whether there is one.
//! **Not here.** Finding them (`loader`).

use std::collections::HashMap;
use std::fmt::Write;

use clap::ArgMatches;
use clap::parser::ValueSource;
use serde_json::json;

use super::Config;
use super::origin::{Origin, Position};
use super::places::Places;
use super::settings::{self, Form, SECRET_KEYS, SECRETS_PATH_KEY, Setting};

/// What stands for a secret.
const MASK: &str = "********";

/// One setting as it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The setting.
    pub setting: Setting,
    /// Its value, as its flag would take it; `None` where it has none. A mask for a secret.
    pub value: Option<String>,
    /// Where the value came from.
    pub origin: Origin,
    /// What it is called there: its flag, or the variable that holds it.
    pub found_as: String,
}

/// Every setting of the configuration, in the order of `--help`.
pub(super) fn list(
    matches: &ArgMatches,
    origins: &HashMap<String, Origin>,
    places: &Places,
    config: &Config,
) -> Vec<Effective> {
    let settings = settings::settings().into_iter();
    // A secret is one row, whichever of its variables holds it.
    let rows = settings.filter(|setting| setting.key.is_some() || setting.flag.is_some());
    rows.map(|setting| effective(setting, matches, origins, places, config)).collect()
}

fn effective(
    setting: Setting,
    matches: &ArgMatches,
    origins: &HashMap<String, Origin>,
    places: &Places,
    config: &Config,
) -> Effective {
    let key = setting.key.as_deref().unwrap_or_default();
    let mut found_as = setting.variable.clone();
    let (value, origin) = if let Some(secret) = SECRET_KEYS.iter().position(|secret| *secret == key) {
        match &config.secrets.found[secret] {
            Some((variable, origin)) => {
                found_as = (*variable).to_owned();
                (Some(MASK.to_owned()), origin.clone())
            }
            // The built-in one serves in place of the first.
            None => ((secret == 0).then(|| MASK.to_owned()), Origin::Default),
        }
    } else if key == SECRETS_PATH_KEY {
        let (path, origin) = places.secrets_path();
        (Some(path), origin)
    } else if setting.key.is_some() {
        // A setting's key is its argument's id.
        let raw = matches.get_raw(key).and_then(|mut values| values.next());
        let value = raw.map(|raw| raw.to_string_lossy().into_owned()).filter(|value| !value.is_empty());
        let is_flag = matches.value_source(key) == Some(ValueSource::CommandLine);
        let origin = origins.get(key).cloned().unwrap_or(if is_flag { Origin::Flag } else { Origin::Default });
        let default = || (setting.unit == "FILTER").then(|| config.log_level().to_owned());
        (value.or_else(default), origin)
    } else {
        let (file, origin) = places.file();
        (file.map(|file| file.path().display().to_string()), origin.clone())
    };
    if origin == Origin::Flag {
        found_as = setting
            .flag
            .iter()
            .flat_map(|flag| flag.split(' '))
            .find(|word| word.starts_with("--"))
            .unwrap_or_default()
            .to_owned();
    }
    Effective { setting, value, origin, found_as }
}

impl Effective {
    /// The value as the configuration file has it; `None` where there is none.
    fn toml(&self) -> Option<String> {
        self.value.as_deref().map(|value| self.setting.form.toml(value))
    }

    /// Where the value came from, in words.
    pub fn origin(&self) -> String {
        match &self.origin {
            Origin::Flag | Origin::Variable => self.found_as.clone(),
            Origin::File(path) => path.display().to_string(),
            Origin::Config(Position { path, line, .. }) => format!("{}:{line}", path.display()),
            Origin::Default => "default".to_owned(),
        }
    }

    fn unit(&self) -> &'static str {
        match self.setting.unit.as_str() {
            "BYTES" => "bytes",
            "MS" => "ms",
            _ => "",
        }
    }

    fn json(&self) -> serde_json::Value {
        let (origin, line) = match &self.origin {
            Origin::Flag => ("flag", None),
            Origin::Variable => ("variable", None),
            Origin::File(_) => ("secret_file", None),
            Origin::Config(position) => ("config_file", Some(position.line)),
            Origin::Default => ("default", None),
        };
        let number = (self.setting.form == Form::Number).then(|| self.value.as_deref()?.parse::<u64>().ok()).flatten();
        json!({
            "setting": self.name(),
            "value": number.map_or_else(|| json!(self.value), |number| json!(number)),
            "unit": Some(self.unit()).filter(|unit| !unit.is_empty()),
            "origin": origin,
            "from": self.origin(),
            "line": line,
        })
    }

    /// The key, or for the file itself the flag's name.
    pub fn name(&self) -> &str {
        self.setting.key.as_deref().unwrap_or("config")
    }
}

/// The settings as a configuration file that would bring the same about, each with its unit and where it came from.
pub fn text(settings: &[Effective]) -> String {
    let lines: Vec<(String, String)> = settings.iter().map(line).collect();
    const WIDTH_MAX: usize = 48;
    let width = lines.iter().map(|(line, _)| line.chars().count()).filter(|width| *width <= WIDTH_MAX).max();
    let mut text = String::new();
    for (line, origin) in lines {
        // A String takes every write.
        let _ = writeln!(text, "{line:width$}  # {origin}", width = width.unwrap_or_default());
    }
    text
}

fn line(setting: &Effective) -> (String, String) {
    let line = match (setting.toml(), &setting.setting.key) {
        // A file that names another, or a mask, would not be read.
        (Some(value), Some(key)) if !SECRET_KEYS.contains(&key.as_str()) => format!("{key} = {value}"),
        (Some(value), _) => format!("# {} = {value}", setting.name()),
        (None, _) => format!("# {} is not set", setting.name()),
    };
    let parts = [setting.unit().to_owned(), setting.origin()];
    (line, parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", "))
}

/// The same as one JSON document.
pub fn document(settings: &[Effective]) -> String {
    let settings: Vec<_> = settings.iter().map(Effective::json).collect();
    format!("{:#}\n", json!({ "settings": settings }))
}
