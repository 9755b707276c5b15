//! Arguments, variables and files become one checked `Config`, or one line that says which setting is wrong.
//!
//! **Invariants.** A `Config` that exists keeps the minima of `Limits`; a flag goes before its variable, a variable
//! before its file under `SECRETS_PATH`, that before the configuration file, which goes before the default; the process's
//! environment is read and never written.
//! **Not here.** What a bound does, raising the descriptor limit (`server`), printing and exit codes (`main`).

mod arguments;
mod changes;
pub mod effective;
mod environment;
mod error;
mod file;
mod http_url;
mod limit_arguments;
mod loader;
mod memory;
mod origin;
mod parse;
mod places;
mod secret;
mod settings;
mod template;
mod tls;

use std::collections::HashMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::FromArgMatches;
use clap::error::ErrorKind;

pub use self::arguments::{DaemonArguments, ListenArguments, Switch, TapArguments};
pub use self::changes::{Change, Changes};
pub use self::environment::Environment;
pub use self::error::ConfigError;
pub use self::http_url::{HttpUrl, Scheme};
pub use self::loader::{Loaded, Loader};
pub use self::memory::{devices_max, handshakes_max};
pub use self::origin::{Origin, Position};
pub use self::secret::{DaemonSecrets, Secret, SecretStrength};
pub use self::settings::{Form, Setting, settings, settings_table};
pub use self::template::template;
pub use self::tls::TlsConfig;

use self::arguments::{Arguments, CheckArguments, Command, SettingArguments, resolve};
use self::parse::{help, refusal, without_environment, without_repeated_name};
use self::places::Places;
use self::secret::{find_daemon_secrets, find_secret};
use crate::logging::LogFormat;
use crate::policy::access::Access;
use crate::policy::limits::Limits;
use crate::policy::metrics::Observation;

/// Everything the daemon is told at start-up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where drivers reach the API.
    pub api_address: SocketAddr,
    /// Where they reach it with TLS, and how; `None` where they do not.
    pub tls: Option<TlsConfig>,
    /// Where certificates for devices are kept; `None` where none are.
    pub device_certs: Option<Arc<Path>>,
    /// Shards to run; at least 1.
    pub shards: usize,
    /// How upgrades are made.
    pub upgrades: Upgrades,
    /// Whether their threads are pinned.
    pub pin: Switch,
    /// How log lines look, and with it what is logged where no filter is set.
    pub log_format: LogFormat,
    /// A checked filter; `None` for the format's own level.
    pub log_filter: Option<String>,
    /// What drivers must show.
    pub secrets: DaemonSecrets,
    /// What drivers may do.
    pub access: Access,
    /// What the operator wants to be shown.
    pub observation: Observation,
    /// The bounds. Its `devices_max` is the setting itself, 0 included: pass it through `devices_max` once the
    /// descriptor limit is known.
    pub limits: Limits,
}

/// How this daemon takes over from another, and is taken over.
#[derive(Debug, Clone)]
pub struct Upgrades {
    /// Whether it takes over; then there is a socket.
    pub takeover: Switch,
    /// The Unix socket where daemons meet.
    pub socket: Option<PathBuf>,
}

/// What the program was asked to do.
#[derive(Debug)]
pub enum Invocation {
    /// Run the daemon. The loader finds the settings again.
    Serve(Box<Loaded>, Loader),
    /// Print the settings with which it would run.
    CheckConfig(Box<Loaded>, ReportForm),
    /// Ask a running one for its health.
    Health(HttpUrl),
    /// Print the version.
    Version,
    /// Print the routes.
    Routes,
    /// Print the OpenAPI document.
    Document,
    /// Print this help.
    Help(String),
    /// Be a driver in the terminal.
    Listen(ListenOptions),
    /// Tap a port in the terminal.
    Tap(TapOptions),
}

/// What the terminal's tap is told.
#[derive(Debug, Clone)]
pub struct TapOptions {
    /// Its arguments.
    pub arguments: TapArguments,
    /// The token it shows: the daemon's secret, found the same way.
    pub token: Secret,
}

/// How the settings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportForm {
    /// As a configuration file with comments.
    Toml,
    /// As one JSON document.
    Json,
}

/// What the terminal's driver is told.
#[derive(Debug, Clone)]
pub struct ListenOptions {
    /// Its arguments.
    pub arguments: ListenArguments,
    /// The token it shows: the daemon's secret, found the same way.
    pub token: Secret,
}

impl Invocation {
    /// Reads the arguments, the program's own name first, in this environment. Resolves the host's name, which may
    /// wait.
    ///
    /// Actions look at the command line only, so that `-v` and `-c` work beside settings that keep the daemon from
    /// starting.
    pub fn parse(
        arguments: impl IntoIterator<Item = OsString>,
        environment: &Environment,
    ) -> Result<Invocation, ConfigError> {
        let given = without_repeated_name(arguments);
        let command = without_environment();
        let matches = match command.try_get_matches_from(&given) {
            Ok(matches) => matches,
            Err(error) if error.kind() == ErrorKind::DisplayHelp => return Ok(Invocation::Help(help(&given, error))),
            Err(error) => return Err(refusal(&error, &HashMap::new())),
        };
        let arguments = Arguments::from_arg_matches(&matches).map_err(|error| refusal(&error, &HashMap::new()))?;
        if let Some(action) = action(&arguments, environment)? {
            return Ok(action);
        }
        let loader = Loader::new(given, environment);
        let loaded = Box::new(loader.load()?);
        Ok(match arguments.command {
            Some(Command::CheckConfig(check)) => Invocation::CheckConfig(loaded, check.report_form()),
            _ => Invocation::Serve(loaded, loader),
        })
    }
}

impl CheckArguments {
    fn report_form(&self) -> ReportForm {
        if self.json { ReportForm::Json } else { ReportForm::Toml }
    }
}

impl Config {
    /// The filter of the log where it is set, else the level that the format stands for.
    pub(crate) fn log_level(&self) -> &str {
        self.log_filter.as_deref().unwrap_or(self.log_format.level())
    }

    /// What an operator should be told about the settings once the log is open.
    pub fn warning(&self) -> Option<&'static str> {
        match (self.secrets.strength, self.log_format) {
            (SecretStrength::Own, _) => None,
            (_, LogFormat::Json) => Some("the secret is `testing`, which anyone can guess"),
            (SecretStrength::WellKnown, LogFormat::Readable) => None,
            (SecretStrength::BuiltIn, LogFormat::Readable) => Some(
                "no secret is set: drivers must show `testing`; set PLACE_SERVER_SECRET before others can reach this",
            ),
        }
    }
}

fn action(arguments: &Arguments, environment: &Environment) -> Result<Option<Invocation>, ConfigError> {
    let token = || find_secret(environment).map(|(token, _)| token);
    match &arguments.command {
        Some(Command::Listen(arguments)) => {
            return Ok(Some(Invocation::Listen(ListenOptions { arguments: arguments.clone(), token: token()? })));
        }
        Some(Command::Tap(arguments)) => {
            return Ok(Some(Invocation::Tap(TapOptions { arguments: arguments.clone(), token: token()? })));
        }
        Some(Command::CheckConfig(_)) | None => {}
    }
    let actions = &arguments.actions;
    Ok(match &actions.health {
        Some(url) => Some(Invocation::Health(url.clone())),
        None if actions.version => Some(Invocation::Version),
        None if actions.routes => Some(Invocation::Routes),
        None if actions.document => Some(Invocation::Document),
        None => None,
    })
}

fn check(arguments: &SettingArguments, places: &Places) -> Result<Config, ConfigError> {
    let production = arguments.logging.environment.trim() == "production";
    let secrets = find_daemon_secrets(places, production)?;
    let limits = limit_arguments::limits(
        &arguments.drivers,
        &arguments.devices,
        &arguments.memory,
        &arguments.ring,
        arguments.tls.tls_handshake_ms_max,
    );
    check_together(&limits)?;
    let host = &arguments.listening.host;
    let api_address = resolve(host, arguments.listening.port)
        .map_err(|reason| contradiction("host", format!("{host:?} is no address of this machine: {reason}")))?;
    let tls = arguments.tls.check(&arguments.listening)?;
    let shards = match arguments.shards.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        set => set,
    };
    Ok(Config {
        api_address,
        shards,
        upgrades: upgrades(arguments)?,
        pin: arguments.shards.pin,
        log_format: if production { LogFormat::Json } else { LogFormat::Readable },
        log_filter: Some(arguments.logging.log_level.clone()).filter(|filter| !filter.is_empty()),
        secrets,
        access: Access {
            ports: arguments.access.allow_ports.clone(),
            sources: arguments.access.allow_sources.clone(),
            udp_egress: arguments.access.udp_egress,
            api_port: arguments.listening.port,
            api_tls_port: tls.as_ref().map(|tls| tls.address.port()),
        },
        observation: Observation {
            metrics_open: arguments.metrics.metrics_open == Switch::On,
            port_series: arguments.metrics.metrics_ports == Switch::On,
        },
        limits,
        tls,
        device_certs: arguments.tls.device_certs(),
    })
}

fn upgrades(arguments: &SettingArguments) -> Result<Upgrades, ConfigError> {
    let upgrades = &arguments.upgrades;
    let path = &upgrades.takeover_socket;
    let socket = (!path.is_empty()).then(|| PathBuf::from(path));
    if upgrades.takeover == Switch::On && socket.is_none() {
        let reason = "needs --takeover-socket, at which the running daemon is asked for its sockets".to_owned();
        return Err(contradiction("takeover", reason));
    }
    Ok(Upgrades { takeover: upgrades.takeover, socket })
}

/// The bounds that depend on one another.
fn check_together(limits: &Limits) -> Result<(), ConfigError> {
    if limits.driver_silence_max <= limits.ping_interval {
        let ping = limits.ping_interval.as_millis();
        let reason =
            format!("must be greater than --ping-interval-ms, which is {ping}: else no ping is ever answered in time");
        return Err(contradiction("driver_silence_ms_max", reason));
    }
    let session = limits.outbox_bytes_max.saturating_add(limits.write_window_bytes_max);
    if limits.session_memory_bytes_max < session {
        let memory = limits.session_memory_bytes_max;
        let reason = format!("{memory} bytes do not fit one session, whose outbox and write window are {session}");
        return Err(contradiction("session_memory_bytes_max", reason));
    }
    Ok(())
}

fn contradiction(id: &str, reason: String) -> ConfigError {
    ConfigError::Contradiction { setting: settings::name_of(id), reason }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::num::NonZeroU16;

    use super::environment::tests::Directory;
    use super::*;
    use crate::policy::access::Egress;
    use crate::policy::port_id::Transport;

    fn parsed(
        arguments: &[&str],
        variables: &[(&str, &str)],
        files: &[(&str, &str)],
    ) -> Result<Invocation, ConfigError> {
        let directory = Directory::with(files);
        let arguments = ["dispatch"].iter().chain(arguments).map(OsString::from);
        Invocation::parse(arguments, &directory.environment(variables))
    }

    fn config(arguments: &[&str], variables: &[(&str, &str)], files: &[(&str, &str)]) -> Config {
        match parsed(arguments, variables, files).unwrap() {
            Invocation::Serve(loaded, _) => loaded.config,
            other => panic!("not served: {other:?}"),
        }
    }

    fn line(arguments: &[&str], variables: &[(&str, &str)], files: &[(&str, &str)]) -> String {
        let line = parsed(arguments, variables, files).unwrap_err().to_string();
        assert!(!line.contains('\n'), "{line}");
        line
    }

    #[test]
    fn the_defaults_are_those_of_the_design() {
        let config = config(&[], &[], &[]);
        assert_eq!(config.api_address.to_string(), "127.0.0.1:3000");
        assert!(config.shards >= 1);
        assert_eq!(
            (config.pin, config.log_format, config.log_filter.as_deref()),
            (Switch::On, LogFormat::Readable, None)
        );
        let limits = config.limits;
        assert_eq!((limits.request_head_bytes_max, limits.message_bytes_max), (65_536, 1_048_576));
        assert_eq!((limits.outbox_bytes_max, limits.write_window_bytes_max), (262_144, 262_144));
        assert_eq!((limits.receive_buffers, limits.receive_buffer_bytes, limits.ring_entries), (1_024, 4_096, 1_024));
        let times = [
            limits.request_head_time_max,
            limits.stall_time_max,
            limits.credit_wait_max,
            limits.flush_time_max,
            limits.ping_interval,
            limits.driver_silence_max,
            limits.device_keepalive,
            limits.device_user_timeout,
            limits.linger_time_max,
            limits.drain_time_max,
        ];
        let seconds = times.map(|time| time.as_secs());
        assert_eq!(seconds, [10, 20, 8, 8, 30, 75, 10, 120, 2, 10]);
        assert_eq!(limits.devices_max, 0);
        assert_eq!([limits.devices_per_port_max, limits.sessions_max, limits.ports_max], [usize::MAX; 3]);
    }

    #[test]
    fn a_flag_goes_before_its_variable_and_a_variable_before_its_file() {
        let variables = [("SG_SERVER_PORT", "2"), ("DISPATCH_PORTS_MAX", "5")];
        let files = [("SG_SERVER_PORT", "3\n"), ("DISPATCH_PORTS_MAX", "6\n"), ("DISPATCH_STALL_MS_MAX", "700\n")];
        assert_eq!(config(&["-p", "1"], &variables, &files).api_address.port(), 1);
        let config = config(&[], &variables, &files);
        assert_eq!((config.api_address.port(), config.limits.ports_max), (2, 5));
        assert_eq!(config.limits.stall_time_max.as_millis(), 700);
    }

    #[test]
    fn the_usual_image_starts_with_its_name_repeated() {
        let config = config(&["/dispatch", "-b", "0.0.0.0", "-p", "8080"], &[], &[]);
        assert_eq!(config.api_address.to_string(), "0.0.0.0:8080");
        assert!(matches!(parsed(&["dispatch", "-v"], &[], &[]), Ok(Invocation::Version)));
    }

    #[test]
    fn an_action_looks_at_the_command_line_only() {
        let broken = [("SG_SERVER_PORT", "none"), ("SERVER_SECRET", "")];
        assert!(matches!(parsed(&["-v"], &broken, &[]), Ok(Invocation::Version)));
        assert!(matches!(parsed(&["-r"], &broken, &[]), Ok(Invocation::Routes)));
        assert!(matches!(parsed(&["-d"], &broken, &[]), Ok(Invocation::Document)));
        assert!(matches!(parsed(&["-c", "http://localhost/"], &broken, &[]), Ok(Invocation::Health(_))));
        let Ok(Invocation::Help(help)) = parsed(&["-h"], &broken, &[]) else { panic!("no help") };
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains("[env: SG_SERVER_PORT]") && help.contains("[default: 3000]"), "{help}");
        assert!(line(&["-v", "-r"], &[], &[]).contains("cannot be used with"));
    }

    #[test]
    fn a_bad_value_is_one_line_that_names_the_setting_and_where_it_was_found() {
        let flag = line(&["-p", "65536"], &[], &[]);
        assert_eq!(flag, "-p/--port (SG_SERVER_PORT): \"65536\" is not accepted: 65536 is not in 1..=65535");
        let variable = line(&[], &[("DISPATCH_STALL_MS_MAX", "soon\nor later")], &[]);
        assert!(
            variable.starts_with("--stall-ms-max (DISPATCH_STALL_MS_MAX): \"soon\\nor later\" from the environment")
        );
        let file = line(&[], &[], &[("DISPATCH_PIN", "maybe")]);
        assert!(file.starts_with("--pin (DISPATCH_PIN): \"maybe\" from the file /"), "{file}");
        assert!(file.ends_with("it must be one of on, off"), "{file}");
        assert!(line(&["--no-such-flag"], &[], &[]).contains("--no-such-flag"));
        assert!(line(&["-p"], &[], &[]).contains("--port"));
        assert!(line(&["-b", "no such host"], &[], &[]).starts_with("-b/--host (SG_SERVER_HOST): "));
    }

    #[test]
    fn bounds_that_contradict_each_other_are_refused() {
        let silence = line(&["--ping-interval-ms", "1000"], &[("DISPATCH_DRIVER_SILENCE_MS_MAX", "1000")], &[]);
        assert!(silence.starts_with("--driver-silence-ms-max (DISPATCH_DRIVER_SILENCE_MS_MAX): "), "{silence}");
        let memory = line(&["--session-memory-bytes-max", "400000"], &[], &[]);
        assert!(memory.starts_with("--session-memory-bytes-max ("), "{memory}");
        for (flag, below) in [("--message-bytes-max", "131071"), ("--outbox-bytes-max", "204799")] {
            assert!(line(&[flag, below], &[], &[]).starts_with(flag));
        }
    }

    #[test]
    fn a_takeover_needs_to_know_where() {
        let none = config(&[], &[], &[]).upgrades;
        assert_eq!((none.takeover, none.socket), (Switch::Off, None));
        let taking = config(&["--takeover"], &[("DISPATCH_TAKEOVER_SOCKET", "/run/d")], &[]).upgrades;
        assert_eq!((taking.takeover, taking.socket), (Switch::On, Some(PathBuf::from("/run/d"))));
        let refused = line(&["--takeover"], &[], &[]);
        assert!(refused.starts_with("--takeover (DISPATCH_TAKEOVER): needs --takeover-socket"), "{refused}");
    }

    #[test]
    fn metrics_need_the_token_and_show_ports_unless_it_is_said() {
        let usual = Observation { metrics_open: false, port_series: true };
        assert_eq!(config(&[], &[], &[]).observation, usual);
        let open = Observation { metrics_open: true, ..usual };
        assert_eq!(config(&["--metrics-open"], &[], &[]).observation, open);
        assert_eq!(config(&["--metrics-open", "on", "-w", "1"], &[], &[]).observation, open);
        assert_eq!(config(&[], &[("DISPATCH_METRICS_OPEN", "on")], &[]).observation, open);
        let few = Observation { port_series: false, ..usual };
        assert_eq!(config(&["--metrics-ports", "off"], &[], &[]).observation, few);
    }

    #[test]
    fn production_logs_json_and_needs_a_secret_of_its_own() {
        let production = ("SG_ENV", "production");
        let refused = line(&[], &[production], &[]);
        assert!(refused.contains("PLACE_SERVER_SECRET") && refused.contains("SG_ENV"), "{refused}");
        let own = config(&[], &[production, ("SERVER_SECRET", "hunter2")], &[]);
        assert_eq!((own.log_format, own.warning()), (LogFormat::Json, None));
        assert!(!format!("{own:?}").contains("hunter2"));
        let on_purpose = config(&[], &[production, ("SERVER_SECRET", "testing")], &[]);
        assert!(on_purpose.warning().is_some());
    }

    #[test]
    fn what_drivers_may_do_is_everything_unless_it_is_said() {
        let everything = config(&[], &[], &[]).access;
        let port = |number| NonZeroU16::new(number).unwrap();
        assert!(everything.ports.contains(port(1)) && everything.ports.contains(port(65_535)));
        assert!(everything.sources.accepts([10, 0, 0, 1].into()) && everything.sources.accepts([1u16; 8].into()));
        assert_eq!((everything.udp_egress, everything.api_port), (Egress::Any, 3_000));
        let variables = [("DISPATCH_ALLOW_PORTS", "161, 2000-2999"), ("DISPATCH_ALLOW_SOURCES", "10.0.0.0/8")];
        let some = config(&["--udp-egress", "accepted", "-p", "8080"], &variables, &[]).access;
        assert!(some.ports.contains(port(161)) && !some.ports.contains(port(162)));
        assert!(!some.sources.accepts([11, 0, 0, 1].into()));
        assert_eq!((some.udp_egress, some.api_port), (Egress::Accepted, 8_080));
        for (flag, value, part) in [
            ("--allow-ports", "5-3", "ends before it begins"),
            ("--allow-sources", "10.0.0.300", "neither an address"),
            ("--udp-egress", "all", "one of any, accepted"),
        ] {
            let refused = line(&[flag, value], &[], &[]);
            assert!(refused.starts_with(&format!("{flag} (DISPATCH_")) && refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn a_bad_log_filter_is_refused_at_start() {
        let refused = line(&[], &[("LOG_LEVEL", "verbose")], &[]);
        assert!(refused.starts_with("--log-level (LOG_LEVEL): \"verbose\""), "{refused}");
        let filter = config(&[], &[("LOG_LEVEL", "info,uring_dispatch::edge=trace")], &[]).log_filter;
        assert_eq!(filter.as_deref(), Some("info,uring_dispatch::edge=trace"));
    }

    #[test]
    fn the_terminals_driver_finds_the_daemons_secret() {
        let invocation = parsed(&["listen", "udp", "162", "--accept", "10.0.0.0/8"], &[], &[("SERVER_SECRET", "s\n")]);
        let Ok(Invocation::Listen(options)) = invocation else { panic!("no driver") };
        assert_eq!((options.arguments.transport, options.arguments.port), (Transport::Udp, 162));
        assert_eq!((options.arguments.accept.as_str(), options.token.expose()), ("10.0.0.0/8", "s"));
        assert!(line(&["listen", "sctp", "1"], &[], &[]).contains("a transport is tcp or udp"));
        assert!(line(&["listen", "tcp"], &[], &[]).contains("<PORT>"));
        assert!(line(&["listen", "tcp", "0"], &[], &[]).contains("1..=65535"));
    }
}
