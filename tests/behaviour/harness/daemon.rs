//! The daemon under test: started on a port of its own, observed through its API and its log, ended by its own pid.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::baseline::Baseline;
use super::http::{Connection, Response};
use super::{BASES, Driver, Metrics, PATIENCE, Transport, Wire, eventually, free_port, process};

/// Log text kept for a failure's report.
const LOG_BYTES_MAX: usize = 1 << 20;

/// How a daemon is started.
pub struct Setup {
    shards: usize,
    api_port: u16,
    flags: Vec<String>,
    variables: Vec<(String, String)>,
    wrapper: Vec<String>,
    stdin: Stdio,
    public: Option<process::PublicBinary>,
    token: String,
    in_environment: bool,
    name_repeated: bool,
}

impl Setup {
    /// A daemon with this many shards, on a free port, with its own defaults otherwise.
    pub fn new(shards: usize) -> Self {
        Self {
            shards,
            api_port: free_port(),
            flags: Vec::new(),
            variables: Vec::new(),
            wrapper: Vec::new(),
            stdin: Stdio::null(),
            public: None,
            token: "testing".to_owned(),
            in_environment: false,
            name_repeated: false,
        }
    }

    pub fn api_port(mut self, port: u16) -> Self {
        self.api_port = port;
        self
    }

    /// Sets a limit, as `--name value`.
    pub fn limit(mut self, name: &str, value: usize) -> Self {
        self.flags.extend([format!("--{name}"), value.to_string()]);
        self
    }

    /// Sets anything, as `--name value`.
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.extend([format!("--{name}"), value.to_owned()]);
        self
    }

    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the secret, which is then also the token of every request of the harness.
    pub fn secret(mut self, secret: &str) -> Self {
        self.token = secret.to_owned();
        self.variable("PLACE_SERVER_SECRET", secret)
    }

    /// The token of every request of the harness, where the secret is set otherwise.
    pub fn token(mut self, token: &str) -> Self {
        self.token = token.to_owned();
        self
    }

    /// Says host, port and shards by variables and not by flags.
    pub fn told_by_environment(mut self) -> Self {
        self.in_environment = true;
        self
    }

    /// Repeats the program's name, as the usual image does.
    pub fn with_name_repeated(mut self) -> Self {
        self.name_repeated = true;
        self
    }

    /// Starts it with this as its standard input.
    pub fn stdin(mut self, descriptor: OwnedFd) -> Self {
        self.stdin = descriptor.into();
        self
    }

    /// Lets another program start the binary: `wrapper... dispatch args...`.
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper.extend(wrapper.iter().map(|&word| word.to_owned()));
        self
    }

    /// Runs as a user without any privilege; only root can.
    pub fn with_no_privilege(mut self) -> Self {
        self.public = Some(process::PublicBinary::new());
        self.under(&["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"])
    }

    /// Starts the daemon, runs the scenario, and proves that it left nothing behind and that the daemon ends well.
    pub fn run(self, scenario: impl FnOnce(&Daemon)) {
        let daemon = self.start();
        scenario(&daemon);
        daemon.assert_baseline();
        daemon.assert_drains();
    }

    /// Starts the daemon and waits until it is healthy.
    pub fn start(self) -> Daemon {
        let mut daemon = self.spawn();
        let deadline = Instant::now() + PATIENCE;
        while !daemon.is_healthy() {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("the daemon did not start: {status}");
            }
            assert!(Instant::now() < deadline, "the daemon is not healthy");
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon.settle();
        daemon
    }

    /// Starts the daemon and waits for nothing.
    pub fn spawn(self) -> Daemon {
        let mut words = self.wrapper;
        let own = Path::new(env!("CARGO_BIN_EXE_dispatch"));
        let binary = self.public.as_ref().map_or(own, process::PublicBinary::path);
        words.push(binary.to_string_lossy().into_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        if self.name_repeated {
            command.arg("/dispatch");
        }
        process::clear_environment(&mut command);
        let (port, shards) = (self.api_port.to_string(), self.shards.to_string());
        if self.in_environment {
            command.env("SG_SERVER_HOST", "127.0.0.1");
            command.env("SG_SERVER_PORT", port).env("SG_PROCESS_COUNT", shards);
        } else {
            command.args(["-b", "127.0.0.1", "-p", &port, "-w", &shards]);
        }
        command.args(["--pin", "off"]).args(&self.flags);
        command.envs(self.variables);
        command.stdin(self.stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = super::process::started(&mut command);
        let log = Log::default();
        log.follow(child.stdout.take().unwrap());
        log.follow(child.stderr.take().unwrap());
        Daemon {
            child,
            api: (Ipv4Addr::LOCALHOST, self.api_port).into(),
            log,
            baseline: None,
            token: self.token,
            _public: self.public,
        }
    }
}

/// A running daemon; dropping it kills it, and a failing test prints the end of its log.
pub struct Daemon {
    child: Child,
    api: SocketAddr,
    log: Log,
    baseline: Option<Baseline>,
    _public: Option<process::PublicBinary>,
    token: String,
}

impl Daemon {
    pub const fn api(&self) -> SocketAddr {
        self.api
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A new connection to the API.
    pub fn connection(&self) -> Connection {
        Connection::open(self.api)
    }

    /// An authorised GET on a connection of its own.
    pub fn fetch(&self, target: &str) -> Response {
        self.ask("GET", target)
    }

    /// An authorised request on a connection of its own.
    pub fn ask(&self, method: &str, target: &str) -> Response {
        let mut connection = self.connection();
        let response = connection.request(method, target, &format!("{}Connection: close\r\n", self.authorization()));
        connection.ends();
        response
    }

    pub fn statistics(&self) -> serde_json::Value {
        self.fetch(BASES[0]).json()
    }

    /// Waits until the statistics say exactly this.
    pub fn until_statistics(&self, expected: &serde_json::Value) {
        let mut last = serde_json::Value::Null;
        let deadline = Instant::now() + PATIENCE;
        while last != *expected {
            assert!(Instant::now() < deadline, "statistics: {last} instead of {expected}");
            std::thread::sleep(Duration::from_millis(5));
            last = self.statistics();
        }
    }

    /// One of the things that all shards hold in all: sessions, ports, devices, tasks.
    pub fn held(&self, name: &str) -> u64 {
        let shards = self.shards();
        let shards = shards["shards"].as_array().unwrap();
        shards.iter().map(|shard| shard[name].as_u64().expect(name)).sum()
    }

    /// A counter, over all shards.
    pub fn count(&self, name: &str) -> u64 {
        let shards = self.shards();
        let shards = shards["shards"].as_array().unwrap();
        let count = |shard: &serde_json::Value| shard["counts"][name].as_u64();
        shards.iter().map(|shard| count(shard).unwrap_or_else(|| panic!("no {name} in {shard}"))).sum()
    }

    /// Waits until a counter has reached this.
    pub fn until_count(&self, name: &str, least: u64) {
        eventually(&format!("{name} reaches {least}"), || (self.count(name) >= least).then_some(()));
    }

    /// Joins a port, or says how that was refused.
    pub fn try_join(&self, transport: Transport, port: &str, accept: &str) -> Result<Driver, Response> {
        let target = join_target(BASES[0], transport, port, accept);
        self.upgrade(&target, "").map(|connection| {
            let (stream, pending) = connection.into_parts();
            Driver::new(stream, pending)
        })
    }

    /// Joins a port for these sources.
    pub fn join(&self, transport: Transport, port: u16, accept: &str) -> Driver {
        self.try_join(transport, &port.to_string(), accept).unwrap_or_else(|response| panic!("refused: {response:?}"))
    }

    /// Joins a port as a driver with this module id.
    pub fn join_as(&self, module: &str, transport: Transport, port: u16, accept: &str) -> Driver {
        let target = join_target(BASES[0], transport, &port.to_string(), accept);
        let connection = self.upgrade(&target, &format!("X-Module-ID: {module}\r\n"));
        let (stream, pending) = connection.unwrap_or_else(|response| panic!("refused: {response:?}")).into_parts();
        Driver::new(stream, pending)
    }

    pub fn join_tcp(&self, port: u16, accept: &str) -> Driver {
        self.join(Transport::Tcp, port, accept)
    }

    pub fn join_udp(&self, port: u16, accept: &str) -> Driver {
        self.join(Transport::Udp, port, accept)
    }

    /// The refusal of a join that must not succeed.
    pub fn refusal(&self, transport: Transport, port: &str, accept: &str) -> Response {
        match self.try_join(transport, port, accept) {
            Ok(_) => panic!("a join of port {port} for {accept:?} was not refused"),
            Err(response) => response,
        }
    }

    /// Joins a port, to speak in frames.
    pub fn wire(&self, transport: Transport, port: u16, accept: &str) -> Wire {
        let target = join_target(BASES[1], transport, &port.to_string(), accept);
        let connection = self.upgrade(&target, "").unwrap_or_else(|response| panic!("refused: {response:?}"));
        let (stream, pending) = connection.into_parts();
        Wire::new(stream, pending)
    }

    /// Asks for an upgrade with the right token; `extra` is whole header lines.
    pub fn upgrade(&self, target: &str, extra: &str) -> Result<Connection, Response> {
        let mut connection = self.connection();
        let headers = format!("{}{UPGRADE}{extra}", self.authorization());
        let response = connection.request("GET", target, &headers);
        if response.status != 101 {
            return Err(response);
        }
        // The key and its answer are those of RFC 6455, section 1.3.
        assert_eq!(response.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(response.header("upgrade").unwrap().eq_ignore_ascii_case("websocket"));
        assert!(response.header("connection").unwrap().eq_ignore_ascii_case("upgrade"));
        Ok(connection)
    }

    /// What the daemon has logged, or the last of it.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// How much the daemon has logged in all.
    pub fn log_bytes(&self) -> u64 {
        self.log.0.lock().unwrap().bytes
    }

    /// Waits until the log has this text.
    pub fn until_logged(&self, text: &str) {
        eventually(&format!("{text:?} in the log"), || self.log().contains(text).then_some(()));
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// How the daemon ends, which it does by itself. Its log is whole then.
    pub fn exits(&mut self) -> ExitStatus {
        let status = super::program::exits(&mut self.child, "the daemon");
        eventually("its log is read", || self.log.is_whole().then_some(()));
        status
    }

    /// Fails unless SIGTERM ends an idle daemon at once and with 0.
    pub fn assert_drains(mut self) {
        self.signal(Signal::TERM);
        let status = self.exits();
        assert!(status.success(), "an idle daemon ended with {status}");
    }

    /// Fails unless everything that was held since the start is given back in time.
    pub fn assert_baseline(&self) {
        let before = self.baseline.as_ref().expect("a started daemon has its baseline");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let after = self.observe();
            if after.is_within(before) {
                return;
            }
            assert!(Instant::now() < deadline, "left behind: {after:#?}\nat the start: {before:#?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn authorization(&self) -> String {
        format!("Authorization: Bearer {}\r\n", self.token)
    }

    fn settle(&mut self) {
        let mut samples = vec![self.observe()];
        let settled = eventually("what an idle daemon holds stays the same", || {
            // Longer than a busy machine takes to be done with the last question.
            std::thread::sleep(Duration::from_millis(20));
            samples.push(self.observe());
            let last = samples.iter().rev().take(3).collect::<Vec<_>>();
            (last.len() == 3 && last.windows(2).all(|pair| pair[0] == pair[1])).then(|| last[0].clone())
        });
        self.baseline = Some(settled);
    }

    fn observe(&self) -> Baseline {
        Baseline::new(self.pid(), &self.shards(), &Metrics::parse(self.fetch("/metrics").text()))
    }

    /// What each shard says of itself.
    pub fn shards(&self) -> serde_json::Value {
        self.fetch(&format!("{}/shards", BASES[1])).json()
    }

    fn is_healthy(&self) -> bool {
        // Refused or reset while it starts, so nothing here may fail the test.
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(self.api)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            write!(stream, "GET {}/healthz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", BASES[0])?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let text = self.log.text();
            let start = text.len().saturating_sub(16 * 1024);
            let start = (start..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(start);
            eprintln!("---- the daemon's log ----\n{}", &text[start..]);
        }
    }
}

/// The headers of an upgrade, with the key of RFC 6455, section 1.3.
pub const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// The request target that joins a port, its values encoded as drivers encode them.
pub fn join_target(base: &str, transport: Transport, port: &str, accept: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("port", port).append_pair("accept", accept);
    format!("{base}/{}?{}", transport.route(), query.finish())
}

/// The daemon's output, read by threads that end with it.
#[derive(Default, Clone)]
struct Log(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    kept: Vec<u8>,
    bytes: u64,
    /// Outputs that have not ended.
    open: usize,
}

impl Log {
    fn follow(&self, mut source: impl Read + Send + 'static) {
        let log = self.clone();
        self.0.lock().unwrap().open += 1;
        std::thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(size @ 1..) = source.read(&mut buffer) {
                let mut lines = log.0.lock().unwrap();
                lines.bytes += size as u64;
                lines.kept.extend_from_slice(&buffer[..size]);
                if lines.kept.len() > 2 * LOG_BYTES_MAX {
                    let excess = lines.kept.len() - LOG_BYTES_MAX;
                    lines.kept.drain(..excess);
                }
            }
            log.0.lock().unwrap().open -= 1;
        });
    }

    fn is_whole(&self) -> bool {
        self.0.lock().unwrap().open == 0
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap().kept).into_owned()
    }
}
