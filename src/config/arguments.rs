//! The command line as it is written: flags, their variables, defaults and help. The bounds are in `limit_arguments`.
//!
//! **Invariants.** Every setting has a flag and a variable; the unit is in the flag's or the value's name.
//! **Not here.** Where a value comes from and whether the whole makes sense (`config`).

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::file::CONFIG_VARIABLE;
use super::http_url::HttpUrl;
use super::limit_arguments::{DeviceArguments, DriverArguments, MemoryArguments, RingArguments};
use super::tls::TlsArguments;
use super::trust::TrustArguments;
use crate::policy::access::{Egress, PortRanges};
use crate::policy::balancers::Listed;
use crate::policy::port_id::Transport;
use crate::policy::sources::Sources;
use crate::policy::tap_filter::TappedDevice;

const AFTER_HELP: &str = "\
Every setting may also stand in the configuration file, under the name of its flag with underscores (stall_ms_max = \
20000), and every variable in a file of its name under SECRETS_PATH (/run/secrets unless set). A flag goes before its \
variable, a variable before its file under SECRETS_PATH, that before the configuration file. The secret that drivers \
must show has no flag: it is the first that is set of PLACE_SERVER_SECRET and SERVER_SECRET. While drivers change to \
another, that one is PLACE_SERVER_SECRET_NEXT or SERVER_SECRET_NEXT; both are let in. In the configuration file they are server_secret and server_secret_next. \
`dispatch check-config` prints every setting and where it came from.";

const AFTER_CHECK_HELP: &str = "\
Prints what the daemon would run with, were it started with these flags here and now: each setting as the \
configuration file would have it, with where it came from; secrets are masked. Exits with 0, or with 2 where the daemon \
would not start, and then says why.";

const AFTER_LISTEN_HELP: &str = "\
What is typed goes to the last device that sent or connected; `@ID TEXT` (tcp) or `@IP:PORT TEXT` (udp) goes to that \
one. `/close` or `@ID /close` disconnects a tcp device. The token is the daemon's secret, found the same way: \
PLACE_SERVER_SECRET or SERVER_SECRET, as a variable or as a file under SECRETS_PATH.";

const AFTER_TAP_HELP: &str = "\
To see it as it comes: `dispatch tap tcp 6001 --pcap - | tshark -r -`. In a capture the daemon is 192.0.2.1 or \
2001:db8::1, and the port of a tcp device is 16384 and its id. The token is the daemon's secret, found the same way: \
PLACE_SERVER_SECRET or SERVER_SECRET, as a variable or as a file under SECRETS_PATH.";

/// Every argument, as clap parses it.
#[derive(Debug, Parser)]
#[command(
    name = "dispatch",
    about = "Streams TCP and UDP devices to drivers over WebSockets, on io_uring.",
    after_help = AFTER_HELP,
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = true,
    help_expected = true
)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) actions: ActionArguments,
    #[command(flatten, next_help_heading = "Actions (instead of serving)")]
    pub(super) trust: TrustArguments,
    #[command(flatten)]
    pub(super) settings: SettingArguments,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

impl Arguments {
    /// The settings, of the daemon or of what is checked.
    pub(super) fn settings(&self) -> &SettingArguments {
        match &self.command {
            Some(Command::CheckConfig(check)) => &check.settings,
            _ => &self.settings,
        }
    }
}

/// Every setting that has a flag.
#[derive(Debug, Clone, Args)]
pub(super) struct SettingArguments {
    #[command(flatten)]
    pub(super) file: FileArguments,
    #[command(flatten)]
    pub(super) listening: ListeningArguments,
    #[command(flatten)]
    pub(super) tls: TlsArguments,
    #[command(flatten)]
    pub(super) access: AccessArguments,
    #[command(flatten)]
    pub(super) balancers: BalancerArguments,
    #[command(flatten)]
    pub(super) upgrades: UpgradeArguments,
    #[command(flatten)]
    pub(super) shards: ShardArguments,
    #[command(flatten)]
    pub(super) ring: RingArguments,
    #[command(flatten)]
    pub(super) drivers: DriverArguments,
    #[command(flatten)]
    pub(super) devices: DeviceArguments,
    #[command(flatten)]
    pub(super) memory: MemoryArguments,
    #[command(flatten)]
    pub(super) metrics: MetricsArguments,
    #[command(flatten)]
    pub(super) logging: LoggingArguments,
}

/// What is done instead of serving.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Actions (instead of serving)")]
#[group(id = "action", multiple = false)]
pub(super) struct ActionArguments {
    /// Ask URL for its health: exit code 0 for a status of 200 to 499, 1 for another, 2 for no answer in 5 s
    #[arg(short = 'c', long = "curl", value_name = "URL")]
    pub(super) health: Option<HttpUrl>,
    /// Print the version
    #[arg(short = 'v', long = "version")]
    pub(super) version: bool,
    /// Print the routes
    #[arg(short = 'r', long = "routes")]
    pub(super) routes: bool,
    /// Print the OpenAPI document
    #[arg(short = 'd', long = "docs")]
    pub(super) document: bool,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Configuration file")]
pub(super) struct FileArguments {
    /// File of settings; /etc/dispatch/dispatch.toml where it is there, or dispatch.toml in CONFIGURATION_DIRECTORY
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE)]
    pub(super) config: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Listening")]
pub(super) struct ListeningArguments {
    /// Address for drivers; only this machine unless set
    #[arg(short = 'b', long, alias = "bind", value_name = "HOST", env = "SG_SERVER_HOST", default_value = "127.0.0.1")]
    pub(super) host: String,
    /// Port for drivers
    #[arg(short = 'p', long, value_name = "PORT", env = "SG_SERVER_PORT")]
    #[arg(default_value = "3000", value_parser = number::<u16>(1, 65_535))]
    pub(super) port: u16,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Access")]
pub(super) struct AccessArguments {
    /// Ports that drivers may open, such as `2000-2999,161`; a join of another is refused (403)
    #[arg(long, value_name = "PORTS", env = "DISPATCH_ALLOW_PORTS")]
    #[arg(default_value = "1-65535", value_parser = PortRanges::parse)]
    pub(super) allow_ports: PortRanges,
    /// Addresses and CIDR blocks that drivers may accept devices from; a join with an entry outside is refused (403)
    #[arg(long, value_name = "SOURCES", env = "DISPATCH_ALLOW_SOURCES")]
    #[arg(default_value = "0.0.0.0/0,::/0", value_parser = Sources::parse)]
    pub(super) allow_sources: Sources,
    /// Where drivers may send datagrams: to `any` address, as to broadcasts, or to those that they have `accepted`
    #[arg(long, value_name = "RULE", env = "DISPATCH_UDP_EGRESS", default_value = "any", value_parser = Egress::parse)]
    pub(super) udp_egress: Egress,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Balancers")]
pub(super) struct BalancerArguments {
    /// Addresses and CIDR blocks, or `none`, whose connections to the API begin with a PROXY protocol header (v1 or v2), which
    /// says whose they are; without one they are ended
    #[arg(long, value_name = "SOURCES", env = "DISPATCH_PROXY_FROM", default_value = "none")]
    #[arg(value_parser = Listed::parse)]
    pub(super) proxy_from: Listed,
    /// The same for connections to TCP ports of devices; the address that the header names is the device's
    #[arg(long, value_name = "SOURCES", env = "DISPATCH_DEVICE_PROXY_FROM", default_value = "none")]
    #[arg(value_parser = Listed::parse)]
    pub(super) device_proxy_from: Listed,
    /// Addresses and CIDR blocks, or `none`, of proxies whose `X-Forwarded-For` or `Forwarded` is shown in the log
    #[arg(long, value_name = "SOURCES", env = "DISPATCH_FORWARDED_FROM", default_value = "none")]
    #[arg(value_parser = Listed::parse)]
    pub(super) forwarded_from: Listed,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Upgrades")]
pub(super) struct UpgradeArguments {
    /// Whether to take the sockets over from the daemon that runs, which then drains and ends; nobody is refused meanwhile
    #[arg(long, value_name = "SWITCH", env = "DISPATCH_TAKEOVER", default_value = "off", value_enum)]
    #[arg(num_args = 0..=1, default_missing_value = "on")]
    pub(super) takeover: Switch,
    /// Unix socket at which the daemon can be taken over, by its own user and root; none unless set
    #[arg(long, value_name = "PATH", env = "DISPATCH_TAKEOVER_SOCKET", default_value = "", hide_default_value = true)]
    pub(super) takeover_socket: String,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Shards")]
pub(super) struct ShardArguments {
    /// Shards, a thread and a ring each; 0 for one per core that the process may use
    #[arg(short = 'w', long, value_name = "COUNT", env = "SG_PROCESS_COUNT")]
    #[arg(default_value = "0", value_parser = number::<usize>(0, 1_024))]
    pub(super) workers: usize,
    /// Whether each shard's thread keeps to one core, which spares it cold caches
    #[arg(long, value_name = "SWITCH", env = "DISPATCH_PIN", default_value = "on", value_enum)]
    pub(super) pin: Switch,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Metrics")]
pub(super) struct MetricsArguments {
    /// Whether metrics need no token, for a scraper that has none
    #[arg(long, value_name = "SWITCH", env = "DISPATCH_METRICS_OPEN", default_value = "off", value_enum)]
    #[arg(num_args = 0..=1, default_missing_value = "on")]
    pub(super) metrics_open: Switch,
    /// Whether metrics have series for each open port, five of them
    #[arg(long, value_name = "SWITCH", env = "DISPATCH_METRICS_PORTS", default_value = "on", value_enum)]
    pub(super) metrics_ports: Switch,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logging")]
pub(super) struct LoggingArguments {
    /// `production` logs JSON at info and demands a secret; anything else logs readable lines at debug
    #[arg(long, value_name = "NAME", env = "SG_ENV", default_value = "development")]
    pub(super) environment: String,
    /// A level (off, error, warn, info, debug, trace), or a filter such as `info,uring_dispatch::edge=trace`
    #[arg(long, value_name = "FILTER", env = "LOG_LEVEL")]
    #[arg(default_value = "", hide_default_value = true, value_parser = log_filter)]
    pub(super) log_level: String,
}

/// Whether something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// It is.
    On,
    /// It is not.
    Off,
}

/// What the daemon's program does as another program.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Be a driver in this terminal: print what devices on a port send, and send what is typed
    Listen(ListenArguments),
    /// Watch a port in this terminal: a live copy of its messages in both directions, which slows nobody
    Tap(TapArguments),
    /// Print every setting and where it came from, as the daemon would find them
    CheckConfig(Box<CheckArguments>),
}

/// What is checked.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_CHECK_HELP)]
pub(super) struct CheckArguments {
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) settings: SettingArguments,
}

/// The terminal's driver.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_LISTEN_HELP)]
pub struct ListenArguments {
    /// Transport of the port
    #[arg(value_name = "tcp|udp", value_parser = transport)]
    pub transport: Transport,
    /// Number of the port
    #[arg(value_name = "PORT", value_parser = number::<u16>(1, 65_535))]
    pub port: u16,
    /// Addresses and CIDR blocks of devices, separated by commas
    #[arg(long, value_name = "SOURCES", default_value = "127.0.0.1,::1")]
    pub accept: String,
    /// Which daemon, and how to speak to it
    #[command(flatten)]
    pub daemon: DaemonArguments,
    /// One JSON object a line, and nothing else on standard output
    #[arg(long)]
    pub json: bool,
    /// Send typed lines without the newline
    #[arg(long)]
    pub raw: bool,
}

/// The terminal's tap.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_TAP_HELP)]
pub struct TapArguments {
    /// Transport of the port
    #[arg(value_name = "tcp|udp", value_parser = transport)]
    pub transport: Transport,
    /// Number of the port
    #[arg(value_name = "PORT", value_parser = number::<u16>(1, 65_535))]
    pub port: u16,
    /// One device, or those of one address; IPv6 with an id is `[IP]:ID`. The id of a udp device is its port
    #[arg(long, value_name = "IP[:ID]", value_parser = tapped_device)]
    pub device: Option<String>,
    /// The module id of one driver: what it sends, and what devices that it accepts send
    #[arg(long, value_name = "MODULE")]
    pub driver: Option<String>,
    /// Write a capture (pcapng) with IP and TCP or UDP headers made up; `-` is standard output, and then nothing else is
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Which daemon, and how to speak to it
    #[command(flatten)]
    pub daemon: DaemonArguments,
    /// One JSON object a line, and nothing else on standard output
    #[arg(long)]
    pub json: bool,
}

/// Which daemon, and how to speak to it.
#[derive(Debug, Clone, Args)]
pub struct DaemonArguments {
    /// The daemon, `https://` or `wss://` for TLS; a path other than the usual base path may follow
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:3000")]
    pub url: HttpUrl,
    /// Whom to trust for it, and what to show to it
    #[command(flatten)]
    pub trust: TrustArguments,
}

/// The text of a device, once it is known to be one: the daemon reads it again.
fn tapped_device(text: &str) -> Result<String, String> {
    TappedDevice::parse(text).map(|_| text.to_owned()).ok_or_else(|| "it must be IP, IP:ID or [IP]:ID".to_owned())
}

/// A parser of whole numbers from `min` to `max`.
pub(super) fn number<T: TryFrom<u64> + Clone + Send + Sync>(min: u64, max: u64) -> RangedU64ValueParser<T> {
    RangedU64ValueParser::new().range(min..=max)
}

/// The first address of a host: an address, with or without brackets, or a name.
pub(super) fn resolve(host: &str, port: u16) -> Result<SocketAddr, String> {
    let bare = host.trim().trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, port));
    }
    let mut addresses = (bare, port).to_socket_addrs().map_err(|error| error.to_string())?;
    addresses.next().ok_or_else(|| "the name has no address".to_owned())
}

fn transport(text: &str) -> Result<Transport, &'static str> {
    match text {
        "tcp" => Ok(Transport::Tcp),
        "udp" => Ok(Transport::Udp),
        _ => Err("a transport is tcp or udp"),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    crate::logging::check_filter(text).map(|()| text.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_host_is_an_address_or_a_name() {
        assert_eq!(resolve("0.0.0.0", 8080).unwrap().to_string(), "0.0.0.0:8080");
        assert_eq!(resolve("::", 1).unwrap().to_string(), "[::]:1");
        assert_eq!(resolve("[::1]", 1).unwrap().to_string(), "[::1]:1");
        assert!(resolve("localhost", 1).unwrap().ip().is_loopback());
        assert!(resolve("no such host", 1).is_err());
    }
}
