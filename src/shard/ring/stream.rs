//! A connected TCP socket, of a device or of a driver.
//!
//! **Invariants.** At most one receive and one send are pending. An interrupt ends the receive that is pending, or else
//! the next one at once. A send that is cancelled beside a receive goes on.
//! **Not here.** When a socket ends; the three steps of ending are its owner's.

use super::pool::GROUP;
use super::{Buffer, Pool, cancel, fd, spawn, submit};
use bytes::{Buf, Bytes};
use io_uring::{opcode, squeue};
use socket2::SockRef;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::{Pin, pin};
use std::ptr::null_mut;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// A connected socket. Clones are the same socket; it closes when the last clone and operation are done.
#[derive(Clone)]
pub struct Stream(Rc<Inner>);

struct Inner {
    fd: OwnedFd,
    is_receiving: Cell<bool>,
    is_sending: Cell<bool>,
    interrupted: Cell<bool>,
    abandoned: Cell<bool>,
    watcher: Cell<Option<Waker>>,
}

impl AsFd for Inner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a send came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The kernel has all of it.
    Whole,
    /// It was abandoned; `on_progress` was told how far it came.
    Abandoned,
}

/// What a receive came to.
pub enum Receipt {
    /// At least one byte.
    Data(Buffer),
    /// The other end closed its sending side, or this end shut the socket down.
    End,
    /// An interrupt ended it.
    Interrupted,
}

impl Stream {
    pub(super) fn new(fd: OwnedFd) -> Self {
        let no = || Cell::new(false);
        let watcher = Cell::default();
        Stream(Rc::new(Inner { fd, is_receiving: no(), is_sending: no(), interrupted: no(), abandoned: no(), watcher }))
    }

    /// Waits for bytes; while none come, no buffer is pinned. Waits, too, while no buffer is left.
    ///
    /// # Errors
    /// What recv(2) says.
    pub async fn receive(&self, pool: &Pool) -> io::Result<Receipt> {
        loop {
            if self.0.interrupted.take() {
                return Ok(Receipt::Interrupted);
            }
            let entry = opcode::Recv::new(fd(&self.0), null_mut(), pool.buffer_bytes() as u32)
                .buf_group(GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT);
            let receiving = Receiving { _stream: self.clone(), pool: Some(pool.clone()) };
            self.0.is_receiving.set(true);
            // SAFETY: the kernel writes into a buffer of the pool alone, whose memory is never freed.
            let mut received = unsafe { submit(receiving, entry) }.await;
            self.0.is_receiving.set(false);
            received.data.pool = None;
            let outcome = received.outcome();
            let len = outcome.as_ref().map_or(0, |&len| len as usize);
            // Taken whatever the outcome, so that no id is lost.
            let buffer = pool.take(received.flags, len);
            let error = match (outcome, buffer) {
                (Ok(0), _) => return Ok(Receipt::End),
                (Ok(_), Some(buffer)) => return Ok(Receipt::Data(buffer)),
                (Ok(_), None) => return Err(io::ErrorKind::InvalidData.into()),
                (Err(error), _) => error,
            };
            match error.raw_os_error() {
                Some(libc::ENOBUFS) => Box::pin(pool.freed()).await,
                Some(libc::ECANCELED) => {
                    self.0.interrupted.set(false);
                    return Ok(Receipt::Interrupted);
                }
                Some(libc::EINTR | libc::EAGAIN) => {}
                _ => return Err(error),
            }
        }
    }

    /// Sends all of `data`, telling `on_progress` the bytes that the kernel took, each time that it took some. Waits
    /// while the other end takes nothing: without bound, unless [`abandon_send`](Self::abandon_send) is called.
    ///
    /// What fits is sent without the ring, which would complete it at once and tell so in a turn of its own.
    ///
    /// # Errors
    /// What send(2) says.
    pub async fn send_all(&self, mut data: Bytes, mut on_progress: impl FnMut(usize)) -> io::Result<Sent> {
        if !self.0.abandoned.get() {
            match self.send_now(&data) {
                Ok(count) => {
                    data.advance(count);
                    on_progress(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        while data.has_remaining() {
            if self.0.abandoned.get() {
                return Ok(Sent::Abandoned);
            }
            let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
            let entry = opcode::Send::new(fd(&self.0), data.as_ptr(), len).flags(libc::MSG_NOSIGNAL).build();
            self.0.is_sending.set(true);
            // SAFETY: `Bytes` keeps its bytes where they are when it moves, and is not dropped before completion.
            let sent = unsafe { submit((self.0.clone(), data), entry) }.await;
            self.0.is_sending.set(false);
            let outcome = sent.outcome();
            data = sent.data.1;
            match outcome {
                Ok(count) => {
                    data.advance(count as usize);
                    on_progress(count as usize);
                }
                // Meant for the receive, or for an abandoned send, which the head of the loop sees.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Sent::Whole)
    }

    /// Sends what fits into the socket without waiting, and says how much that was.
    ///
    /// # Errors
    /// What send(2) says; `WouldBlock` where nothing fits.
    pub fn send_now(&self, data: &[u8]) -> io::Result<usize> {
        self.options().send_with_flags(data, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
    }

    /// Receives what is there without waiting; 0 is the end of the stream.
    ///
    /// # Errors
    /// What recv(2) says; `WouldBlock` where nothing is there.
    pub fn receive_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        rustix::net::recv(&self.0.fd, buffer, rustix::net::RecvFlags::DONTWAIT)
            .map(|(count, _)| count)
            .map_err(io::Error::from)
    }

    /// Ends the receive that is pending, or the next one at once.
    pub fn interrupt(&self) {
        self.0.interrupted.set(true);
        self.cancel_if(&self.0.is_receiving);
    }

    /// Ends the pending send and every later one. The socket is to be shut down or reset next.
    pub fn abandon_send(&self) {
        self.0.abandoned.set(true);
        self.cancel_if(&self.0.is_sending);
    }

    /// Cancels what is pending, if that is among it: the kernel looks through everything on the ring for it, which takes
    /// 2 ms where 15,000 devices are.
    fn cancel_if(&self, is_pending: &Cell<bool>) {
        if is_pending.get() {
            cancel(&self.0);
        }
    }

    /// Shuts a side of the connection down. The other end may already have reset it, which is as good.
    pub fn shutdown(&self, side: Shutdown) {
        let _ = self.options().shutdown(side);
    }

    /// Makes closing the socket reset the connection.
    pub fn reset_on_close(&self) {
        let _ = self.options().set_linger(Some(Duration::ZERO));
    }

    /// Whether bytes have come that were not received.
    pub fn has_unread(&self) -> bool {
        rustix::io::ioctl_fionread(&self.0.fd).is_ok_and(|bytes| bytes > 0)
    }

    /// Whether a byte has ever come, received or not; also where the kernel does not say.
    pub fn has_received(&self) -> bool {
        let mut info: MaybeUninit<libc::tcp_info> = MaybeUninit::zeroed();
        let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
        let (fd, at) = (self.0.fd.as_raw_fd(), info.as_mut_ptr().cast());
        // SAFETY: the kernel writes at most `len` bytes to where that many are, which outlive the call.
        let result = unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, at, &mut len) };
        // SAFETY: it is made of numbers alone, of which any bits are one, and was zeroed.
        result != 0 || unsafe { info.assume_init() }.tcpi_bytes_received > 0
    }

    /// Bytes that were sent and that the other end has not acknowledged.
    pub fn unacknowledged_bytes(&self) -> usize {
        let mut bytes: libc::c_int = 0;
        // SAFETY: TIOCOUTQ writes one int, which outlives the call.
        let result = unsafe { libc::ioctl(self.0.fd.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
        if result == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 }
    }

    /// Waits for `receive`, or until `is_over` holds, which is looked at whenever the stream is [woken](Self::wake): then
    /// `receive` stays pending, and is to be waited for later. That costs the kernel nothing, as an interrupt would.
    pub fn receive_unless<F: Future>(
        &self,
        mut receive: Pin<&mut F>,
        is_over: impl Fn() -> bool,
    ) -> impl Future<Output = Option<F::Output>> {
        poll_fn(move |context| {
            if let Poll::Ready(receipt) = receive.as_mut().poll(context) {
                return Poll::Ready(Some(receipt));
            }
            if is_over() {
                return Poll::Ready(None);
            }
            let watcher = self.0.watcher.take().filter(|watcher| watcher.will_wake(context.waker()));
            self.0.watcher.set(watcher.or_else(|| Some(context.waker().clone())));
            Poll::Pending
        })
    }

    /// Has whoever waits for a receive unless something is over look whether it is.
    pub fn wake(&self) {
        if let Some(watcher) = self.0.watcher.take() {
            watcher.wake();
        }
    }

    /// Receives and drops what comes until the other end closes, for `time` at most; or longer while it still takes what
    /// was written, unless it takes nothing for `stalled`: then the connection is reset.
    pub async fn linger(&self, pool: &Pool, time: Duration, stalled: Duration) {
        self.linger_behind(self.receive(pool), pool, time, stalled).await;
    }

    /// The same where `receive` is pending.
    pub async fn linger_behind(
        &self,
        receive: impl Future<Output = io::Result<Receipt>>,
        pool: &Pool,
        time: Duration,
        stalled: Duration,
    ) {
        let (goes_on_sending, is_over) = (Cell::new(false), Cell::new(false));
        let mut dropping = pin!(self.drop_received(receive, pool, &goes_on_sending, &is_over));
        let mut left_bytes = usize::MAX;
        let mut progressed_at = Instant::now();
        while tokio::time::timeout(time, dropping.as_mut()).await.is_err() {
            let now_left_bytes = self.unacknowledged_bytes();
            let is_stalled = now_left_bytes >= left_bytes && progressed_at.elapsed() >= stalled;
            if is_stalled || now_left_bytes == 0 {
                // One that goes on sending would be reset by its next byte; where it has met a full window, it would not
                // hear of the close for a minute.
                if is_stalled || goes_on_sending.get() {
                    self.reset_on_close();
                }
                // Ends the receive that is pending.
                is_over.set(true);
                self.shutdown(Shutdown::Both);
                return dropping.await;
            }
            if now_left_bytes < left_bytes {
                (left_bytes, progressed_at) = (now_left_bytes, Instant::now());
            }
        }
    }

    /// Receives and drops what comes until the other end closes, or it is over.
    async fn drop_received(
        &self,
        receive: impl Future<Output = io::Result<Receipt>>,
        pool: &Pool,
        goes_on_sending: &Cell<bool>,
        is_over: &Cell<bool>,
    ) {
        // The buffer goes back here.
        let goes_on = |receipt| match receipt {
            Ok(Receipt::Data(_)) => {
                goes_on_sending.set(true);
                true
            }
            // It was meant for a receive before.
            Ok(Receipt::Interrupted) => true,
            Ok(Receipt::End) | Err(_) => false,
        };
        let mut is_open = goes_on(receive.await);
        while is_open && !is_over.get() {
            is_open = goes_on(self.receive(pool).await);
        }
    }

    /// Ends the connection when the other end acknowledges nothing of what was sent for `time`; `None` leaves it to the
    /// kernel. Only while something is under way: the option takes the place of the keepalive's count (tcp(7)).
    pub fn set_user_timeout(&self, time: Option<Duration>) {
        // A connection that is reset refuses it, and needs it no more.
        let _ = self.options().set_tcp_user_timeout(time);
    }

    /// Its options.
    pub fn options(&self) -> SockRef<'_> {
        SockRef::from(&self.0.fd)
    }
}

/// What a pending receive owns. Dropped with its pool still in it, its result was not taken: whatever buffer the kernel
/// picks is lost.
struct Receiving {
    _stream: Stream,
    pool: Option<Pool>,
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.lose();
        }
    }
}

/// A task of timers alone, which ends when this drops: the only kind that may be aborted.
pub struct Timer(tokio::task::JoinHandle<()>);

impl Timer {
    /// Starts `task`, which waits for timers alone and ends operations from outside.
    pub fn spawn(task: impl Future<Output = ()> + 'static) -> Self {
        Timer(spawn(task))
    }

    /// Abandons the send of `stream` after `time`.
    pub fn abandon_after(time: Duration, stream: &Stream) -> Self {
        let stream = stream.clone();
        Timer::spawn(async move {
            tokio::time::sleep(time).await;
            stream.abandon_send();
        })
    }

    /// Shuts `stream` down after `time`: what the kernel has of it still leaves.
    pub fn shut_down_after(time: Duration, stream: &Stream) -> Self {
        let stream = stream.clone();
        Timer::spawn(async move {
            tokio::time::sleep(time).await;
            stream.shutdown(Shutdown::Both);
        })
    }

    /// Interrupts the receive of `stream` after `time`.
    pub fn interrupt_after(time: Duration, stream: &Stream) -> Self {
        let stream = stream.clone();
        Timer::spawn(async move {
            tokio::time::sleep(time).await;
            stream.interrupt();
        })
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.0.abort();
    }
}
