//! Who comes in: the check of a request's token, and how an address that keeps failing it is slowed down.
//!
//! **Invariants.** Right and wrong tokens of an address wait alike. A wait ends early when its connection is let go. No
//! token is logged.
//! **Not here.** How slow (`policy::attempts`), which routes need a token (`routes`), what a driver may do inside
//! (`policy::access`).

use crate::policy::attempts::{Attempts, Verdict};
use crate::policy::budget::Budget;
use crate::policy::counts::Count;
use crate::policy::refusals;
use crate::shard::log_gate::AddressLogGate;
use crate::shard::resources::Resources;
use crate::shard::waiting::Waiting;
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// One shard's door.
pub struct Door {
    resources: Rc<Resources>,
    attempts: RefCell<Attempts>,
    started_at: Instant,
    refused_log: AddressLogGate,
}

/// A request that needs a token, and where it comes from.
pub struct Caller<'a> {
    /// Its address, in canonical form.
    pub remote_ip: IpAddr,
    /// Its address for the log, which a proxy may have told.
    pub told_ip: IpAddr,
    /// The port of the API that it came to.
    pub server_port: u16,
    /// Its id, for the log.
    pub request_id: &'a str,
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Its token is wrong or missing.
    WrongToken,
    /// Too many tokens from its address were; this one was not looked at.
    TooManyFailed,
}

impl Refused {
    /// A name for lists and logs.
    pub fn name(self) -> &'static str {
        match self {
            Refused::WrongToken => "invalid",
            Refused::TooManyFailed => "too_many_failed",
        }
    }
}

impl Door {
    /// A door with no address in bad repute.
    pub fn new(resources: Rc<Resources>) -> Self {
        Door {
            resources,
            attempts: RefCell::default(),
            started_at: Instant::now(),
            refused_log: AddressLogGate::default(),
        }
    }

    /// Lets a request in or not by the token that it presents, and says which sessions its token has. Waits for up to 2 s where its address has failed often, for less where `waiting` is
    /// let go.
    ///
    /// # Errors
    /// Why not.
    pub async fn let_in(
        &self,
        presented: &str,
        caller: Caller<'_>,
        waiting: Option<&Waiting>,
    ) -> Result<Budget, Refused> {
        let mut verdict = self.ask(caller.remote_ip);
        if let Verdict::Wait(time) = verdict {
            // Those that waited beside this one may have failed meanwhile.
            verdict = if wait(time, waiting).await { self.ask(caller.remote_ip) } else { Verdict::Refuse };
        }
        if verdict == Verdict::Refuse {
            self.resources.counts.one(Count::TokensUnchecked);
            return Err(self.refuse(caller, Refused::TooManyFailed));
        }
        if let Some(sessions) = self.resources.rules().token.sessions_of(presented) {
            return Ok(sessions.clone());
        }
        self.attempts.borrow_mut().failed(caller.remote_ip, self.started_at.elapsed());
        self.resources.counts.one(Count::TokensRefused);
        Err(self.refuse(caller, Refused::WrongToken))
    }

    fn refuse(&self, caller: Caller<'_>, refused: Refused) -> Refused {
        let Caller { remote_ip, told_ip, server_port, request_id } = caller;
        let reason = refused.name();
        self.resources.refused(refusals::Refused::Token, remote_ip, None, reason);
        if let Some(left_out) = self.refused_log.pass(told_ip) {
            tracing::warn!(remote_ip = %told_ip, server_port, reason, request_id, left_out, "token refused");
        }
        refused
    }

    fn ask(&self, remote_ip: IpAddr) -> Verdict {
        self.attempts.borrow().ask(remote_ip, self.started_at.elapsed())
    }
}

/// Waits; false where the connection is let go before.
async fn wait(time: Duration, waiting: Option<&Waiting>) -> bool {
    let waited = tokio::time::sleep(time);
    let Some(waiting) = waiting else {
        waited.await;
        return true;
    };
    tokio::select! {
        () = waited => true,
        () = waiting.until_let_go() => false,
    }
}
