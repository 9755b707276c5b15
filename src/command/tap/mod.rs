//! A tap in the terminal: prints a live copy of an open port's messages, or writes them as a capture.
//!
//! **Invariants.** It taps again until it is told to stop, or until the daemon says that the request itself is wrong. It
//! sends nothing but pings and its goodbye.
//! **Not here.** Arguments and the token (`config`), joining (`listen::join`).

mod capture;
mod show;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::{Error, Message, WebSocket};

use self::capture::Capture;
use self::show::show;
use crate::command::listen::join;
use crate::command::listen::show::Style;
use crate::command::listen::{
    LOOK, PAUSE_MAX, PAUSE_MIN, PING_INTERVAL, SILENCE_MAX, closed, exit_code, is_pause, leave, note, stop_flag,
};
use crate::command::wire::Wire;
use crate::config::{TapArguments, TapOptions};
use crate::protocol::tapped::{TapEvent, Tapped};

/// Taps until Ctrl-C or SIGTERM, and tells the exit code: 0 then, 1 where the daemon refuses the request for good, or what
/// is printed or captured cannot be written.
pub fn run(options: &TapOptions) -> u8 {
    exit_code(Terminal::new(options).and_then(|mut terminal| terminal.tap()))
}

struct Terminal<'a> {
    options: &'a TapOptions,
    /// How messages are printed, unless standard output is the capture's.
    style: Option<Style>,
    capture: Option<Capture<Box<dyn Write>>>,
    stop: Arc<AtomicBool>,
}

impl<'a> Terminal<'a> {
    fn new(options: &'a TapOptions) -> io::Result<Terminal<'a>> {
        let arguments = &options.arguments;
        let is_piped = arguments.pcap.as_ref().is_some_and(|file| file.as_os_str() == "-");
        let target: Option<Box<dyn Write>> = match &arguments.pcap {
            Some(_) if is_piped => Some(Box::new(io::stdout())),
            Some(file) => Some(Box::new(create(file)?)),
            None => None,
        };
        let open = |target| Capture::new(target, arguments.transport, arguments.port);
        let style = if arguments.json { Style::Json } else { Style::Text };
        Ok(Terminal {
            options,
            style: (!is_piped).then_some(style),
            capture: target.map(open).transpose()?,
            stop: stop_flag()?,
        })
    }

    /// Taps, and taps again; an error is one of what is written.
    fn tap(&mut self) -> io::Result<u8> {
        let arguments = &self.options.arguments;
        let port = format!("{} port {}", arguments.transport.name(), arguments.port);
        let mut pause = PAUSE_MIN;
        while !self.stop.load(Ordering::Relaxed) {
            match join::open(&self.options.daemon, &route(arguments), &self.options.token, "dispatch-tap") {
                Ok(mut socket) => {
                    note(&format!("tapping {port} at {}", self.options.daemon.url));
                    pause = PAUSE_MIN;
                    let lost = self.attend(&mut socket);
                    if let Some(capture) = &mut self.capture {
                        capture.end()?;
                    }
                    match lost? {
                        Some(reason) => note(&format!("the session ended: {reason}")),
                        None => break,
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

    /// Prints what comes until one end leaves: why it was lost, or `None` where it was told to stop.
    fn attend(&mut self, socket: &mut WebSocket<Wire>) -> io::Result<Option<String>> {
        socket.get_ref().tcp().set_read_timeout(Some(LOOK))?;
        let mut heard = Instant::now();
        let mut pinged = heard;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                leave(socket);
                return Ok(None);
            }
            match socket.read() {
                Ok(message) => {
                    heard = Instant::now();
                    if let Some(reason) = self.take(&message)? {
                        return Ok(Some(reason));
                    }
                }
                Err(Error::Io(error)) if is_pause(&error) => {}
                Err(error) => return Ok(Some(error.to_string())),
            }
            if heard.elapsed() > SILENCE_MAX {
                return Ok(Some(format!("nothing was heard for {} s", SILENCE_MAX.as_secs())));
            }
            if heard.max(pinged).elapsed() > PING_INTERVAL {
                pinged = Instant::now();
                if let Err(error) = socket.send(Message::Ping(Default::default())) {
                    return Ok(Some(error.to_string()));
                }
            }
        }
    }

    /// Prints and captures a message of the daemon; a reason where it is the last.
    fn take(&mut self, message: &Message) -> io::Result<Option<String>> {
        match message {
            Message::Binary(bytes) => {
                let tapped = match Tapped::decode(bytes) {
                    Ok(tapped) => tapped,
                    Err(error) => return Ok(Some(format!("a message cannot be read: {error}"))),
                };
                if let Some(style) = self.style {
                    let mut output = io::stdout().lock();
                    output.write_all(show(&tapped, self.options.arguments.transport, style).as_bytes())?;
                    output.flush()?;
                } else if matches!(tapped.event, TapEvent::PortOpen | TapEvent::PortClosed | TapEvent::Dropped { .. }) {
                    let line = show(&tapped, self.options.arguments.transport, Style::Text);
                    note(&line.trim_end());
                }
                if let Some(capture) = &mut self.capture {
                    capture.take(&tapped)?;
                }
                Ok(None)
            }
            Message::Close(frame) => Ok(Some(closed(frame.as_ref()))),
            _ => Ok(None),
        }
    }

    fn wait(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while Instant::now() < until && !self.stop.load(Ordering::Relaxed) {
            #[expect(clippy::disallowed_methods, reason = "no shard runs in this program")]
            thread::sleep(LOOK);
        }
    }
}

fn create(file: &Path) -> io::Result<File> {
    File::create(file).map_err(|error| {
        io::Error::new(error.kind(), format!("--pcap {}: {error}", file.to_string_lossy().escape_debug()))
    })
}

fn route(arguments: &TapArguments) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("transport", arguments.transport.name()).append_pair("port", &arguments.port.to_string());
    for (name, value) in [("device", &arguments.device), ("module", &arguments.driver)] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    format!("tap?{}", query.finish())
}
