//! What another load of the settings changes in a daemon that runs, and what has to wait for its restart.
//!
//! **Invariants.** What runs is what is in force: a setting that needs a restart keeps its value, and is named by each load
//! until it is as it was or the daemon has restarted. No value of a secret is in here.
//! **Not here.** Bringing a change about (`server`).

use super::effective::Effective;
use super::loader::Loaded;
use super::origin::Origin;
use super::settings::SECRET_KEYS;
use super::{Config, DaemonSecrets};
use crate::policy::access::Access;
use crate::policy::limits::Limits;

/// The settings that a daemon that runs cannot change: sockets, threads, rings and their buffers, and the log's form.
pub(super) const RESTART_KEYS: [&str; 12] = [
    "host",
    "port",
    "tls_host",
    "tls_port",
    "workers",
    "pin",
    "receive_buffers",
    "receive_buffer_bytes",
    "ring_entries",
    "environment",
    "takeover",
    "takeover_socket",
];
/// Those that need one where they turn TLS on or off: its socket is opened with the start.
const TLS_KEYS: [&str; 4] = ["tls_cert", "tls_key", "tls_client_ca", "tls_client_crl"];

/// The settings that a load would change.
#[derive(Debug, Default)]
pub struct Changes {
    /// Those that are in force from here on.
    pub applied: Vec<Change>,
    /// Those that wait for a restart.
    pub waiting: Vec<Change>,
    /// What an operator should be told that was not to be told before.
    pub warnings: Vec<String>,
}

/// One setting that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// As it was.
    pub before: Effective,
    /// As it is to be.
    pub after: Effective,
}

impl Loaded {
    /// Takes over from a newer load whatever a daemon that runs can change.
    pub fn take_over(&mut self, newer: Loaded) -> Changes {
        let mut changes = Changes::default();
        let toggles_tls = self.config.tls.is_some() != newer.config.tls.is_some();
        for (mine, theirs) in self.settings.iter_mut().zip(newer.settings) {
            let needs_restart = RESTART_KEYS.contains(&mine.name()) || toggles_tls && TLS_KEYS.contains(&mine.name());
            if is_changed(mine, &theirs, &self.config.secrets, &newer.config.secrets) {
                let change = Change { before: mine.clone(), after: theirs.clone() };
                if needs_restart { changes.waiting.push(change) } else { changes.applied.push(change) }
            }
            if !needs_restart {
                *mine = theirs;
            }
        }
        changes.warnings = newer.warnings.iter().filter(|warning| !self.warnings.contains(warning)).cloned().collect();
        self.warnings = newer.warnings;
        take_over(&mut self.config, newer.config);
        changes
    }
}

fn is_changed(mine: &Effective, theirs: &Effective, secrets: &DaemonSecrets, newer: &DaemonSecrets) -> bool {
    let [key, key_next] = SECRET_KEYS;
    match mine.name() {
        name if name == key => secrets.secret != newer.secret,
        name if name == key_next => secrets.next != newer.next,
        // That of the log's level follows from a setting that needs a restart.
        _ => mine.value != theirs.value && (&mine.origin, &theirs.origin) != (&Origin::Default, &Origin::Default),
    }
}

fn take_over(mine: &mut Config, newer: Config) {
    let Config {
        api_address: _,
        tls,
        device_certs,
        shards: _,
        upgrades: _,
        pin: _,
        log_format: _,
        log_filter,
        secrets,
        access,
        device_rules,
        balancers,
        observation,
        limits,
    } = newer;
    let Limits { receive_buffers, receive_buffer_bytes, ring_entries, .. } = mine.limits;
    mine.limits = Limits { receive_buffers, receive_buffer_bytes, ring_entries, ..limits };
    let Access { api_port, api_tls_port, .. } = mine.access;
    mine.access = Access { api_port, api_tls_port, ..access };
    if let (Some(mine), Some(newer)) = (&mut mine.tls, tls) {
        mine.identity = newer.identity;
    }
    mine.device_certs = device_certs;
    mine.device_rules = device_rules;
    mine.balancers = balancers;
    mine.log_filter = log_filter;
    mine.secrets = secrets;
    mine.observation = observation;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::environment::tests::Directory;
    use super::super::loader::Loader;
    use super::super::settings::settings;
    use super::*;

    /// Loads of one file, with each of several texts.
    fn loads<const COUNT: usize>(texts: [&str; COUNT]) -> [Loaded; COUNT] {
        let directory = Directory::with(&[]);
        let loader = Loader::new(vec!["dispatch".into()], &directory.environment(&[]));
        texts.map(|text| {
            std::fs::write(directory.0.join("dispatch.toml"), text).unwrap();
            loader.load().unwrap()
        })
    }

    fn names(changes: &[Change]) -> Vec<&str> {
        changes.iter().map(|change| change.after.name()).collect()
    }

    #[test]
    fn every_setting_that_needs_a_restart_is_one() {
        for key in RESTART_KEYS {
            assert!(settings().iter().any(|setting| setting.key.as_deref() == Some(key)), "{key}");
        }
    }

    #[test]
    fn what_needs_a_restart_is_named_until_it_is_as_it_was() {
        let other = "ring_entries = 16\nstall_ms_max = 2000\nport = 9\nworkers = 5\n";
        let first = "ring_entries = 8\nstall_ms_max = 1000\n";
        let [mut loaded, second, third, last] = loads([first, other, other, "ring_entries = 8\nstall_ms_max = 2000\n"]);
        for newer in [second, third] {
            let changes = loaded.take_over(newer);
            assert_eq!(names(&changes.waiting), ["port", "workers", "ring_entries"]);
            assert_eq!(changes.waiting[2].before.value.as_deref(), Some("8"));
            assert_eq!((loaded.config.limits.ring_entries, loaded.config.access.api_port), (8, 3_000));
            assert_eq!(loaded.config.limits.stall_time_max.as_millis(), 2_000);
        }
        let changes = loaded.take_over(last);
        assert!(changes.waiting.is_empty() && changes.applied.is_empty(), "{changes:?}");
    }

    #[test]
    fn secrets_are_compared_and_not_shown() {
        let [mut loaded, second, third] = loads([
            "server_secret = 'one-sesame'\n",
            "server_secret = 'two-sesame'\nserver_secret_next = 'three-sesame'\n",
            // The same, in another place of the file.
            "\n\nserver_secret = 'two-sesame'\nserver_secret_next = 'three-sesame'\n",
        ]);
        let changes = loaded.take_over(second);
        assert_eq!(names(&changes.applied), SECRET_KEYS);
        assert!(!format!("{changes:?}").contains("sesame"));
        assert_eq!(loaded.config.secrets.secret.expose(), "two-sesame");
        assert!(loaded.take_over(third).applied.is_empty());
    }

    #[test]
    fn a_value_that_is_the_default_by_another_way_is_no_change() {
        let default = "stall_ms_max = 20_000\nport = 3000\n";
        let [mut loaded, second, third] = loads(["", default, "environment = 'staging'\nlog_level = 'warn'\n"]);
        assert!(loaded.take_over(second).applied.is_empty());
        let changes = loaded.take_over(third);
        assert_eq!((names(&changes.applied), names(&changes.waiting)), (vec!["log_level"], vec!["environment"]));
    }

    #[test]
    fn a_warning_is_told_once() {
        let [mut loaded, second, third, last] = loads(["", "server_secret = 'own'\n", "", ""]);
        loaded.take_over(second);
        assert_eq!((loaded.take_over(third).warnings.len(), loaded.take_over(last).warnings.len()), (1, 0));
    }
}
