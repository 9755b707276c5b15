//! Where settings are looked for when no flag has them, in the one order that there is.
//!
//! **Invariants.** A variable goes before its file under `SECRETS_PATH`, that before the configuration file.
//! **Not here.** Flags, which go before all of these (`parse`), and what a value means (`arguments`).

use std::path::{Path, PathBuf};

use super::environment::{Environment, SECRETS_PATH_DEFAULT};
use super::error::ConfigError;
use super::file::{CONFIG_VARIABLE, ConfigFile, Entry};
use super::origin::Origin;
use super::settings::SECRETS_PATH_KEY;

/// The environment, and the configuration file where there is one. Holds secrets, so it has no `Debug` form.
pub(super) struct Places {
    environment: Environment,
    file: Option<ConfigFile>,
    file_origin: Origin,
}

impl Places {
    /// Reads the configuration file that a flag names, else the one that the environment names, else the first of the
    /// search path.
    pub(super) fn open(flag: Option<&Path>, environment: &Environment) -> Result<Places, ConfigError> {
        let (named, file_origin) = match (flag, environment.find_setting(CONFIG_VARIABLE)?) {
            (Some(path), _) => (Some(path.to_owned()), Origin::Flag),
            (None, Some((path, origin))) => (Some(PathBuf::from(path.trim())), origin),
            (None, None) => (None, Origin::Default),
        };
        let file = ConfigFile::find(named.as_deref(), environment)?;
        let mut environment = environment.clone();
        if let Some((path, _)) = file.as_ref().and_then(|file| file.value(SECRETS_PATH_KEY))
            && environment.secrets_path_variable().is_none()
        {
            environment.look_under(PathBuf::from(path));
        }
        Ok(Places { environment, file, file_origin })
    }

    /// The value of a setting and where it was found. A variable that is empty counts as not set.
    pub(super) fn find(&self, variable: &str, key: &str) -> Result<Option<(String, Origin)>, ConfigError> {
        if let Some((text, origin)) = self.environment.find_setting(variable)? {
            return Ok(Some((text.trim().to_owned(), origin)));
        }
        Ok(self.file.as_ref().and_then(|file| file.value(key)))
    }

    /// The same for a secret, whose text is taken as it stands: one that is empty is found.
    pub(super) fn find_secret(
        &self,
        variables: [&'static str; 2],
        key: &'static str,
    ) -> Result<Option<(String, Origin, &'static str)>, ConfigError> {
        for variable in variables {
            if let Some((text, origin)) = self.environment.find(variable)? {
                return Ok(Some((text, origin, variable)));
            }
        }
        Ok(self.file.as_ref().and_then(|file| file.value(key)).map(|(text, origin)| (text, origin, key)))
    }

    /// What the configuration file says of a setting.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.file.as_ref()?.entry(key)
    }

    /// The configuration file that was read, and what has named it.
    pub(super) fn file(&self) -> (Option<&ConfigFile>, &Origin) {
        (self.file.as_ref(), &self.file_origin)
    }

    /// The folder of files that stand in for variables, and where it was found.
    pub(super) fn secrets_path(&self) -> (String, Origin) {
        if let Some(path) = self.environment.secrets_path_variable() {
            return (path.to_string_lossy().into_owned(), Origin::Variable);
        }
        let in_file = self.file.as_ref().and_then(|file| file.value(SECRETS_PATH_KEY));
        in_file.unwrap_or_else(|| (SECRETS_PATH_DEFAULT.to_owned(), Origin::Default))
    }
}
