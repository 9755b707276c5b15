//! A service manager, as far as the daemon meets one: the socket that it is told on, its store, and sockets that it hands
//! over.

use std::cell::RefCell;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use super::{PATIENCE, Setup};

/// Descriptors of one message.
const BATCH: usize = 64;
/// Starts a program with the descriptors that come over its standard input.
const HANDING_STORED: &str = "\
import os, socket, sys
names = sys.argv[1].split(':')
_, stored, _, _ = socket.recv_fds(socket.socket(fileno=0), 1, len(names))
high = [os.dup2(fd, 100 + at) for at, fd in enumerate(stored)]
for at, fd in enumerate(high):
    os.dup2(fd, 3 + at)
    os.set_inheritable(3 + at, True)
os.closerange(100, 100 + len(high))
os.dup2(os.open('/dev/null', os.O_RDONLY), 0)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=sys.argv[1])
os.execv(sys.argv[2], sys.argv[2:])
";

/// The socket of a manager; its file is gone with it.
pub struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    stored: RefCell<Vec<(String, OwnedFd)>>,
}

impl Manager {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("dispatch-notify-{}-{count}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, path, stored: RefCell::default() }
    }

    /// Lets the daemon tell this manager.
    pub fn watch(&self, setup: Setup) -> Setup {
        setup.variable("NOTIFY_SOCKET", self.path.to_str().unwrap())
    }

    /// The next notice, if one comes within this time.
    pub fn notice_within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut buffer = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let size = match recvmsg(self.socket.as_fd(), &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => received.bytes,
            Err(Errno::AGAIN) => return None,
            Err(error) => panic!("{error}"),
        };
        let descriptors: Vec<OwnedFd> = control
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
                _ => Vec::new(),
            })
            .collect();
        let notice = String::from_utf8(buffer[..size].to_vec()).unwrap();
        self.keep(&notice, descriptors);
        Some(notice)
    }

    fn keep(&self, notice: &str, descriptors: Vec<OwnedFd>) {
        let name = notice.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored").to_owned();
        let mut stored = self.stored.borrow_mut();
        if notice.lines().any(|line| line == "FDSTORE=1") {
            stored.extend(descriptors.into_iter().map(|descriptor| (name.clone(), descriptor)));
        } else if notice.lines().any(|line| line == "FDSTOREREMOVE=1") {
            stored.retain(|(found, _)| *found != name);
        }
    }

    /// Fills the queue, so that it takes no notice until one is read.
    pub fn fill(&self) {
        let other = UnixDatagram::unbound().unwrap();
        other.set_nonblocking(true).unwrap();
        while other.send_to(b"FILLED=1", &self.path).is_ok() {}
    }

    /// Takes all notices that have come.
    pub fn take_notices(&self) {
        while self.notice_within(Duration::from_millis(1)).is_some() {}
    }

    /// The names of what is in the store.
    pub fn stored(&self) -> Vec<String> {
        self.stored.borrow().iter().map(|(name, _)| name.clone()).collect()
    }

    /// Adds a socket of a .socket unit to what is handed over.
    pub fn listens(&self, name: &str, socket: OwnedFd) {
        self.stored.borrow_mut().push((name.to_owned(), socket));
    }

    /// Hands what is in the store to a daemon that tells this manager.
    pub fn hand_stored(&mut self, setup: Setup) -> Setup {
        let names = self.stored().join(":");
        let (ours, theirs) = UnixStream::pair().unwrap();
        let stored = self.stored.borrow();
        let descriptors: Vec<BorrowedFd<'_>> = stored.iter().map(|(_, descriptor)| descriptor.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        sendmsg(&ours, &[IoSlice::new(b".")], &mut control, SendFlags::empty()).unwrap();
        self.watch(setup).stdin(theirs.into()).under(&["python3", "-c", HANDING_STORED, &names])
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
