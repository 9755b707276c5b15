//! What is typed: lines of standard input, and what each asks for.
//!
//! **Invariants.** Lines wait in a bounded queue; a line longer than [`LINE_BYTES_MAX`] comes in pieces, which together are
//! what was typed.
//! **Not here.** Whether the device exists (`devices`).

use std::io::{self, BufRead, IsTerminal, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::policy::port_id::Transport;

/// No piece of a line is longer: with its newline it still fits one datagram.
const LINE_BYTES_MAX: u64 = 65_000;

/// Lines that were typed and not yet sent; more wait in the pipe.
pub(super) const LINES_WAITING_MAX: usize = 64;

/// What standard input says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// A line, or the beginning of one that is long.
    Line(Piece),
    /// What follows in a line that is long.
    Rest(Piece),
    /// The person at the terminal is done. A pipe that ends says nothing: its line is sent, and listening goes on.
    End,
}

/// A piece of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Without the line's end.
    pub text: Vec<u8>,
    /// The line's end; empty where the line goes on.
    pub end: &'static [u8],
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed<'a> {
    /// To send this.
    Send {
        /// To whom.
        to: Target,
        /// As typed, without the newline.
        data: &'a [u8],
    },
    /// To disconnect a TCP device.
    Close {
        /// Which.
        device: Target,
    },
}

/// Which device is meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The last that connected or sent something.
    Last,
    /// A TCP device.
    Id(u64),
    /// A UDP device, heard of or not.
    Address(IpAddr, u16),
}

/// Reads standard input on a thread of its own, until it ends or nobody takes its lines.
///
/// # Errors
/// That the thread cannot be had.
pub(super) fn read_stdin() -> io::Result<Receiver<Input>> {
    let (lines, received) = sync_channel(LINES_WAITING_MAX);
    let interactive = io::stdin().is_terminal();
    let read = move || {
        forward(io::stdin().lock(), &lines);
        if interactive {
            // Nobody takes it where the program has ended already.
            let _ = lines.send(Input::End);
        }
    };
    let said = |error| io::Error::other(format!("the thread that reads what is typed cannot be started: {error}"));
    thread::Builder::new().name("stdin".to_owned()).spawn(read).map_err(said)?;
    Ok(received)
}

/// What a line asks for on a port of this transport. A leading backslash is dropped and makes text of the rest.
pub(super) fn parse(line: &[u8], transport: Transport) -> Result<Typed<'_>, &'static str> {
    let (to, data) = match line.strip_prefix(b"@") {
        Some(addressed) => {
            let blank = addressed.iter().position(|&byte| byte == b' ').unwrap_or(addressed.len());
            let (name, rest) = addressed.split_at(blank);
            (target(name, transport)?, rest.get(1..).unwrap_or_default())
        }
        None => (Target::Last, line),
    };
    if data == b"/close" {
        return match transport {
            Transport::Tcp => Ok(Typed::Close { device: to }),
            Transport::Udp => Err("a udp device cannot be closed; \\/close sends the text"),
        };
    }
    Ok(Typed::Send { to, data: data.strip_prefix(b"\\").unwrap_or(data) })
}

fn target(name: &[u8], transport: Transport) -> Result<Target, &'static str> {
    let name = std::str::from_utf8(name).unwrap_or_default();
    match transport {
        Transport::Tcp => {
            name.parse().map(Target::Id).map_err(|_| "a tcp device is @ID, such as @7; \\@ sends the text")
        }
        Transport::Udp => name
            .parse::<SocketAddr>()
            .map(|address| Target::Address(address.ip(), address.port()))
            .map_err(|_| "a udp device is @IP:PORT, such as @10.0.0.1:5000; \\@ sends the text"),
    }
}

fn forward(mut input: impl BufRead, lines: &SyncSender<Input>) {
    let mut kind: fn(Piece) -> Input = Input::Line;
    loop {
        let mut text = Vec::new();
        match (&mut input).take(LINE_BYTES_MAX).read_until(b'\n', &mut text) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let is_cut = !text.ends_with(b"\n") && text.len() as u64 == LINE_BYTES_MAX;
        let end: &[u8] = match &*text {
            _ if is_cut => b"",
            [.., b'\r', b'\n'] => b"\r\n",
            _ => b"\n",
        };
        // The last line of a file may lack its own.
        let bytes = text.strip_suffix(end).map_or(text.len(), <[u8]>::len);
        text.truncate(bytes);
        if lines.send(kind(Piece { text, end })).is_err() {
            return;
        }
        kind = if is_cut { Input::Rest } else { Input::Line };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sent(to: Target, data: &str) -> Result<Typed<'_>, &'static str> {
        Ok(Typed::Send { to, data: data.as_bytes() })
    }

    #[test]
    fn plain_text_goes_to_the_last_device() {
        assert_eq!(parse(b"hello @7", Transport::Tcp), sent(Target::Last, "hello @7"));
        assert_eq!(parse(b"", Transport::Udp), sent(Target::Last, ""));
    }

    #[test]
    fn a_device_may_be_named() {
        assert_eq!(parse(b"@7 hi there", Transport::Tcp), sent(Target::Id(7), "hi there"));
        assert_eq!(parse(b"@7", Transport::Tcp), sent(Target::Id(7), ""));
        let address = Target::Address("::1".parse().unwrap(), 5000);
        assert_eq!(parse(b"@[::1]:5000 hi", Transport::Udp), sent(address, "hi"));
        assert!(parse(b"@10.0.0.1 hi", Transport::Udp).is_err());
        assert!(parse(b"@seven hi", Transport::Tcp).is_err());
    }

    #[test]
    fn a_tcp_device_can_be_closed() {
        assert_eq!(parse(b"/close", Transport::Tcp), Ok(Typed::Close { device: Target::Last }));
        assert_eq!(parse(b"@7 /close", Transport::Tcp), Ok(Typed::Close { device: Target::Id(7) }));
        assert!(parse(b"/close", Transport::Udp).is_err());
    }

    #[test]
    fn a_backslash_makes_text_of_what_follows() {
        for (line, text) in [("\\/close", "/close"), ("\\@7 x", "@7 x"), ("\\\\x", "\\x"), ("x\\", "x\\")] {
            assert_eq!(parse(line.as_bytes(), Transport::Tcp), sent(Target::Last, text));
        }
        assert_eq!(parse(b"@7 \\/close", Transport::Tcp), sent(Target::Id(7), "/close"));
    }

    #[test]
    fn lines_come_without_their_ends_and_the_last_needs_none() {
        let (lines, received) = sync_channel(8);
        forward(&b"one\r\n\ntwo \xff\nthree"[..], &lines);
        drop(lines);
        let lines: Vec<Input> = received.iter().collect();
        let expected: [(&[u8], &[u8]); 4] = [(b"one", b"\r\n"), (b"", b"\n"), (b"two \xff", b"\n"), (b"three", b"\n")];
        assert_eq!(lines, expected.map(|(text, end)| Input::Line(Piece { text: text.to_vec(), end })));
    }

    #[test]
    fn the_pieces_of_a_long_line_are_what_was_typed() {
        const BYTES: usize = LINE_BYTES_MAX as usize;
        for typed in ["x".repeat(BYTES) + "\n", "x".repeat(2 * BYTES + 7) + "\n", "x".repeat(BYTES - 1) + "\r\n@1\n"] {
            let (lines, received) = sync_channel(8);
            forward(typed.as_bytes(), &lines);
            drop(lines);
            let mut together = Vec::new();
            let mut is_at_start = true;
            for input in &received {
                assert_eq!(matches!(input, Input::Line(_)), is_at_start);
                let (Input::Line(Piece { text, end }) | Input::Rest(Piece { text, end })) = input else { panic!() };
                is_at_start = !end.is_empty();
                together.extend(text);
                together.extend(end);
            }
            assert_eq!(String::from_utf8(together).unwrap(), typed);
        }
    }
}
