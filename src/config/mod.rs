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
pub mod file;
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
mod trust;

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
pub use self::parse::with_environment as command_line;
pub use self::secret::{DaemonSecrets, Secret, SecretStrength};
pub use self::settings::{Form, Setting, settings, settings_table};
pub use self::template::template;
pub use self::tls::TlsConfig;
pub use self::trust::{DaemonOptions, TrustArguments};

use self::arguments::{Arguments, CheckArguments, Command, SettingArguments, resolve};
use self::parse::{help, refusal, without_environment, without_repeated_name};
use self::places::Places;
use self::secret::{find_daemon_secrets, find_secret};
use crate::edge::session::session_bytes_max;
use crate::logging::LogFormat;
use crate::policy::access::Access;
use crate::policy::balancers::Balancers;
use crate::policy::limits::Limits;
use crate::policy::metrics::Observation;
use crate::policy::port_rules::DeviceRules;
use crate::shard::cipher::tls_bytes_max;

/// What the accept list of a driver takes that accepts a few addresses.
const ACCEPT_BYTES: usize = 1 << 10;

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
    /// What becomes of devices, by port.
    pub device_rules: DeviceRules,
    /// Who is believed when it says whom a connection comes from.
    pub balancers: Balancers,
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
    Health(DaemonOptions),
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
    /// The daemon.
    pub daemon: DaemonOptions,
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
    /// The daemon.
    pub daemon: DaemonOptions,
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
            let daemon = arguments.daemon.trust.check(&arguments.daemon.url)?;
            let options = ListenOptions { arguments: arguments.clone(), daemon, token: token()? };
            return Ok(Some(Invocation::Listen(options)));
        }
        Some(Command::Tap(arguments)) => {
            let daemon = arguments.daemon.trust.check(&arguments.daemon.url)?;
            return Ok(Some(Invocation::Tap(TapOptions { arguments: arguments.clone(), daemon, token: token()? })));
        }
        Some(Command::CheckConfig(_)) | None => {}
    }
    let actions = &arguments.actions;
    if let (None, Some(id)) = (&actions.health, arguments.trust.first_set()) {
        let reason =
            "goes with -c, listen and tap; what the daemon shows and asks for is --tls-cert and what follows it";
        return Err(contradiction(id, reason.to_owned()));
    }
    Ok(match &actions.health {
        Some(url) => Some(Invocation::Health(arguments.trust.check(url)?)),
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
    check_times(&limits)?;
    let host = &arguments.listening.host;
    let api_address = resolve(host, arguments.listening.port)
        .map_err(|reason| contradiction("host", format!("{host:?} is no address of this machine: {reason}")))?;
    let tls = arguments.tls.check(&arguments.listening)?;
    check_memory(&limits, tls.as_ref())?;
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
        device_rules: limit_arguments::device_rules(&arguments.devices),
        balancers: Balancers {
            api: arguments.balancers.proxy_from.clone(),
            devices: arguments.balancers.device_proxy_from.clone(),
            forwarding: arguments.balancers.forwarded_from.clone(),
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

/// The times that depend on one another.
fn check_times(limits: &Limits) -> Result<(), ConfigError> {
    if limits.driver_silence_max <= limits.ping_interval {
        let ping = limits.ping_interval.as_millis();
        let reason =
            format!("must be greater than --ping-interval-ms, which is {ping}: else no ping is ever answered in time");
        return Err(contradiction("driver_silence_ms_max", reason));
    }
    Ok(())
}

/// The bounds that a driver has to fit, with TLS where it is served.
fn check_memory(limits: &Limits, tls: Option<&TlsConfig>) -> Result<(), ConfigError> {
    let sealed = tls.map_or(0, |_| tls_bytes_max(limits.outbox_bytes_max));
    let session = session_bytes_max(limits) + sealed + ACCEPT_BYTES;
    if limits.session_memory_bytes_max < session {
        let memory = limits.session_memory_bytes_max;
        let reason = format!(
            "{memory} bytes do not fit one driver, who takes {session} with its --outbox-bytes-max, \
             --write-window-bytes-max and what is not set"
        );
        return Err(contradiction("session_memory_bytes_max", reason));
    }
    Ok(())
}

fn needs(id: &str, other: &str) -> ConfigError {
    contradiction(id, format!("needs {other}, which is not set"))
}

fn contradiction(id: &str, reason: String) -> ConfigError {
    ConfigError::Contradiction { setting: settings::name_of(id), reason }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
