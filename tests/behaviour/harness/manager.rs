//! A service manager, as far as the daemon meets one: the socket that it is told on, and sockets that it hands over.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::{PATIENCE, Setup};

/// The socket of a manager; its file is gone with it.
pub struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("dispatch-notify-{}-{count}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, path }
    }

    /// Lets the daemon tell this manager.
    pub fn watch(&self, setup: Setup) -> Setup {
        setup.variable("NOTIFY_SOCKET", self.path.to_str().unwrap())
    }

    /// The next notice, if one comes within this time.
    pub fn notice_within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(size) => Some(String::from_utf8(buffer[..size].to_vec()).unwrap()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits for a notice with this line, and returns its lines.
    pub fn until(&self, line: &str) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "within {PATIENCE:?}: {line}");
            let lines: Vec<String> =
                self.notice_within(PATIENCE).unwrap_or_default().lines().map(str::to_owned).collect();
            if lines.iter().any(|found| found == line) {
                return lines;
            }
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
