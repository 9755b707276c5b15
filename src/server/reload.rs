//! Reloading: the settings are read again while the daemon runs, and what has changed reaches every shard.
//!
//! **Invariants.** Files are read on a thread of their own, one load at a time; a load that fails changes nothing. Each
//! shard takes the rules whole, through its mailbox, and one that does not turn holds nothing up for long. No session and no
//! device ends by a reload.
//! **Not here.** What may change (`config::changes`), what a shard does with its rules (`shard`, `edge`).

use super::certificates;
use super::{Event, StartError};
use crate::config::effective::Effective;
use crate::config::{self, Change, Config, ConfigError, Loaded, Loader, TlsConfig};
use crate::logging;
use crate::policy::limits::Limits;
use crate::policy::rules::Rules;
use crate::policy::token::Token;
use crate::shard::mailbox::Request;
use crate::shard::resources::Shared;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a reload waits for the shards to go by what it brings.
const TAKEN_TIME_MAX: Duration = Duration::from_secs(5);
/// The longest value that is logged; a list of sources may have thousands of entries.
const VALUE_CHARS_MAX: usize = 256;

/// The settings of a daemon that runs, and the way to change them.
pub(super) struct Reloader {
    loader: Arc<Loader>,
    /// What is in force.
    loaded: Loaded,
    descriptors: u64,
    /// Whose sessions are counted on.
    token: Token,
    shared: Shared,
    events: mpsc::Sender<Event>,
    state: State,
}

/// Whether settings are being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Loading,
    /// Asked for again since the load began: it may have read the old.
    LoadingOnce,
}

impl Reloader {
    /// A reloader of the settings with which the shards have started.
    pub(super) fn new(
        (loaded, loader): (Loaded, Loader),
        descriptors: u64,
        token: Token,
        shared: Shared,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Reloader { loader: Arc::new(loader), loaded, descriptors, token, shared, events, state: State::Idle }
    }

    /// Warns where the certificate of the API expires soon.
    pub(super) fn warn_of_expiry(&self) {
        self.loaded.config.tls.iter().for_each(|tls| certificates::warn(&tls.identity));
    }

    /// The bounds, as of now.
    pub(super) fn limits(&self) -> Limits {
        self.loaded.config.limits
    }

    /// Whether no settings are being read.
    pub(super) fn is_idle(&self) -> bool {
        self.state == State::Idle
    }

    /// Begins to read the settings; [`Event::Loaded`] brings them to [`finish`](Self::finish).
    pub(super) fn begin(&mut self) {
        if self.state != State::Idle {
            self.state = State::LoadingOnce;
            return;
        }
        tracing::info!("told to reload: reading the settings");
        let (loader, events) = (self.loader.clone(), self.events.clone());
        let load = move || {
            // The process ends without it.
            let _ = events.blocking_send(Event::Loaded(Box::new(loader.load())));
        };
        match std::thread::Builder::new().name("reload".into()).spawn(load) {
            Ok(_) => self.state = State::Loading,
            Err(error) => self.refuse(&StartError::Thread(error)),
        }
    }

    /// Brings about what was read.
    pub(super) async fn finish(&mut self, loaded: Result<Loaded, ConfigError>) {
        match loaded {
            Ok(newer) => self.take_over(newer).await,
            Err(error) => self.refuse(&error),
        }
        if std::mem::replace(&mut self.state, State::Idle) == State::LoadingOnce {
            self.begin();
        }
    }

    fn refuse(&self, error: &dyn std::fmt::Display) {
        self.shared.reloads.failed();
        tracing::error!(%error, "the settings were not reloaded; those from before stay in force");
    }

    /// Everything that a reload changes, in one place.
    async fn take_over(&mut self, newer: Loaded) {
        let changes = self.loaded.take_over(newer);
        let config = &self.loaded.config;
        if changes.applied.iter().any(|change| change.after.name() == "log_level")
            && let Err(error) = logging::set_start_filter(config.log_level())
        {
            tracing::warn!(%error, "what is logged was not changed");
        }
        let mut rules = rules(config, self.descriptors);
        rules.token = rules.token.after(&self.token, rules.limits.sessions_per_token_max);
        self.token = rules.token.clone();
        let rules = Arc::new(rules);
        self.shared.set_limits(&rules.limits);
        let peers = &self.shared.peers;
        let identify = async {
            if let Some(TlsConfig { identity, .. }) = &config.tls {
                peers.ask_all(|reply| Request::Identify { identity: identity.clone(), reply }).await;
                certificates::warn(identity);
            }
        };
        // Beside each other, so that a shard that does not turn keeps neither from the others.
        let taken =
            async { tokio::join!(peers.ask_all(|reply| Request::SetRules { rules: rules.clone(), reply }), identify) };
        let is_taken = tokio::time::timeout(TAKEN_TIME_MAX, taken).await.is_ok();
        for Change { before, after } in &changes.applied {
            let (setting, origin) = (after.name(), after.origin());
            let (before, after) = (shown(before), shown(after));
            tracing::info!(setting, before, after, origin, "a setting was changed");
        }
        for Change { before, after } in &changes.waiting {
            let (setting, origin) = (after.name(), after.origin());
            let (before, after) = (shown(before), shown(after));
            tracing::warn!(setting, before, after, origin, "a setting was changed that needs a restart");
        }
        for warning in &changes.warnings {
            tracing::warn!("{warning}");
        }
        if is_taken {
            self.shared.reloads.succeeded(self.shared.started.now());
            let (changed, waiting) = (changes.applied.len(), changes.waiting.len());
            tracing::info!(changed, waiting, "the settings were reloaded");
        } else {
            self.shared.reloads.failed();
            tracing::error!("shards have not taken the settings in time: reload again when all of them turn");
        }
    }
}

/// The value of a setting for the log; none where there is none.
fn shown(setting: &Effective) -> Option<String> {
    setting.value.as_ref().map(|value| value.chars().take(VALUE_CHARS_MAX).collect())
}

/// The rules that a configuration makes, where the process may have so many descriptors.
pub(super) fn rules(config: &Config, descriptors: u64) -> Rules {
    let mut limits = config.limits;
    limits.devices_max = config::devices_max(descriptors, limits.devices_max);
    limits.handshakes_max = config::handshakes_max(descriptors, limits.handshakes_max);
    let (set, devices_max) = (config.limits.devices_max, limits.devices_max);
    if set > devices_max {
        tracing::warn!(set, devices_max, descriptors, "--devices-max is more than descriptors allow, which counts");
    }
    let secrets = &config.secrets;
    let next = secrets.next.as_ref().map(|next| next.expose().to_owned());
    Rules {
        limits,
        access: config.access.clone(),
        devices: config.device_rules.clone(),
        balancers: config.balancers.clone(),
        observation: config.observation,
        token: Token::new(secrets.secret.expose().to_owned(), next, limits.sessions_per_token_max),
        device_certs: config.device_certs.clone(),
    }
}
