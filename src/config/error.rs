//! What can be wrong with the settings, each said in one line that names the setting.
//!
//! **Invariants.** No message has a newline, and none carries a secret.
//! **Not here.** The exit code (`main`).

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::origin::{Origin, Position};

/// Why the daemon does not start as it was asked to.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The command line itself: an unknown argument, a missing value, two actions at once.
    #[error("{0} (see dispatch --help)")]
    Arguments(String),

    /// A value that its setting does not take, on the command line.
    #[error("{setting}: {value:?} is not accepted: {reason}")]
    Flag {
        /// The flag and its variable.
        setting: String,
        /// What was given.
        value: String,
        /// What would have been taken.
        reason: String,
    },

    /// A value that its setting does not take, from a variable or a file.
    #[error("{setting}: {value:?} from {origin} is not accepted: {reason}")]
    Variable {
        /// The flag and its variable.
        setting: String,
        /// What was given.
        value: String,
        /// Where it was found.
        origin: Origin,
        /// What would have been taken.
        reason: String,
    },

    /// A configuration file that is no TOML.
    #[error("{position}: {reason}")]
    Syntax {
        /// Where it ceases to be.
        position: Position,
        /// What is wrong there.
        reason: String,
    },

    /// A key of the configuration file that is no setting's.
    #[error("{position}: there is no setting {key:?}; the nearest is {nearest}")]
    UnknownKey {
        /// Where it stands.
        position: Position,
        /// The key.
        key: String,
        /// The key that it is most like.
        nearest: String,
    },

    /// A table in the configuration file.
    #[error("{position}: {key:?} begins a section, and there are none: settings stand one below the other")]
    Section {
        /// Where it stands.
        position: Position,
        /// Its name.
        key: String,
    },

    /// A value of the configuration file that no text stands for.
    #[error("{position}: {key} cannot be {form}; write {wanted}")]
    Form {
        /// Where the value stands.
        position: Position,
        /// The setting's key.
        key: String,
        /// What was given.
        form: &'static str,
        /// What would be taken.
        wanted: &'static str,
    },

    /// Two settings that contradict each other.
    #[error("{setting}: {reason}")]
    Contradiction {
        /// The flag and its variable.
        setting: String,
        /// What would have to hold.
        reason: String,
    },

    /// A file of TLS that is not there, or not good.
    #[error("{setting}: {path:?}: {reason}")]
    TlsFile {
        /// The flag and its variable.
        setting: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A setting's file that is there but cannot be read.
    #[error("{variable}: {path:?} cannot be read: {error}")]
    File {
        /// The variable that the file stands in for.
        variable: String,
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },

    /// A folder of settings' files that this process may not look into.
    #[error("SECRETS_PATH: the folder {path:?} may not be entered by the daemon's user")]
    Folder {
        /// The folder.
        path: PathBuf,
    },

    /// A variable that is not UTF-8.
    #[error("{variable}: its value is not UTF-8")]
    NotText {
        /// The variable.
        variable: String,
    },

    /// A secret that is set but empty: more likely a mistake than a wish.
    #[error("{variable}: the secret from {origin} is empty; set it to a value, or remove it")]
    EmptySecret {
        /// The variable.
        variable: String,
        /// Where it was found.
        origin: Origin,
    },

    /// A next secret that is the secret: a rotation that would change nothing.
    #[error("{variable}: the next secret from {origin} is the one that is in use; set it to another, or remove it")]
    SecretsEqual {
        /// The variable.
        variable: String,
        /// Where it was found.
        origin: Origin,
    },

    /// Production on the built-in secret.
    #[error(
        "PLACE_SERVER_SECRET: no secret is set, and SG_ENV=production does not start on the built-in one; \
         set PLACE_SERVER_SECRET or SERVER_SECRET, as a variable or as a file under SECRETS_PATH"
    )]
    SecretMissing,
}
