//! The secret that drivers must show: where it comes from, and a type that never prints it.
//!
//! **Invariants.** A `Secret` shows its text through `expose` only; no error here carries one; it is never empty.
//! **Not here.** Comparing a driver's token with it (`policy::token`).

use std::fmt;

use super::environment::Environment;
use super::error::ConfigError;

/// The variables that may hold the secret; the first that is set counts.
pub const SECRET_VARIABLES: [&str; 2] = ["PLACE_SERVER_SECRET", "SERVER_SECRET"];

/// What serves where no secret is set. Anyone can read it here, so it is refused in production.
const BUILT_IN: &str = "testing";

/// The shared secret. Its `Debug` form is a mask, and it has no `Display` form.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the comparison and for the header of the terminal's driver.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(masked)")
    }
}

/// How far a secret can be trusted to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretStrength {
    /// None was set: the built-in one serves.
    BuiltIn,
    /// One was set, but to the text of the built-in one.
    WellKnown,
    /// One was set.
    Own,
}

/// The first secret that is set: each variable in the environment before its file. The built-in one where none is set.
///
/// Blanks around it are trimmed, as they are around a driver's token.
pub fn find_secret(environment: &Environment) -> Result<(Secret, SecretStrength), ConfigError> {
    for variable in SECRET_VARIABLES {
        let Some((text, origin)) = environment.find(variable)? else {
            continue;
        };
        let text = text.trim();
        return match text {
            "" => Err(ConfigError::EmptySecret { variable: variable.to_owned(), origin }),
            BUILT_IN => Ok((Secret(text.to_owned()), SecretStrength::WellKnown)),
            _ => Ok((Secret(text.to_owned()), SecretStrength::Own)),
        };
    }
    Ok((Secret(BUILT_IN.to_owned()), SecretStrength::BuiltIn))
}

/// The daemon's own rule on top of `find_secret`: production does not start on the built-in secret.
pub(super) fn find_daemon_secret(
    environment: &Environment,
    production: bool,
) -> Result<(Secret, SecretStrength), ConfigError> {
    match find_secret(environment)? {
        (_, SecretStrength::BuiltIn) if production => Err(ConfigError::SecretMissing),
        found => Ok(found),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::environment::tests::Directory;
    use super::*;

    fn found(variables: &[(&str, &str)], files: &[(&str, &str)]) -> Result<(Secret, SecretStrength), ConfigError> {
        let directory = Directory::with(files);
        find_secret(&directory.environment(variables))
    }

    #[test]
    fn the_first_secret_that_is_set_counts_and_the_environment_goes_before_the_file() {
        let both = [("PLACE_SERVER_SECRET", "a"), ("SERVER_SECRET", "b")];
        assert_eq!(found(&both, &[]).unwrap().0.expose(), "a");
        assert_eq!(found(&[], &both).unwrap().0.expose(), "a");
        assert_eq!(found(&both[1..], &both).unwrap().0.expose(), "a");
        assert_eq!(found(&both[1..], &[("SERVER_SECRET", "file")]).unwrap().0.expose(), "b");
        assert_eq!(found(&both[..1], &[("PLACE_SERVER_SECRET", "file")]).unwrap().0.expose(), "a");
    }

    #[test]
    fn a_file_may_end_in_a_newline() {
        let (secret, strength) = found(&[], &[("SERVER_SECRET", "hunter2\n")]).unwrap();
        assert_eq!((secret.expose(), strength), ("hunter2", SecretStrength::Own));
    }

    #[test]
    fn a_secret_that_is_set_but_empty_is_an_error_even_where_the_next_is_set() {
        for text in ["", "  ", "\n"] {
            let error = found(&[("PLACE_SERVER_SECRET", text), ("SERVER_SECRET", "b")], &[]).unwrap_err();
            assert!(error.to_string().contains("PLACE_SERVER_SECRET"), "{error}");
            let error = found(&[], &[("SERVER_SECRET", text)]).unwrap_err();
            assert!(error.to_string().contains("SERVER_SECRET"), "{error}");
        }
    }

    #[test]
    fn the_built_in_secret_serves_where_none_is_set_but_not_in_production() {
        let (secret, strength) = found(&[], &[]).unwrap();
        assert_eq!((secret.expose(), strength), ("testing", SecretStrength::BuiltIn));
        let directory = Directory::with(&[]);
        assert!(matches!(find_daemon_secret(&directory.environment(&[]), true), Err(ConfigError::SecretMissing)));
        let on_purpose = directory.environment(&[("SERVER_SECRET", "testing")]);
        assert_eq!(find_daemon_secret(&on_purpose, true).unwrap().1, SecretStrength::WellKnown);
    }

    #[test]
    fn a_secret_is_masked_when_it_is_printed_for_debugging() {
        let (secret, _) = found(&[("SERVER_SECRET", "hunter2")], &[]).unwrap();
        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}
