//! From the command line and everything beside it to one configuration, as often as it is asked for.
//!
//! **Invariants.** The command line and the environment are those of the start; files are read each time. A load that
//! fails changes nothing.
//! **Not here.** What a load is for (`server`), what an action needs (`config`).

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;

use clap::{ArgMatches, FromArgMatches};

use super::arguments::Arguments;
use super::effective::{self, Effective};
use super::environment::Environment;
use super::error::ConfigError;
use super::parse::{from_places, refusal, without_environment};
use super::places::Places;
use super::{Config, check};

/// What the settings are made of: the arguments and the environment of the process.
pub struct Loader {
    given: Vec<OsString>,
    environment: Environment,
}

/// What a load has found.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Each setting, with where it came from.
    pub settings: Vec<Effective>,
    /// What an operator should be told about them.
    pub warnings: Vec<String>,
}

impl Loader {
    /// A loader of these arguments, the program's own name first.
    pub(super) fn new(given: Vec<OsString>, environment: &Environment) -> Loader {
        Loader { given, environment: environment.clone() }
    }

    /// Reads the files, and checks everything. Resolves the host's name, which may wait.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let none = HashMap::new();
        let command = without_environment();
        let matches = command.clone().try_get_matches_from(&self.given).map_err(|error| refusal(&error, &none))?;
        let arguments = Arguments::from_arg_matches(&matches).map_err(|error| refusal(&error, &none))?;
        let places = Places::open(arguments.settings().file.config.as_deref(), &self.environment)?;
        let (additions, origins) = from_places(of_settings(&matches).0, &places)?;
        let mut all = self.given.clone();
        let at = of_settings(&matches).1;
        all.splice(at..at, additions);
        let matches = command.try_get_matches_from(&all).map_err(|error| refusal(&error, &origins))?;
        let arguments = Arguments::from_arg_matches(&matches).map_err(|error| refusal(&error, &origins))?;
        let config = check(arguments.settings(), &places)?;
        let settings = effective::list(of_settings(&matches).0, &origins, &places, &config);
        let mut warnings: Vec<String> = config.warning().map(str::to_owned).into_iter().collect();
        if let (Some(file), _) = places.file()
            && file.shows_a_secret()
        {
            let path = file.path().display();
            warnings.push(format!("{path} holds a secret and anyone on this machine may read it: chmod o-r"));
        }
        Ok(Loaded { config, settings, warnings })
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Loader(masked)")
    }
}

/// What clap found of settings, and where among the arguments further flags may stand.
fn of_settings(matches: &ArgMatches) -> (&ArgMatches, usize) {
    matches.subcommand().map_or((matches, 1), |(_, inside)| (inside, 2))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::environment::tests::Directory;
    use super::super::{Origin, effective, template};
    use super::*;

    /// Loads in a folder that holds these files, its `d.toml` being the configuration file.
    fn load(directory: &Directory, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        let file = directory.0.join("d.toml").into_os_string();
        let named = [OsString::from("dispatch"), "--config".into(), file];
        let given = named.into_iter().chain(arguments.iter().map(OsString::from)).collect();
        Loader::new(given, &directory.environment(variables)).load()
    }

    fn found<'a>(loaded: &'a Loaded, name: &str) -> &'a Effective {
        loaded.settings.iter().find(|setting| setting.name() == name).unwrap()
    }

    #[test]
    fn each_place_goes_before_the_next_and_says_where_a_value_came_from() {
        let files = [
            ("d.toml", "stall_ms_max = 100\nlinger_ms_max = 101\nport = 102\nports_max = 103\n"),
            ("DISPATCH_STALL_MS_MAX", "200\n"),
            ("DISPATCH_LINGER_MS_MAX", "201\n"),
            ("SG_SERVER_PORT", "202\n"),
        ];
        let directory = Directory::with(&files);
        let variables = [("DISPATCH_LINGER_MS_MAX", "301"), ("SG_SERVER_PORT", "302"), ("DISPATCH_PORTS_MAX", " ")];
        let loaded = load(&directory, &["-p", "402"], &variables).unwrap();
        let of = |name| {
            let setting = found(&loaded, name);
            (setting.value.as_deref().unwrap(), setting.found_as.as_str())
        };
        assert_eq!((of("port"), &found(&loaded, "port").origin), (("402", "--port"), &Origin::Flag));
        let linger = found(&loaded, "linger_ms_max");
        assert_eq!((of("linger_ms_max"), &linger.origin), (("301", "DISPATCH_LINGER_MS_MAX"), &Origin::Variable));
        let stall = found(&loaded, "stall_ms_max");
        assert_eq!(
            (of("stall_ms_max").0, &stall.origin),
            ("200", &Origin::File(directory.0.join("DISPATCH_STALL_MS_MAX")))
        );
        // A variable that is empty counts as not set.
        let ports = found(&loaded, "ports_max");
        assert!(matches!(&ports.origin, Origin::Config(at) if (at.line, at.column) == (4, 13)), "{ports:?}");
        assert_eq!((loaded.config.limits.ports_max, &found(&loaded, "workers").origin), (103, &Origin::Default));
    }

    #[test]
    fn secrets_follow_the_same_order_and_are_masked() {
        let file = ("d.toml", "server_secret = 'c-sesame'\nserver_secret_next = 'd-sesame'\n");
        let secret = |files: &[(&str, &str)], variables: &[(&str, &str)]| {
            let loaded = load(&Directory::with(files), &[], variables).unwrap();
            let printed =
                format!("{loaded:?}{}{}", effective::text(&loaded.settings), effective::document(&loaded.settings));
            assert!(!printed.contains("sesame"), "{printed}");
            let secrets = loaded.config.secrets.clone();
            assert_eq!(secrets.next.map(|next| next.expose().to_owned()).as_deref(), Some("d-sesame"));
            (secrets.secret.expose().to_owned(), found(&loaded, "server_secret").found_as.clone())
        };
        let owned = |one: &str, other: &str| (one.to_owned(), other.to_owned());
        let variable = [("SERVER_SECRET", "a-sesame")];
        assert_eq!(secret(&[file, ("SERVER_SECRET", "b-sesame")], &variable), owned("a-sesame", "SERVER_SECRET"));
        assert_eq!(secret(&[file, ("PLACE_SERVER_SECRET", "b-sesame")], &[]), owned("b-sesame", "PLACE_SERVER_SECRET"));
        assert_eq!(secret(&[file], &[]), owned("c-sesame", "server_secret"));
        let empty = load(&Directory::with(&[("d.toml", "server_secret = ' '\n")]), &[], &[]).unwrap_err().to_string();
        assert!(
            empty.starts_with("server_secret: the secret from /") && empty.contains("line 1, column 17"),
            "{empty}"
        );
    }

    #[test]
    fn the_file_may_say_where_secrets_are_unless_a_variable_does() {
        let secrets = Directory::with(&[("SERVER_SECRET", "there")]);
        let text = format!("secrets_path = '{}'\n", secrets.0.display());
        let directory = Directory::with(&[("d.toml", &text), ("SERVER_SECRET", "here")]);
        assert_eq!(load(&directory, &[], &[]).unwrap().config.secrets.secret.expose(), "here");
        let arguments = ["dispatch".into(), "--config".into(), directory.0.join("d.toml").into_os_string()];
        let loaded = Loader::new(arguments.into(), &Environment::new([])).load().unwrap();
        assert_eq!(loaded.config.secrets.secret.expose(), "there");
        assert!(matches!(found(&loaded, "secrets_path").origin, Origin::Config(_)));
    }

    #[test]
    fn a_bad_value_of_the_file_names_its_place() {
        for (text, expected) in [
            (
                "stall_ms_max = 5",
                "--stall-ms-max (DISPATCH_STALL_MS_MAX): \"5\" from PATH, line 1, column 16 is not accepted: 5 is not in",
            ),
            (
                "\n pin = 'maybe'",
                "--pin (DISPATCH_PIN): \"maybe\" from PATH, line 2, column 8 is not accepted: it must be one of on, off",
            ),
            (
                "allow_ports = [\n  '1-2',\n  '9-8',\n]",
                "--allow-ports (DISPATCH_ALLOW_PORTS): \"9-8\" from PATH, line 3, column 3 is not accepted: the range \"9-8\"",
            ),
            (
                "allow_ports = []",
                "--allow-ports (DISPATCH_ALLOW_PORTS): \"\" from PATH, line 1, column 15 is not accepted: the list has no entry",
            ),
            ("log_level = 'loud'", "--log-level (LOG_LEVEL): \"loud\" from PATH, line 1, column 13"),
        ] {
            let directory = Directory::with(&[("d.toml", text)]);
            let line = load(&directory, &[], &[]).unwrap_err().to_string();
            let line = line.replace(directory.0.join("d.toml").to_str().unwrap(), "PATH");
            assert!(line.starts_with(expected), "{line}");
        }
    }

    #[test]
    fn what_is_printed_is_a_file_that_brings_the_same_about() {
        let text = "allow_ports = ['1-9', 20]\npin = false\nlog_level = 'info,a=\"b\"'\n";
        let text = text.replace("a=\"b\"", "uring_dispatch::edge=trace");
        let directory = Directory::with(&[("d.toml", &text)]);
        let loaded = load(&directory, &["--stall-ms-max", "300"], &[("DISPATCH_SOCKET_BYTES", "0")]).unwrap();
        let printed = Directory::with(&[("d.toml", &effective::text(&loaded.settings))]);
        let again = load(&printed, &[], &[]).unwrap();
        let values = |loaded: &Loaded| {
            let settings =
                loaded.settings.iter().filter(|setting| !["config", "secrets_path"].contains(&setting.name()));
            settings.map(|setting| setting.value.clone()).collect::<Vec<_>>()
        };
        assert_eq!(values(&loaded), values(&again));
    }

    #[test]
    fn the_shipped_file_sets_nothing_and_says_every_default() {
        let shipped = template();
        assert_eq!(load(&Directory::with(&[("d.toml", &shipped)]), &[], &[]).unwrap().warnings.len(), 1);
        // Secrets have no default that could be set, and the folder is that of the test.
        let is_live = |line: &&str| {
            line.starts_with(char::is_alphabetic)
                && !line.starts_with("server_secret")
                && !line.starts_with("secrets_path")
        };
        let live: Vec<&str> = shipped.lines().filter_map(|line| line.strip_prefix('#')).filter(is_live).collect();
        let live = live.join("\n");
        let loaded = load(&Directory::with(&[("d.toml", &live)]), &[], &[]).unwrap();
        let default = load(&Directory::with(&[("d.toml", "")]), &[], &[]).unwrap();
        for (one, other) in loaded.settings.iter().zip(&default.settings) {
            let stands_there = live.lines().any(|line| line.starts_with(&format!("{} = ", one.name())));
            assert_eq!(matches!(one.origin, Origin::Config(_)), stands_there, "{one:?}");
            assert!(!stands_there || one.value == other.value, "{one:?} {other:?}");
        }
        // The file itself, its folder of secrets, and both secrets.
        assert_eq!(live.lines().count(), default.settings.len() - 4);
    }

    #[test]
    fn a_secret_in_a_file_that_anyone_may_read_is_warned_of() {
        use std::os::unix::fs::PermissionsExt;
        let directory = Directory::with(&[("d.toml", "server_secret = 'own'\n")]);
        let with_mode = |mode| {
            let path = directory.0.join("d.toml");
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
            load(&directory, &[], &[]).unwrap().warnings
        };
        assert!(with_mode(0o644).iter().any(|warning| warning.contains("holds a secret")));
        assert_eq!(with_mode(0o640), Vec::<String>::new());
    }
}
