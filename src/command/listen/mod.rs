//! A driver for the terminal: joins a port of a running daemon, prints what devices send, and sends what is typed.
//!
//! **Invariants.** It joins again until it is told to stop, or until the daemon says that the request itself is wrong;
//! messages go to standard output, all else to standard error.
//! **Not here.** Arguments and the token (`config`).

mod devices;
pub(super) mod join;
pub(super) mod show;
mod typed;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message, WebSocket};

use self::devices::Devices;
use self::show::{Style, show, utc_time};
use self::typed::{Input, Piece, Typed};
use crate::command::wire::Wire;
use crate::config::ListenOptions;
use crate::protocol::message::{DeviceAddr, FromDriver, ToDriver};

/// How long one look at the socket takes while nothing comes: what typing and Ctrl-C wait for at most.
pub(super) const LOOK: Duration = Duration::from_millis(50);

pub(super) const PAUSE_MIN: Duration = Duration::from_secs(1);
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Time between pings while the daemon is silent, and the silence after which it counts as gone.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(30);
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(90);

/// How long a leaving driver waits for the daemon's goodbye.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// Listens until Ctrl-C, SIGTERM or the end of a terminal's input, and tells the exit code: 0 then, 1 where the daemon
/// refuses the request for good or nobody reads what is printed.
pub fn run(options: &ListenOptions) -> u8 {
    exit_code(Terminal::new(options).and_then(|mut terminal| terminal.listen()))
}

/// The exit code of what ended so; where nobody reads what is printed, nothing is said of it.
pub(super) fn exit_code(ended: io::Result<u8>) -> u8 {
    ended.unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::BrokenPipe {
            note(&error);
        }
        1
    })
}

struct Terminal<'a> {
    options: &'a ListenOptions,
    style: Style,
    typed: Receiver<Input>,
    /// Whose the last line was; the rest of a long one is, too.
    addressed: Option<DeviceAddr>,
    stop: Arc<AtomicBool>,
}

/// How a session ended.
enum SessionEnd {
    /// As it was asked to.
    Stopped,
    /// By the daemon or the network.
    Lost(String),
}

impl<'a> Terminal<'a> {
    fn new(options: &'a ListenOptions) -> io::Result<Terminal<'a>> {
        let stop = stop_flag()?;
        let style = if options.arguments.json { Style::Json } else { Style::Text };
        Ok(Terminal { options, style, typed: typed::read_stdin()?, addressed: None, stop })
    }

    /// Joins, and joins again; an error is one of standard output.
    fn listen(&mut self) -> io::Result<u8> {
        let arguments = &self.options.arguments;
        let port = format!("{} port {}", arguments.transport.name(), arguments.port);
        let mut pause = PAUSE_MIN;
        while !self.stop.load(Ordering::Relaxed) {
            match join::join(self.options) {
                Ok(socket) => {
                    note(&format!("joined {port} at {} for {}", self.options.daemon.url, arguments.accept));
                    pause = PAUSE_MIN;
                    match self.attend(socket)? {
                        SessionEnd::Stopped => break,
                        SessionEnd::Lost(reason) => note(&format!("the session ended: {reason}")),
                    }
                }
                Err(error) => {
                    note(&format!("{port} at {}: {error}", self.options.daemon.url));
                    if error.is_final() {
                        return Ok(1);
                    }
                }
            }
            note(&format!("trying again in {} s", pause.as_secs()));
            self.wait(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Ok(0)
    }

    /// Prints what comes and sends what is typed until one end leaves.
    fn attend(&mut self, mut socket: WebSocket<Wire>) -> io::Result<SessionEnd> {
        socket.get_ref().tcp().set_read_timeout(Some(LOOK))?;
        let mut devices = Devices::default();
        let mut heard = Instant::now();
        let mut pinged = heard;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                leave(&mut socket);
                return Ok(SessionEnd::Stopped);
            }
            match socket.read() {
                Ok(message) => {
                    heard = Instant::now();
                    if let Some(end) = self.take(&message, &mut devices)? {
                        return Ok(end);
                    }
                }
                Err(Error::Io(error)) if is_pause(&error) => {}
                Err(error) => return Ok(SessionEnd::Lost(error.to_string())),
            }
            if heard.elapsed() > SILENCE_MAX {
                return Ok(SessionEnd::Lost(format!("nothing was heard for {} s", SILENCE_MAX.as_secs())));
            }
            let sent = if heard.max(pinged).elapsed() > PING_INTERVAL {
                pinged = Instant::now();
                socket.send(Message::Ping(Default::default()))
            } else {
                self.send_typed(&mut socket, &devices)
            };
            if let Err(error) = sent {
                return Ok(SessionEnd::Lost(error.to_string()));
            }
        }
    }

    /// Prints a message of the daemon; an end where it is the last.
    fn take(&self, message: &Message, devices: &mut Devices) -> io::Result<Option<SessionEnd>> {
        let transport = self.options.arguments.transport;
        match message {
            Message::Binary(bytes) => match ToDriver::decode(bytes) {
                Ok(message) => {
                    devices.heard(&message, transport);
                    let mut output = io::stdout().lock();
                    output.write_all(show(&message, transport, self.style, &utc_time()).as_bytes())?;
                    output.flush()?;
                }
                Err(error) => return Ok(Some(SessionEnd::Lost(format!("a message cannot be read: {error}")))),
            },
            Message::Close(frame) => {
                return Ok(Some(SessionEnd::Lost(closed(frame.as_ref()))));
            }
            _ => {}
        }
        Ok(None)
    }

    /// Sends what was typed meanwhile. What cannot be sent is said.
    fn send_typed(&mut self, socket: &mut WebSocket<Wire>, devices: &Devices) -> Result<(), Error> {
        for _ in 0..typed::LINES_WAITING_MAX {
            match self.typed.try_recv() {
                Ok(Input::Line(line)) => match self.asked(&line, devices) {
                    Ok(message) => socket.send(Message::Binary(message.into()))?,
                    Err(reason) => note(&reason),
                },
                Ok(Input::Rest(piece)) => {
                    if let Some(device) = self.addressed {
                        socket.send(Message::Binary(self.write(device, &piece.text, piece.end).into()))?;
                    }
                }
                Ok(Input::End) => self.stop.store(true, Ordering::Relaxed),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        Ok(())
    }

    /// The message that a typed line asks for.
    fn asked(&mut self, line: &Piece, devices: &Devices) -> Result<Vec<u8>, String> {
        self.addressed = None;
        match typed::parse(&line.text, self.options.arguments.transport)? {
            Typed::Send { to, data } => {
                let device = devices.find(&to)?;
                self.addressed = Some(device);
                Ok(self.write(device, data, line.end))
            }
            Typed::Close { device } => {
                let mut out = Vec::new();
                FromDriver::Close { device: devices.find(&device)? }.encode(&mut out);
                Ok(out)
            }
        }
    }

    fn write(&self, device: DeviceAddr, text: &[u8], end: &[u8]) -> Vec<u8> {
        let end = if self.options.arguments.raw { &[] } else { end };
        let mut out = Vec::new();
        FromDriver::Write { device, data: &[text, end].concat() }.encode(&mut out);
        out
    }

    /// Waits before the next try; says that what is typed meanwhile goes nowhere.
    fn wait(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        while Instant::now() < until && !self.stop.load(Ordering::Relaxed) {
            match self.typed.recv_timeout(LOOK) {
                Ok(Input::Line(_)) => {
                    self.addressed = None;
                    note(&"not joined: nothing is sent");
                }
                Ok(Input::Rest(_)) => {}
                Ok(Input::End) => self.stop.store(true, Ordering::Relaxed),
                Err(RecvTimeoutError::Timeout) => {}
                #[expect(clippy::disallowed_methods, reason = "no shard runs in this program")]
                Err(RecvTimeoutError::Disconnected) => thread::sleep(LOOK),
            }
        }
    }
}

/// What is set once the program is told to stop.
pub(super) fn stop_flag() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order the first signal asks and the second, should the first not get through, ends the process.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// What the daemon's close frame says.
pub(super) fn closed(frame: Option<&CloseFrame>) -> String {
    frame.map_or_else(
        || "the daemon closed it".to_owned(),
        |frame| format!("the daemon closed it with {} {}", u16::from(frame.code), frame.reason.escape_debug()),
    )
}

/// Says goodbye and waits a little for the answer, so that the daemon sees a close and no reset.
pub(super) fn leave(socket: &mut WebSocket<Wire>) {
    let frame = CloseFrame { code: CloseCode::Normal, reason: "the terminal is done".into() };
    let until = Instant::now() + GOODBYE_MAX;
    if socket.close(Some(frame)).is_err() {
        return;
    }
    while Instant::now() < until {
        match socket.read() {
            Err(Error::Io(error)) if is_pause(&error) => {}
            Err(_) => return,
            Ok(_) => {}
        }
    }
}

pub(super) fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

pub(super) fn note(text: &dyn std::fmt::Display) {
    // Nobody may be reading; listening goes on.
    let _ = writeln!(io::stderr(), "dispatch: {text}");
}
