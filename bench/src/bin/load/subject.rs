//! A process that is measured: the daemon or a baseline, started on its cores and ended.
//!
//! **Invariants.** Only what was started here is signalled, and it is ended also where the run fails.
//! **Not here.** What is done to it (`suite`).

use crate::worker;
use dispatch_bench::daemon::{Daemon, Launch};
use rustix::process::{Pid, Signal, kill_process};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// How long a baseline may take to say that it listens.
const START_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a process may take to end.
const END_TIME_MAX: Duration = Duration::from_secs(15);
/// The secret of every subject.
pub const TOKEN: &str = "of the suite";

/// What is measured. Dropping it kills the process.
#[derive(Debug)]
pub enum Subject {
    /// The daemon.
    Daemon(Daemon),
    /// A baseline.
    Baseline(Child),
}

/// What is started.
#[derive(Debug, Clone)]
pub struct Start<'a> {
    /// Its program.
    pub program: &'a Path,
    /// Where drivers are to find it.
    pub api: SocketAddr,
    /// Its cores.
    pub cpus: &'a [usize],
    /// Where its log goes.
    pub log: PathBuf,
}

impl Subject {
    /// Starts the daemon.
    ///
    /// # Errors
    /// Where it cannot be started or does not answer.
    pub async fn daemon(start: &Start<'_>, shards: usize) -> io::Result<Subject> {
        // A process inherits the cores of the thread that starts it.
        worker::pin(start.cpus)?;
        let launch = Launch {
            program: start.program.to_owned(),
            api: start.api,
            shards,
            flags: Vec::new(),
            token: TOKEN.to_owned(),
            log_level: "warn".to_owned(),
            log: start.log.clone(),
        };
        Ok(Subject::Daemon(Daemon::start(&launch).await?))
    }

    /// Starts a baseline by its name.
    ///
    /// # Errors
    /// Where it cannot be started or does not say that it listens.
    pub async fn baseline(start: &Start<'_>, name: &str) -> io::Result<Subject> {
        worker::pin(start.cpus)?;
        let mut child = Command::new(start.program)
            .args([name, "--api", &start.api.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::OpenOptions::new().create(true).append(true).open(&start.log)?)
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?).lines();
        let line = tokio::time::timeout(START_TIME_MAX, lines.next_line()).await;
        match line.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))? {
            Some(line) if line.starts_with("listening on ") => Ok(Subject::Baseline(child)),
            other => Err(io::Error::other(format!("the baseline said {other:?}"))),
        }
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Subject::Daemon(daemon) => Some(daemon.pid()),
            Subject::Baseline(child) => child.id(),
        }
    }

    /// Tells it to end, and waits for that.
    ///
    /// # Errors
    /// What kill(2) and wait(2) say; `TimedOut` where it does not end, which is killed then.
    pub async fn end(self) -> io::Result<()> {
        match self {
            Subject::Daemon(mut daemon) => {
                daemon.terminate()?;
                daemon.exit(END_TIME_MAX).await?.map(drop)
            }
            Subject::Baseline(mut child) => {
                let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
                kill_process(pid.ok_or(io::ErrorKind::NotFound)?, Signal::TERM)?;
                let ended = tokio::time::timeout(END_TIME_MAX, child.wait()).await;
                ended.ok().transpose()?.map(drop)
            }
        }
        .ok_or_else(|| io::ErrorKind::TimedOut.into())
    }
}
