//! The secret that drivers must show and the one that is to follow it: where they come from, and a type that never
//! prints them.
//!
//! **Invariants.** A `Secret` shows its text through `expose` only; no error here carries one; it is never empty.
//! **Not here.** Comparing a driver's token with it (`policy::token`).

use std::fmt;

use super::environment::Environment;
use super::error::ConfigError;
use super::origin::Origin;
use super::places::Places;
use super::settings::SECRET_KEYS;

/// The variables that may hold the secret; the first that is set counts.
pub const SECRET_VARIABLES: [&str; 2] = ["PLACE_SERVER_SECRET", "SERVER_SECRET"];

/// The variables that may hold the secret that is to follow; the first that is set counts.
pub const NEXT_SECRET_VARIABLES: [&str; 2] = ["PLACE_SERVER_SECRET_NEXT", "SERVER_SECRET_NEXT"];

/// What serves where no secret is set. Anyone can read it here, so it is refused in production.
pub(super) const BUILT_IN: &str = "testing";

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

/// The first secret that is set: each variable in the environment before its file, both before the configuration file.
/// The built-in one where none is set. The configuration file is that of the environment or of the search path, and is
/// read only where the secret is not found before it.
///
/// Blanks around it are trimmed, as they are around a driver's token.
pub fn find_secret(environment: &Environment) -> Result<(Secret, SecretStrength), ConfigError> {
    let mut found = None;
    for variable in SECRET_VARIABLES {
        if found.is_none() {
            found = environment.find(variable)?.map(|(text, origin)| (text, origin, variable));
        }
    }
    let found = match found {
        Some(found) => Some(found),
        None => Places::open(None, environment)?.find_secret(SECRET_VARIABLES, SECRET_KEYS[0])?,
    };
    Ok(match found.map(checked).transpose()? {
        Some(found) => (found.secret, found.strength),
        None => (Secret(BUILT_IN.to_owned()), SecretStrength::BuiltIn),
    })
}

/// What the daemon lets in.
#[derive(Debug, Clone)]
pub struct DaemonSecrets {
    /// The secret.
    pub secret: Secret,
    /// Another that is let in as well, so that drivers can change from one to the other while the daemon runs.
    pub next: Option<Secret>,
    /// How far the weaker of them can be trusted.
    pub strength: SecretStrength,
    /// What each is called where it was found, and where that is; `None` where none was.
    pub(super) found: [Option<(&'static str, Origin)>; 2],
}

/// The daemon's own rules on top of `find_secret`: production does not start on the built-in secret, and a secret that
/// is to follow differs from it.
pub(super) fn find_daemon_secrets(places: &Places, production: bool) -> Result<DaemonSecrets, ConfigError> {
    let [key, key_next] = SECRET_KEYS;
    let first = places.find_secret(SECRET_VARIABLES, key)?.map(checked).transpose()?;
    let next = places.find_secret(NEXT_SECRET_VARIABLES, key_next)?.map(checked).transpose()?;
    let (secret, strength) = match &first {
        Some(found) => (found.secret.clone(), found.strength),
        None if production => return Err(ConfigError::SecretMissing),
        None => (Secret(BUILT_IN.to_owned()), SecretStrength::BuiltIn),
    };
    if let Some(next) = &next
        && next.secret == secret
    {
        return Err(ConfigError::SecretsEqual { variable: next.name.to_owned(), origin: next.origin.clone() });
    }
    let strength = match &next {
        Some(next) if strength == SecretStrength::Own => next.strength,
        _ => strength,
    };
    let found = [&first, &next].map(|found| found.as_ref().map(|found| (found.name, found.origin.clone())));
    Ok(DaemonSecrets { secret, next: next.map(|next| next.secret), strength, found })
}

/// A secret that was set.
struct Found {
    secret: Secret,
    strength: SecretStrength,
    /// Its variable, or its key.
    name: &'static str,
    origin: Origin,
}

fn checked((text, origin, name): (String, Origin, &'static str)) -> Result<Found, ConfigError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(ConfigError::EmptySecret { variable: name.to_owned(), origin });
    }
    let strength = if text == BUILT_IN { SecretStrength::WellKnown } else { SecretStrength::Own };
    Ok(Found { secret: Secret(text.to_owned()), strength, name, origin })
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

    /// What the daemon lets in, in production.
    fn of_daemon(directory: &Directory, variables: &[(&str, &str)]) -> Result<DaemonSecrets, ConfigError> {
        find_daemon_secrets(&Places::open(None, &directory.environment(variables))?, true)
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
    fn the_configuration_file_is_looked_at_last_and_only_where_it_is_needed() {
        let file = ("dispatch.toml", "server_secret = 'c'\n");
        assert_eq!(found(&[], &[file]).unwrap().0.expose(), "c");
        assert_eq!(found(&[], &[file, ("SERVER_SECRET", "b")]).unwrap().0.expose(), "b");
        let broken = ("dispatch.toml", "server_secret = \n");
        assert!(matches!(found(&[], &[broken]), Err(ConfigError::Syntax { .. })));
        assert_eq!(found(&[("SERVER_SECRET", "a")], &[broken]).unwrap().0.expose(), "a");
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
        assert!(matches!(of_daemon(&directory, &[]), Err(ConfigError::SecretMissing)));
        let on_purpose = of_daemon(&directory, &[("SERVER_SECRET", "testing")]);
        assert_eq!(on_purpose.unwrap().strength, SecretStrength::WellKnown);
    }

    fn next(variables: &[(&str, &str)], files: &[(&str, &str)]) -> Result<Option<String>, ConfigError> {
        let directory = Directory::with(files);
        let secrets = of_daemon(&directory, variables)?;
        Ok(secrets.next.map(|next| next.expose().to_owned()))
    }

    #[test]
    fn a_next_secret_is_found_as_the_secret_is() {
        let own = ("SERVER_SECRET", "own");
        let both = [own, ("PLACE_SERVER_SECRET_NEXT", "a"), ("SERVER_SECRET_NEXT", "b")];
        assert_eq!(next(&[own], &[]).unwrap(), None);
        assert_eq!(next(&both, &[]).unwrap().as_deref(), Some("a"));
        assert_eq!(next(&[own, both[2]], &both).unwrap().as_deref(), Some("a"));
        assert_eq!(next(&[own, both[2]], &[("SERVER_SECRET_NEXT", "file")]).unwrap().as_deref(), Some("b"));
        assert_eq!(next(&[own], &[("SERVER_SECRET_NEXT", "file\n")]).unwrap().as_deref(), Some("file"));
        assert!(matches!(next(&[both[1]], &[]), Err(ConfigError::SecretMissing)));
    }

    #[test]
    fn a_next_secret_that_is_empty_or_the_same_is_an_error_that_prints_no_secret() {
        let own = ("PLACE_SERVER_SECRET", "hunter2");
        for (variable, text, part) in [
            ("PLACE_SERVER_SECRET_NEXT", " ", "empty"),
            ("SERVER_SECRET_NEXT", "", "empty"),
            ("SERVER_SECRET_NEXT", " hunter2 ", "in use"),
        ] {
            let error = next(&[own, (variable, text)], &[]).unwrap_err().to_string();
            assert!(error.starts_with(variable) && error.contains(part) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn two_secrets_are_as_strong_as_the_weaker() {
        let strength = |secret, next| {
            let variables = [("SERVER_SECRET", secret), ("SERVER_SECRET_NEXT", next)];
            of_daemon(&Directory::with(&[]), &variables).unwrap().strength
        };
        assert_eq!(strength("a", "b"), SecretStrength::Own);
        assert_eq!(
            (strength("testing", "b"), strength("a", "testing")),
            (SecretStrength::WellKnown, SecretStrength::WellKnown)
        );
    }

    #[test]
    fn a_secret_is_masked_when_it_is_printed_for_debugging() {
        let (secret, _) = found(&[("SERVER_SECRET", "hunter2")], &[]).unwrap();
        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}
