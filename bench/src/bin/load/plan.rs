//! What a run does, checked: a scenario's defaults, and what the command line says.
//!
//! **Invariants.** A plan can be run: every number is in its bounds, and there are descriptors for it.
//! **Not here.** Running it (`run`).

use crate::arguments::{Options, Place, Scenario};
use crate::payload::MESSAGE_BYTES_MAX;
use crate::sizes::Sizes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;
use uring_dispatch::policy::port_id::Transport;

/// What a datagram holds at most.
const DATAGRAM_BYTES_MAX: usize = 65_507;
/// Messages of one send at most.
const BATCH_MAX: usize = 64;
/// Bytes under way in all, unless `--under-way` says otherwise.
const BYTES_UNDER_WAY: u64 = 16 << 20;
/// The same for datagrams, which no one holds back.
const DATAGRAM_BYTES_UNDER_WAY: u64 = 128 << 10;
/// Source addresses at most: 250 in each of 250 blocks.
const SOURCES_MAX: usize = 62_500;
const SECONDS_MAX: f64 = 86_400.0;
/// Descriptors for all but devices and drivers.
const DESCRIPTORS_KEPT: usize = 64;

/// Which way messages of a port go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// From devices to drivers.
    Up,
    /// From the first driver to devices.
    Down,
    /// From devices to the first driver and back.
    Echo,
    /// Nowhere.
    Hold,
    /// From devices that connect for one message.
    Churn,
}

/// One port of a run.
#[derive(Debug, Clone, Copy)]
pub struct PortPlan {
    /// Its number.
    pub number: u16,
    /// How devices reach it.
    pub transport: Transport,
    /// Which way its messages go.
    pub flow: Flow,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The scenario's name.
    pub scenario: &'static str,
    /// Where drivers join.
    pub api: SocketAddr,
    /// The base path there.
    pub base: String,
    /// The secret.
    pub token: String,
    /// The ports; device N belongs to port N modulo their count.
    pub ports: Vec<PortPlan>,
    /// Drivers of each port.
    pub drivers: usize,
    /// Devices in all.
    pub devices: usize,
    /// Bytes of a message.
    pub sizes: Sizes,
    /// Messages a second in all; `None` to send as messages arrive.
    pub rate: Option<f64>,
    /// Messages under way for each device where there is no rate.
    pub under_way: u64,
    /// Messages of one send of a device.
    pub batch: usize,
    /// Load before the measurement.
    pub warm_up: Duration,
    /// What is measured.
    pub duration: Duration,
    /// Source addresses.
    pub sources: usize,
    /// Cores, a thread each; none for one thread that is not pinned.
    pub cpus: Vec<usize>,
    /// The daemon's process.
    pub pid: Option<u32>,
    /// Where sessions are to be.
    pub place: Place,
}

/// Why there is no such run.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The URL names no address.
    #[error("{0:?} is no URL such as http://127.0.0.1:3000/api/server")]
    Url(String),
    /// A list of cores is none.
    #[error("{0:?} is no list of cores such as 1 or 2-5,8")]
    Cpus(String),
    /// A number is out of its bounds.
    #[error("{name} is {least} to {most}, not {found}")]
    OutOfBounds {
        /// The option.
        name: &'static str,
        /// The least.
        least: usize,
        /// The most.
        most: usize,
        /// What was asked for.
        found: f64,
    },
    /// Too few descriptors.
    #[error("{wanted} descriptors are needed and {limit} allowed: raise `ulimit -Hn`, or ask for fewer devices")]
    Descriptors {
        /// What the run needs.
        wanted: usize,
        /// What the process may have.
        limit: u64,
    },
}

/// What a scenario is where the command line says nothing.
struct Defaults {
    scenario: &'static str,
    flow: Flow,
    transport: Transport,
    devices: usize,
    size: &'static str,
    rate: f64,
    drivers: usize,
    ports: usize,
    sources: usize,
}

impl Default for Defaults {
    fn default() -> Self {
        Defaults {
            scenario: "ingress",
            flow: Flow::Up,
            transport: Transport::Tcp,
            devices: 100,
            size: "64",
            rate: 0.0,
            drivers: 1,
            ports: 1,
            sources: 1,
        }
    }
}

impl Defaults {
    fn of(scenario: &Scenario) -> (Defaults, &Options) {
        let base = Defaults::default();
        match scenario {
            Scenario::Ingress(options) => (base, options),
            Scenario::Egress(options) => (Defaults { scenario: "egress", flow: Flow::Down, ..base }, options),
            Scenario::Echo(options) => {
                (Defaults { scenario: "echo", flow: Flow::Echo, devices: 1_000, rate: 20_000.0, ..base }, options)
            }
            Scenario::Udp(options) => (Defaults { scenario: "udp", transport: Transport::Udp, ..base }, options),
            Scenario::Bulk(options) => (Defaults { scenario: "bulk", devices: 10, size: "65536", ..base }, options),
            Scenario::Idle(options) => {
                (Defaults { scenario: "idle", flow: Flow::Hold, devices: 15_000, ..base }, options)
            }
            Scenario::Churn(options) => {
                (Defaults { scenario: "churn", flow: Flow::Churn, rate: 500.0, sources: 64, ..base }, options)
            }
            Scenario::Fanout(options) => (Defaults { scenario: "fanout", drivers: 4, ..base }, options),
            Scenario::Ports(options) => (Defaults { scenario: "ports", ports: 64, devices: 640, ..base }, options),
            Scenario::Mixed(options) => {
                (Defaults { scenario: "mixed", ports: 5, rate: 5_000.0, sources: 64, ..base }, options)
            }
        }
    }
}

impl Plan {
    /// The run of a scenario. It raises the limit of descriptors as far as it may.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn of(scenario: &Scenario) -> Result<Plan, PlanError> {
        let (defaults, options) = Defaults::of(scenario);
        let (api, base) = address(&options.url)?;
        let devices = within("--devices", options.devices.unwrap_or(defaults.devices), 1, 1_000_000)?;
        let port_count = within("--ports", options.ports.unwrap_or(defaults.ports), 1, 10_000)?;
        let ports_left = usize::from(u16::MAX - options.first_port) + 1;
        within("--first-port and --ports", port_count, 1, ports_left)?;
        let sizes = options.size.clone().map_or_else(|| defaults.size.parse(), Ok);
        let sizes: Sizes = sizes.map_err(|_| PlanError::Url(defaults.size.to_owned()))?;
        let ports = (0..port_count).map(|index| defaults.port(index, options.first_port)).collect::<Vec<_>>();
        let is_datagrams = ports.iter().any(|port| port.transport == Transport::Udp);
        within("--size", sizes.max(), 1, if is_datagrams { DATAGRAM_BYTES_MAX } else { MESSAGE_BYTES_MAX })?;
        let rate = options.rate.unwrap_or(defaults.rate);
        let under_way =
            options.under_way.unwrap_or_else(|| under_way(defaults.flow, defaults.transport, devices, sizes.max()));
        let plan = Plan {
            scenario: defaults.scenario,
            api,
            base,
            token: options.token.clone(),
            ports,
            drivers: within("--drivers", options.drivers.unwrap_or(defaults.drivers), 1, 1_000)?,
            devices,
            sizes,
            rate: (rate > 0.0).then_some(rate),
            under_way: within("--under-way", under_way as usize, 1, 1_000_000)? as u64,
            batch: within("--batch", options.batch, 1, BATCH_MAX)?,
            warm_up: seconds("--warm-up", options.warm_up)?,
            duration: seconds("--duration", options.duration)?,
            sources: within("--sources", options.sources.unwrap_or(defaults.sources), 1, SOURCES_MAX)?,
            cpus: options.cpus.as_deref().map_or(Ok(Vec::new()), cpus)?,
            pid: options.pid,
            place: options.place,
        };
        raise_descriptors(plan.devices + plan.ports.len() * plan.drivers + DESCRIPTORS_KEPT)?;
        Ok(plan)
    }

    /// Threads that carry the load.
    pub fn workers(&self) -> usize {
        self.cpus.len().max(1)
    }

    /// The port of a device.
    pub fn port_of(&self, device: usize) -> usize {
        device % self.ports.len()
    }

    /// Devices of a port.
    pub fn devices_of(&self, port: usize) -> usize {
        (self.devices + self.ports.len() - 1 - port) / self.ports.len()
    }

    /// Devices that stay, of all ports with connections.
    pub fn devices_held(&self) -> usize {
        let is_held = |port: &PortPlan| port.transport == Transport::Tcp && port.flow != Flow::Churn;
        let ports = self.ports.iter().enumerate().filter(|(_, port)| is_held(port));
        ports.map(|(index, _)| self.devices_of(index)).sum()
    }

    /// The address that a device comes from; `None` where there is but one.
    pub fn source_of(&self, device: usize) -> Option<IpAddr> {
        let index = device % self.sources;
        let octet = |index: usize| (index % 250) as u8;
        (self.sources > 1).then(|| IpAddr::V4(Ipv4Addr::new(127, 1, octet(index / 250), octet(index) + 1)))
    }

    /// The accept list of every driver.
    pub fn accept(&self) -> String {
        match self.sources {
            1 if self.api.ip().is_loopback() => self.api.ip().to_string(),
            1 => "0.0.0.0/0,::/0".to_owned(),
            _ => "127.1.0.0/16".to_owned(),
        }
    }
}

impl Defaults {
    fn port(&self, index: usize, first: u16) -> PortPlan {
        let (transport, flow) = match (self.scenario, index % 5) {
            ("mixed", 1) => (Transport::Tcp, Flow::Down),
            ("mixed", 2) => (Transport::Tcp, Flow::Echo),
            ("mixed", 3) => (Transport::Udp, Flow::Up),
            ("mixed", 4) => (Transport::Tcp, Flow::Churn),
            _ => (self.transport, self.flow),
        };
        PortPlan { number: first + index as u16, transport, flow }
    }
}

/// As many messages as keep a daemon busy and memory small; of datagrams as many as a socket's buffer holds, and one for
/// a round trip.
fn under_way(flow: Flow, transport: Transport, devices: usize, size: usize) -> u64 {
    let devices = devices as u64;
    let by_bytes = |bytes: u64| (bytes / (devices * size as u64)).max(1);
    match (flow, transport) {
        (Flow::Echo, _) => 1,
        (_, Transport::Tcp) => (4_096 / devices).clamp(8, 1_024).min(by_bytes(BYTES_UNDER_WAY)),
        (_, Transport::Udp) => (128 / devices).max(1).min(by_bytes(DATAGRAM_BYTES_UNDER_WAY)),
    }
}

fn within(name: &'static str, found: usize, least: usize, most: usize) -> Result<usize, PlanError> {
    let is_within = (least..=most).contains(&found);
    is_within.then_some(found).ok_or(PlanError::OutOfBounds { name, least, most, found: found as f64 })
}

fn seconds(name: &'static str, found: f64) -> Result<Duration, PlanError> {
    let out_of_bounds = PlanError::OutOfBounds { name, least: 0, most: SECONDS_MAX as usize, found };
    if (0.0..=SECONDS_MAX).contains(&found) { Ok(Duration::from_secs_f64(found)) } else { Err(out_of_bounds) }
}

/// The address and base path of a URL; a scheme is tolerated, and a name is looked up.
fn address(url: &str) -> Result<(SocketAddr, String), PlanError> {
    let not_a_url = || PlanError::Url(url.to_owned());
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("ws://")).unwrap_or(url);
    let (host, path) = rest.split_once('/').unwrap_or((rest, "api/server"));
    let path = if path.is_empty() { "api/server" } else { path.trim_end_matches('/') };
    let address = host.to_socket_addrs().ok().and_then(|mut found| found.next()).ok_or_else(not_a_url)?;
    Ok((address, format!("/{path}")))
}

/// The cores of a list with ranges.
///
/// # Errors
/// [`PlanError::Cpus`].
pub fn cpus(list: &str) -> Result<Vec<usize>, PlanError> {
    let mut cpus = Vec::new();
    for entry in list.split(',') {
        let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
        match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            (Ok(first), Ok(last)) if first <= last && last < 1_024 => cpus.extend(first..=last),
            _ => return Err(PlanError::Cpus(list.to_owned())),
        }
    }
    Ok(cpus)
}

fn raise_descriptors(wanted: usize) -> Result<(), PlanError> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // What it comes to is looked at below.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if wanted as u64 > limit { Err(PlanError::Descriptors { wanted, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Arguments, Command};
    use clap::Parser;

    fn plan(line: &str) -> Result<Plan, PlanError> {
        match Arguments::try_parse_from(line.split(' ')).expect("a command line").command {
            Command::One(scenario) => Plan::of(&scenario),
            Command::Suite(_) => panic!("{line} is no scenario"),
        }
    }

    #[test]
    fn a_url_gives_address_and_base_path() {
        let (api, base) = address("http://127.0.0.1:8080/api/dispatch/v1/").expect("a URL");
        assert_eq!((api.port(), base.as_str()), (8_080, "/api/dispatch/v1"));
        assert_eq!(address("127.0.0.1:3000").expect("an address").1, "/api/server");
        assert!(address("nowhere").is_err());
    }

    #[test]
    fn cores_are_numbers_and_ranges() {
        assert_eq!(cpus("1,4-6").expect("a list"), [1, 4, 5, 6]);
        for list in ["", "x", "3-1", "1,", "5000"] {
            assert!(cpus(list).is_err(), "{list:?}");
        }
    }

    #[test]
    fn devices_are_spread_over_the_ports() {
        let plan = plan("dispatch-load ports --ports 3 --devices 8").expect("a plan");
        let devices: Vec<usize> = (0..3).map(|port| plan.devices_of(port)).collect();
        assert_eq!(devices, [3, 3, 2]);
        assert_eq!(plan.devices_held(), 8);
    }

    #[test]
    fn sources_are_addresses_of_one_block() {
        let plan = plan("dispatch-load ingress --sources 300").expect("a plan");
        assert_eq!(plan.source_of(299).expect("a source").to_string(), "127.1.1.50");
        assert_eq!(plan.accept(), "127.1.0.0/16");
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        for line in ["ingress --devices 0", "ingress --devices 900000", "udp --size 70000", "echo --duration -1"] {
            let line = format!("dispatch-load {}", line.replace("--duration -1", "--duration=-1"));
            assert!(plan(&line).is_err(), "{line}");
        }
    }

    #[test]
    fn what_is_under_way_is_bounded_in_bytes() {
        let tcp = |flow, devices, size| under_way(flow, Transport::Tcp, devices, size);
        assert_eq!(tcp(Flow::Up, 1, 64), 1_024);
        assert_eq!(tcp(Flow::Up, 5_000, 64), 8);
        assert_eq!(tcp(Flow::Up, 10, 65_536), 25);
        assert_eq!(tcp(Flow::Up, 5_000, 65_536), 1);
        assert_eq!(tcp(Flow::Echo, 10, 64), 1);
        assert_eq!(under_way(Flow::Up, Transport::Udp, 10, 64), 12);
    }
}
