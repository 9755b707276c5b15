//! The environment as a plain value: variables, and the files that may stand in for them.
//!
//! **Invariants.** Nothing here writes to the process's environment; a variable goes before the file of its name.
//! **Not here.** Which settings there are (`arguments`, `limit_arguments`), what a value means.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::origin::Origin;

/// The variable that names the folder of setting and secret files.
pub const SECRETS_PATH_VARIABLE: &str = "SECRETS_PATH";

/// Where container platforms mount secrets.
pub const SECRETS_PATH_DEFAULT: &str = "/run/secrets";

/// No setting is longer; a bound for a file that turns out to be a device or a mistake.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Variables and the folder of setting files. Holds secrets, so it has no `Debug` form.
#[derive(Clone)]
pub struct Environment {
    variables: HashMap<String, OsString>,
    secrets_path: PathBuf,
}

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Environment {
        Environment::new(std::env::vars_os())
    }

    /// An environment of these variables; the folder of setting files is their `SECRETS_PATH`, or its default.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Environment {
        let variables: HashMap<String, OsString> =
            variables.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect();
        let mut environment = Environment { variables, secrets_path: PathBuf::from(SECRETS_PATH_DEFAULT) };
        if let Some(path) = environment.secrets_path_variable() {
            environment.secrets_path = PathBuf::from(path);
        }
        environment
    }

    /// A variable, whatever it holds.
    pub(super) fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(name).map(OsString::as_os_str)
    }

    /// `SECRETS_PATH`, where it is set.
    pub(super) fn secrets_path_variable(&self) -> Option<&OsStr> {
        self.variable(SECRETS_PATH_VARIABLE).filter(|path| !path.is_empty())
    }

    /// Takes another folder of setting files.
    pub(super) fn look_under(&mut self, secrets_path: PathBuf) {
        self.secrets_path = secrets_path;
    }

    /// The value of a variable, else the content of the file of its name less trailing newlines. `None` where neither
    /// is there.
    pub fn find(&self, variable: &str) -> Result<Option<(String, Origin)>, ConfigError> {
        match self.in_variable(variable)? {
            None => self.in_file(variable),
            found => Ok(found),
        }
    }

    /// Like `find`, but an empty value counts as not set, so that an empty variable hides no file: deployment files often
    /// pass on variables that nobody filled in.
    pub(super) fn find_setting(&self, variable: &str) -> Result<Option<(String, Origin)>, ConfigError> {
        let is_set = |(text, _): &(String, Origin)| !text.trim().is_empty();
        match self.in_variable(variable)?.filter(is_set) {
            None => Ok(self.in_file(variable)?.filter(is_set)),
            found => Ok(found),
        }
    }

    fn in_variable(&self, variable: &str) -> Result<Option<(String, Origin)>, ConfigError> {
        let Some(value) = self.variables.get(variable) else { return Ok(None) };
        let text = value.to_str().ok_or_else(|| ConfigError::NotText { variable: variable.to_owned() })?;
        Ok(Some((text.to_owned(), Origin::Variable)))
    }

    fn in_file(&self, variable: &str) -> Result<Option<(String, Origin)>, ConfigError> {
        let path = self.secrets_path.join(variable);
        match read_bounded(&path, FILE_BYTES_MAX) {
            Ok((text, _)) => {
                let text = text.trim_end_matches(['\r', '\n']).to_owned();
                Ok(Some((text, Origin::File(path))))
            }
            Err(error) if is_absent(&error) => Ok(None),
            // What is in a folder that may not be entered cannot even be told from what is not.
            Err(_)
                if fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) =>
            {
                Err(ConfigError::Folder { path: self.secrets_path.clone() })
            }
            Err(error) => Err(ConfigError::File { variable: variable.to_owned(), path, error }),
        }
    }
}

/// The text of a file of `bytes_max` at most, and what the system says of the file.
pub(super) fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<(String, Metadata)> {
    let mut text = String::new();
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if file.take(bytes_max + 1).read_to_string(&mut text)? as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {bytes_max} bytes")));
    }
    Ok((text, metadata))
}

/// Whether an error says that there is no such file.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A folder of files that lives as long as the test.
    pub(crate) struct Directory(pub(crate) PathBuf);

    impl Directory {
        pub(crate) fn with(files: &[(&str, &str)]) -> Directory {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let name = format!("dispatch-config-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).unwrap();
            for (name, content) in files {
                let file = path.join(name);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, content).unwrap();
            }
            Directory(path)
        }

        pub(crate) fn environment(&self, variables: &[(&str, &str)]) -> Environment {
            let folder = || self.0.clone().into_os_string();
            let folders = [(SECRETS_PATH_VARIABLE.into(), folder()), ("CONFIGURATION_DIRECTORY".into(), folder())];
            let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
            Environment::new(variables.chain(folders))
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_variable_goes_before_its_file_and_an_absent_one_is_none() {
        let directory = Directory::with(&[("A", "file\r\n"), ("B", "file\n")]);
        let environment = directory.environment(&[("A", "variable")]);
        assert_eq!(environment.find("A").unwrap().unwrap(), ("variable".to_owned(), Origin::Variable));
        let (text, origin) = environment.find("B").unwrap().unwrap();
        assert_eq!((text.as_str(), origin), ("file", Origin::File(directory.0.join("B"))));
        assert!(environment.find("C").unwrap().is_none());
    }

    #[test]
    fn a_setting_that_is_empty_counts_as_not_set() {
        let directory = Directory::with(&[("B", "\n"), ("C", "file\n")]);
        let environment = directory.environment(&[("A", ""), ("C", " ")]);
        assert!(environment.find_setting("A").unwrap().is_none());
        assert!(environment.find_setting("B").unwrap().is_none());
        assert!(environment.find("A").unwrap().is_some());
        let (text, origin) = environment.find_setting("C").unwrap().unwrap();
        assert_eq!((text.as_str(), origin), ("file", Origin::File(directory.0.join("C"))));
        assert_eq!(environment.find("C").unwrap().unwrap().1, Origin::Variable);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error_that_names_the_variable() {
        let directory = Directory::with(&[("FOLDER/inside", ""), ("LONG", &"x".repeat(70_000))]);
        for variable in ["FOLDER", "LONG"] {
            let error = directory.environment(&[]).find(variable).unwrap_err();
            assert!(error.to_string().contains(variable), "{error}");
        }
    }

    #[test]
    fn the_folder_of_files_has_a_default() {
        assert_eq!(Environment::new([]).secrets_path, PathBuf::from("/run/secrets"));
        let empty = Environment::new([("SECRETS_PATH".into(), "".into())]);
        assert_eq!(empty.secrets_path, PathBuf::from("/run/secrets"));
    }
}
