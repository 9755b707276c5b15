//! Every io_uring operation of a shard, and the only place with `unsafe`, `io_uring::` and raw descriptors.
//!
//! **Invariants.** An operation owns what the kernel reads or writes until its completion was taken. None is raced,
//! dropped or aborted by its caller: it is ended from outside ([`Stream::interrupt`], [`Listener::stop`],
//! [`Datagrams::stop`]) and its result is taken. What an operation holds submits nothing when it is dropped.
//! **Not here.** What the bytes mean, and when to receive or send them.

#![allow(unsafe_code)]

mod datagrams;
mod handed;
mod listener;
mod pool;
mod stream;

pub use datagrams::{DatagramBatch, Datagrams, Readiness, dropped};
pub use handed::handed_over;
pub use listener::{Accepted, Listener};
pub use pool::{Buffer, Pool};
pub use stream::{Receipt, Sent, Stream, Timer};

use io_uring::{cqueue, opcode, squeue, types};
use pin_project_lite::pin_project;
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

thread_local! {
    static TASKS: Cell<usize> = const { Cell::new(0) };
}

/// A runtime with a ring of `entries`, for the calling thread alone.
///
/// # Errors
/// What io_uring_setup(2) says: `ENOSYS` or `EPERM` where io_uring is not to be had, `ENOMEM` where locked memory is
/// short (some of it comes back a while after the last user of it has ended, so asking again may help).
pub fn runtime(entries: u32) -> io::Result<tokio_uring::Runtime> {
    let mut ring = tokio_uring::uring_builder();
    // A completion waits for the loop's next turn, and one thread submits: 20-25 % less CPU a sparse round trip.
    ring.setup_coop_taskrun().setup_single_issuer();
    let mut builder = tokio_uring::builder();
    builder.entries(entries).uring_builder(&ring);
    tokio_uring::Runtime::new(&builder)
}

/// Starts a task of this shard and counts it while it lives.
pub fn spawn<F: Future<Output = ()> + 'static>(task: F) -> tokio::task::JoinHandle<()> {
    TASKS.set(TASKS.get() + 1);
    #[expect(clippy::disallowed_methods, reason = "the one place that counts")]
    tokio_uring::spawn(Counted { task, _alive: Alive })
}

pin_project! {
    /// A task that is counted. An async block that awaits what it has captured would be twice as large.
    struct Counted<F> {
        #[pin]
        task: F,
        _alive: Alive,
    }
}

impl<F: Future<Output = ()>> Future for Counted<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.project().task.poll(context)
    }
}

struct Alive;

impl Drop for Alive {
    fn drop(&mut self) {
        TASKS.set(TASKS.get() - 1);
    }
}

/// Tasks of this shard that [`spawn`] started and that have not ended.
pub fn tasks() -> usize {
    TASKS.get()
}

/// Waits for one turn of the ring: what was submitted before reaches the kernel. A loop that may never wait for
/// anything else calls this once a batch, as entries are submitted only when the shard's loop has nothing left to run.
pub async fn turn() {
    // A no-op has no way to fail that matters here.
    let _ = tokio_uring::no_op().await;
}

/// The descriptor of a socket, for an entry. Operations share the socket, so it closes when the last of them and its
/// owner are done.
fn fd(socket: &impl AsFd) -> types::Fd {
    types::Fd(socket.as_fd().as_raw_fd())
}

/// What an operation came to: the kernel's result and flags, and what the operation owned.
struct Taken<D> {
    result: i32,
    flags: u32,
    data: D,
}

impl<D> Taken<D> {
    /// The result as a count or descriptor, or the error it stands for.
    fn outcome(&self) -> io::Result<u32> {
        u32::try_from(self.result).map_err(|_| io::Error::from_raw_os_error(-self.result))
    }
}

struct Take<D>(PhantomData<D>);

impl<D: 'static> OneshotOutputTransform for Take<D> {
    type Output = Taken<D>;
    type StoredData = D;

    fn transform_oneshot_output(self, data: D, entry: cqueue::Entry) -> Taken<D> {
        Taken { result: entry.result(), flags: entry.flags(), data }
    }
}

/// Submits one entry.
///
/// # Safety
/// `data` owns everything that `entry` points to, and keeps it where it is when `data` itself moves.
unsafe fn submit<D: Unpin + 'static>(data: D, entry: squeue::Entry) -> InFlightOneshot<D, Take<D>> {
    UnsubmittedOneshot::new(data, Take(PhantomData), entry).submit()
}

/// Ends whatever is pending on `socket`; each of its operations completes with ECANCELED, or with what it has already
/// got.
fn cancel<S: AsFd + 'static>(socket: &Rc<S>) {
    let entry = opcode::AsyncCancel2::new(types::CancelBuilder::fd(fd(socket)).all()).build();
    // SAFETY: the entry points to no memory, and the data keeps the descriptor open. Its completion tells nothing that
    // the cancelled operations do not tell, so it may be dropped: there is no buffer in it.
    drop(unsafe { submit(socket.clone(), entry) });
}
