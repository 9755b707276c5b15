//! Placeholder for the daemon itself.

use thiserror::Error;

use crate::config::Config;

/// Why the daemon does not start.
#[derive(Debug, Error)]
pub enum StartError {}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// [`StartError`] where it cannot start.
pub fn run(config: Config) -> Result<(), StartError> {
    tracing::info!(address = %config.api_address, shards = config.shards, "nothing is served yet");
    Ok(())
}
