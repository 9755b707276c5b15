//! Descriptors that the process was started with, as a service manager hands sockets over.
//!
//! **Invariants.** Each is taken over once: asked again, there is none.
//! **Not here.** What they are (`service::handed`).

use socket2::Socket;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// What was handed over, with its names, in its order; nothing where `LISTEN_PID` is another process. Whether one is a
/// socket at all shows when it is asked what it is.
///
/// # Errors
/// That the variables make no sense, or name a descriptor that is not open.
pub fn handed_over() -> io::Result<Vec<(String, Socket)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let descriptors = sd_notify::listen_fds_with_names()?;
    // SAFETY: they are open, as their flags have just been set, and this is the one place that takes them: by its word in
    // the environment the manager has opened them for this process, before anything here was.
    Ok(descriptors.map(|(fd, name)| (name, Socket::from(unsafe { OwnedFd::from_raw_fd(fd) }))).collect())
}
