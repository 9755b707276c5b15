//! The configuration file: found, read whole, and each value turned into the text that its flag would take.
//!
//! **Invariants.** A file that was read has no key but those of settings; every complaint says line and column, and none
//! shows a value.
//! **Not here.** What a value means (`arguments`), what goes before the file (`places`).

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::environment::{Environment, is_absent, read_bounded};
use super::error::ConfigError;
use super::origin::{Origin, Position};
use super::settings::{self, Form, Setting};

/// The variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "DISPATCH_CONFIG";
/// The variable in which systemd names folders of configuration; the file is looked for there where nobody has named it.
const DIRECTORY_VARIABLE: &str = "CONFIGURATION_DIRECTORY";
/// Where it is looked for where systemd names no folder.
pub(super) const CONFIG_PATH_DEFAULT: &str = "/etc/dispatch/dispatch.toml";
const NAME: &str = "dispatch.toml";
/// A bound for a file that turns out to be a device or a mistake; lists of sources may be long.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What some editors begin a file with.
const BYTE_ORDER_MARK: char = '\u{feff}';
/// Permission of anyone to read a file.
const MODE_READ_BY_OTHERS: u32 = 0o004;

/// A configuration file that was read. Holds secrets, so it has no `Debug` form.
pub struct ConfigFile {
    path: PathBuf,
    entries: HashMap<String, Entry>,
    readers: Readers,
}

/// One setting of the file. May be a secret, so it has no `Debug` form.
pub struct Entry {
    /// Its value as its flag would take it; a list is joined by commas.
    pub text: String,
    /// Where the value stands.
    pub position: Position,
    /// The elements of a list, with where each stands.
    pub elements: Vec<(String, Position)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readers {
    Anyone,
    Few,
}

impl ConfigFile {
    /// Reads the file that is named, else the first of the search path; `None` where none is named and none is there.
    pub(super) fn find(named: Option<&Path>, environment: &Environment) -> Result<Option<ConfigFile>, ConfigError> {
        if let Some(path) = named {
            return read(path).map(Some);
        }
        for path in search_path(environment) {
            match read(&path) {
                Err(ConfigError::File { error, .. }) if is_absent(&error) => {}
                found => return found.map(Some),
            }
        }
        Ok(None)
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What it says of a setting.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The value of a setting, and where it stands.
    pub(super) fn value(&self, key: &str) -> Option<(String, Origin)> {
        self.entry(key).map(|entry| (entry.text.clone(), Origin::Config(entry.position.clone())))
    }

    /// Whether anyone on the machine may read a secret in it.
    pub(super) fn shows_a_secret(&self) -> bool {
        self.readers == Readers::Anyone && settings::SECRET_KEYS.iter().any(|key| self.entries.contains_key(*key))
    }
}

/// Where the file is looked for that nobody has named.
fn search_path(environment: &Environment) -> Vec<PathBuf> {
    let folders = environment.variable(DIRECTORY_VARIABLE).filter(|folders| !folders.is_empty());
    let Some(folders) = folders else { return vec![PathBuf::from(CONFIG_PATH_DEFAULT)] };
    std::env::split_paths(folders).map(|folder| folder.join(NAME)).collect()
}

fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
    let unreadable = |error: io::Error| {
        let variable = format!("--config ({CONFIG_VARIABLE})");
        ConfigError::File { variable, path: path.to_owned(), error }
    };
    let (text, metadata) = read_bounded(path, FILE_BYTES_MAX).map_err(unreadable)?;
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text);
    let is_public = metadata.permissions().mode() & MODE_READ_BY_OTHERS != 0;
    let readers = if is_public { Readers::Anyone } else { Readers::Few };
    Ok(ConfigFile { path: path.to_owned(), entries: parse(path, text)?, readers })
}

/// Reads the text of the file at `path`, and gives what it says of each setting, by its key.
///
/// # Errors
/// The first place where it is no TOML, or says what no setting takes.
pub fn parse(path: &Path, text: &str) -> Result<HashMap<String, Entry>, ConfigError> {
    let position = |offset| Position::of(path.to_owned(), text, offset);
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        position: position(error.span().map_or(0, |span| span.start)),
        reason: error.message().replace('\n', " "),
    })?;
    let mut pairs: Vec<_> = table.into_inner().into_iter().collect();
    pairs.sort_by_key(|(key, _)| key.span().start);
    let known = settings::settings();
    let mut entries = HashMap::new();
    for (key, value) in pairs {
        let at = position(key.span().start);
        let key = key.into_inner().into_owned();
        if matches!(value.get_ref(), DeValue::Table(_)) {
            return Err(ConfigError::Section { position: at, key });
        }
        let Some(setting) = known.iter().find(|setting| setting.key.as_deref() == Some(&key)) else {
            return Err(ConfigError::UnknownKey { position: at, nearest: nearest(&known, &key).to_owned(), key });
        };
        entries.insert(key, entry(setting, &value, position)?);
    }
    Ok(entries)
}

fn entry(
    setting: &Setting,
    value: &Spanned<DeValue<'_>>,
    position: impl Fn(usize) -> Position,
) -> Result<Entry, ConfigError> {
    let refused = |value: &Spanned<DeValue<'_>>| ConfigError::Form {
        position: position(value.span().start),
        key: setting.key.clone().unwrap_or_default(),
        form: form_of(value.get_ref()),
        wanted: setting.form.wanted(),
    };
    let at = position(value.span().start);
    match (value.get_ref(), setting.form) {
        (DeValue::Array(elements), Form::List) => {
            let elements = texts(elements, &position, refused)?;
            let text = elements.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>().join(",");
            Ok(Entry { text, position: at, elements })
        }
        (DeValue::Boolean(is_on), Form::Switch) => {
            Ok(Entry { text: if *is_on { "on" } else { "off" }.to_owned(), position: at, elements: Vec::new() })
        }
        (value_alone, _) => {
            let text = text_of(value_alone).ok_or_else(|| refused(value))?;
            Ok(Entry { text, position: at, elements: Vec::new() })
        }
    }
}

fn texts(
    elements: &DeArray<'_>,
    position: impl Fn(usize) -> Position,
    refused: impl Fn(&Spanned<DeValue<'_>>) -> ConfigError,
) -> Result<Vec<(String, Position)>, ConfigError> {
    let text = |element: &Spanned<DeValue<'_>>| {
        let text = text_of(element.get_ref()).ok_or_else(|| refused(element))?;
        Ok((text, position(element.span().start)))
    };
    elements.iter().map(text).collect()
}

/// A string as it is, and a whole number in decimal digits.
fn text_of(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n.to_string()),
        _ => None,
    }
}

fn form_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number as large as this",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The key that a mistyped one is most like. One that is the name of a flag or a variable is that setting's.
fn nearest<'a>(known: &'a [Setting], key: &str) -> &'a str {
    let plain = key.trim_start_matches('-').replace('-', "_").to_lowercase();
    let is_named = |setting: &&Setting| setting.key.as_deref() == Some(&plain) || setting.variable == key;
    let named = known.iter().find(|setting| setting.key.is_some() && is_named(setting));
    let likeness = |setting: &&Setting| setting.key.as_deref().map_or(0.0, |known| strsim::jaro_winkler(known, &plain));
    let like = || known.iter().max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    named.or_else(like).and_then(|setting| setting.key.as_deref()).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<HashMap<String, Entry>, String> {
        parse(Path::new("d.toml"), text).map_err(|error| error.to_string())
    }

    fn refused(text: &str) -> String {
        let line = parsed(text).err().unwrap_or_else(|| panic!("{text} is taken"));
        assert!(!line.contains('\n'), "{line}");
        line
    }

    #[test]
    fn a_value_is_the_text_that_its_flag_takes() {
        let entries = parsed(
            "port = 8_080\nhost = '0.0.0.0'\nworkers = 0x2\npin = false\nmetrics_open = \"on\"\n\
             allow_ports = [\"2000-2999\", 161]\nallow_sources = \"10.0.0.0/8, ::1\"\n",
        );
        let entries = entries.unwrap();
        let text = |key: &str| entries[key].text.as_str();
        assert_eq!((text("port"), text("host"), text("workers")), ("8080", "0.0.0.0", "2"));
        assert_eq!((text("pin"), text("metrics_open")), ("off", "on"));
        assert_eq!((text("allow_ports"), text("allow_sources")), ("2000-2999,161", "10.0.0.0/8, ::1"));
        let (element, position) = &entries["allow_ports"].elements[1];
        assert_eq!((element.as_str(), position.line, position.column), ("161", 6, 29));
    }

    #[test]
    fn an_unknown_key_names_its_place_and_the_nearest() {
        for (key, nearest) in [
            ("stal_ms_max", "stall_ms_max"),
            ("stall-ms-max", "stall_ms_max"),
            ("device_per_port_max", "devices_per_port_max"),
            ("allowed_ports", "allow_ports"),
            ("DISPATCH_PORTS_MAX", "ports_max"),
            ("SG_SERVER_PORT", "port"),
            ("Log_Level", "log_level"),
            ("place_server_secret", "server_secret"),
            ("server_secret_nxt", "server_secret_next"),
        ] {
            let line = refused(&format!("# head\nport = 1\n  {key} = 1\n"));
            let expected = format!("d.toml, line 3, column 3: there is no setting {key:?}; the nearest is {nearest}");
            assert_eq!(line, expected);
        }
        assert!(refused("config = 'x'").contains("there is no setting"));
    }

    #[test]
    fn what_is_no_toml_names_its_place() {
        for (text, place) in [
            ("port = 1\nhost = 0.0.0.0\n", "line 2, column"),
            ("port = 1\nport = 2\n", "line 2, column 1"),
            ("host = \"a\nport = 2\n", "line 1, column"),
            ("nothing\n", "line 1, column"),
        ] {
            assert!(refused(text).starts_with(&format!("d.toml, {place}")), "{}", refused(text));
        }
    }

    #[test]
    fn a_value_of_another_form_is_refused_and_not_shown() {
        for text in [
            "server_secret = [\"hunter2\"]",
            "server_secret = 1.5",
            "port = true",
            "port = [3000]",
            "pin = 1979-05-27",
            "allow_ports = [[1]]",
            "port = 99999999999999999999",
        ] {
            let line = refused(text);
            assert!(line.starts_with("d.toml, line 1, column ") && line.contains("cannot be"), "{line}");
            assert!(!line.contains("hunter2"), "{line}");
        }
        for text in ["[drivers]\nstall_ms_max = 1\n", "drivers.stall_ms_max = 1\n", "[stall_ms_max]\n", "port = {}\n"] {
            assert!(refused(text).contains("begins a section"), "{}", refused(text));
        }
    }

    #[test]
    fn the_search_path_is_that_of_systemd_or_its_default() {
        let of = |folders: &str| search_path(&Environment::new([(DIRECTORY_VARIABLE.into(), folders.into())]));
        let default = ["/etc/dispatch/dispatch.toml"].map(PathBuf::from);
        assert_eq!((search_path(&Environment::new([])).as_slice(), of("").as_slice()), (&default[..], &default[..]));
        assert_eq!(of("/a:/b"), [PathBuf::from("/a/dispatch.toml"), PathBuf::from("/b/dispatch.toml")]);
    }
}
