//! The daemon as a process of ours: started, told to stop, waited for.
//!
//! **Invariants.** Only the process that was started here is ever signalled; it is killed when its value drops. Its
//! environment is empty but for what is set here, so that the caller's settings do not change a run.
//! **Not here.** What it serves (`http`, `driver`).

use crate::http;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::OpenOptions;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// How long the daemon may take to answer after its start.
const START_TIME_MAX: Duration = Duration::from_secs(10);
const START_STEP: Duration = Duration::from_millis(20);

/// How the daemon is started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Where it listens for drivers.
    pub api: SocketAddr,
    /// Its shards.
    pub shards: usize,
    /// Further flags.
    pub flags: Vec<String>,
    /// The secret that drivers show.
    pub token: String,
    /// What it logs.
    pub log_level: String,
    /// Where both its outputs go; appended to.
    pub log: PathBuf,
}

/// A running daemon. Dropping it kills the process.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    pid: u32,
}

impl Daemon {
    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// Where it cannot be started, or does not answer within 10 s.
    pub async fn start(launch: &Launch) -> io::Result<Daemon> {
        let mut daemon = Daemon::spawn(launch)?;
        let is_there = async || {
            let answer = http::get(launch.api, "/api/server/healthz", &launch.token).await;
            answer.is_ok_and(|answer| answer.status == 200)
        };
        daemon.wait_until(launch, is_there).await?;
        Ok(daemon)
    }

    /// Starts the daemon, and does not wait.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn spawn(launch: &Launch) -> io::Result<Daemon> {
        let log = OpenOptions::new().create(true).append(true).open(&launch.log)?;
        let child = Command::new(&launch.program)
            .args(["-b", &launch.api.ip().to_string(), "-p", &launch.api.port().to_string()])
            .args(["-w", &launch.shards.to_string()])
            .args(&launch.flags)
            .env_clear()
            .env("PLACE_SERVER_SECRET", &launch.token)
            .env("LOG_LEVEL", &launch.log_level)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("the daemon ended at once"))?;
        Ok(Daemon { child, pid })
    }

    /// Waits until something holds of it.
    ///
    /// # Errors
    /// Where it ends before, or 10 s pass.
    pub async fn wait_until(&mut self, launch: &Launch, mut holds: impl AsyncFnMut() -> bool) -> io::Result<()> {
        let until = Instant::now() + START_TIME_MAX;
        loop {
            if holds().await {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("the daemon ended with {status}, see {}", launch.log.display())));
            }
            if Instant::now() > until {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the daemon does not answer"));
            }
            tokio::time::sleep(START_STEP).await;
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// What wait(2) says.
    pub fn has_ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Sends SIGTERM.
    ///
    /// # Errors
    /// What kill(2) says.
    pub fn terminate(&self) -> io::Result<()> {
        // Not reaped yet, as only `wait` does that: the id is still ours.
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(kill_process(pid, Signal::TERM)?)
    }

    /// Waits for its end; `None` where it does not come in time.
    ///
    /// # Errors
    /// What wait(2) says.
    pub async fn exit(&mut self, within: Duration) -> io::Result<Option<ExitStatus>> {
        tokio::time::timeout(within, self.child.wait()).await.map_or(Ok(None), |status| status.map(Some))
    }
}
