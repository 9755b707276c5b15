//! Drivers join their ports, where it matters on the shard that is asked for.
//!
//! **Invariants.** Every attempt is bounded in time, and there are so many of them at most.
//! **Not here.** What a driver does then (`session`).

use crate::arguments::Place;
use crate::plan::{Plan, PortPlan};
use crate::session::Session;
use dispatch_bench::driver::{self, Join, JoinError, Joined};
use dispatch_bench::http;
use dispatch_bench::tunnel::Wire;
use std::io;
use std::num::NonZeroU16;
use std::time::Duration;
use uring_dispatch::policy::port_id::PortId;

/// Joins of one driver until it is where it should be.
const ATTEMPTS_MAX: usize = 64;
/// Looks at the shards until a session that left is gone.
const LOOKS_MAX: usize = 200;
const LOOK_STEP: Duration = Duration::from_millis(10);

/// Why a driver did not join as it should.
#[derive(Debug, thiserror::Error)]
pub enum NotJoined {
    /// The daemon refused.
    #[error("port {port} cannot be joined: {error}")]
    Join {
        /// The port.
        port: u16,
        /// Why.
        error: JoinError,
    },
    /// The daemon cannot tell.
    #[error("--place needs a daemon that reports its shards at {0}/shards: {1}")]
    NoShards(String, io::Error),
    /// There is no other shard.
    #[error("with one shard every session is at home")]
    OneShard,
    /// Chance was against it.
    #[error("no join of port {0} came to be where it should in {ATTEMPTS_MAX} attempts")]
    Elsewhere(u16),
    /// The socket says so.
    #[error("the driver's socket failed: {0}")]
    Io(#[from] io::Error),
}

/// Joins all drivers of a run, port by port.
///
/// # Errors
/// [`NotJoined`]; those that have joined leave.
pub async fn all(plan: &Plan) -> Result<Vec<Session>, NotJoined> {
    let mut sessions = Vec::new();
    for (index, port) in plan.ports.iter().enumerate() {
        for driver in 0..plan.drivers {
            let Joined { stream, first } = match plan.place {
                Place::Any => join(plan, *port).await?,
                Place::Home | Place::Away => join_at(plan, *port).await?,
            };
            sessions.push(Session::new(stream.into_std()?, &first, *port, index, driver == 0)?);
        }
    }
    Ok(sessions)
}

async fn join(plan: &Plan, port: PortPlan) -> Result<Joined, NotJoined> {
    let accept = plan.accept();
    let join = Join {
        api: plan.api,
        wire: Wire::Plain,
        base: &plan.base,
        transport: port.transport,
        port: port.number,
        devices: Wire::Plain,
        accept: &accept,
        token: &plan.token,
        receive_bytes: None,
    };
    driver::join(&join).await.map_err(|error| NotJoined::Join { port: port.number, error })
}

/// Joins until the session is where the plan wants it: the kernel chooses the shard that accepts it.
async fn join_at(plan: &Plan, port: PortPlan) -> Result<Joined, NotJoined> {
    let mut before = sessions_by_shard(plan).await?;
    if before.len() < 2 && plan.place == Place::Away {
        return Err(NotJoined::OneShard);
    }
    let number = NonZeroU16::new(port.number).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let home = PortId { transport: port.transport, number }.home(before.len());
    for _ in 0..ATTEMPTS_MAX {
        let joined = join(plan, port).await?;
        let now = sessions_by_shard(plan).await?;
        let at = now.iter().zip(&before).position(|(now, before)| now > before);
        if at.is_some_and(|at| (at == home) == (plan.place == Place::Home)) {
            return Ok(joined);
        }
        drop(joined);
        before = wait_until_left(plan, before.iter().sum()).await?;
    }
    Err(NotJoined::Elsewhere(port.number))
}

/// Waits until there are no more sessions than so many.
async fn wait_until_left(plan: &Plan, sessions: u64) -> Result<Vec<u64>, NotJoined> {
    let mut found = sessions_by_shard(plan).await?;
    for _ in 0..LOOKS_MAX {
        if found.iter().sum::<u64>() <= sessions {
            break;
        }
        tokio::time::sleep(LOOK_STEP).await;
        found = sessions_by_shard(plan).await?;
    }
    Ok(found)
}

async fn sessions_by_shard(plan: &Plan) -> Result<Vec<u64>, NotJoined> {
    let shards = http::each_shard(plan.api, &plan.base, &plan.token).await;
    let shards = shards.map_err(|error| NotJoined::NoShards(plan.base.clone(), error))?;
    Ok(shards.iter().map(|shard| shard.sessions).collect())
}
