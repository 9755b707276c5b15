//! Messages as a person reads them, or as JSON.
//!
//! **Invariants.** Nothing that a device sends reaches the terminal as a control character; JSON is one object a line.
//! **Not here.** Notes about the session: they go to standard error (`listen`).

use std::fmt::Write;

use serde::Serialize;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::policy::port_id::Transport;
use crate::protocol::message::{DeviceName, ToDriver};

const HEX_BYTES_A_LINE: usize = 16;

/// How messages are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::command) enum Style {
    /// For a person.
    Text,
    /// For a program.
    Json,
}

/// The time of day, as UTC.
pub(super) fn utc_time() -> String {
    let mut time = String::new();
    // A String takes every write.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    time
}

/// A message as lines, each with its newline. `time` is what stands before it.
pub(super) fn show(message: &ToDriver, transport: Transport, style: Style, time: &str) -> String {
    Event::of(message).show(transport, style, time)
}

/// A message, whichever way it goes.
pub(in crate::command) struct Event<'a> {
    /// Its type, as a word.
    pub(in crate::command) name: &'static str,
    /// From or to whom.
    pub(in crate::command) device: &'a DeviceName,
    /// The module id of the driver that sent it.
    pub(in crate::command) driver: Option<&'a str>,
    /// What it carries.
    pub(in crate::command) data: Option<&'a [u8]>,
}

/// The fields of a JSON line, in the order in which they stand there.
#[derive(Serialize)]
struct Record<'a> {
    time: &'a str,
    event: &'static str,
    address: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver: Option<&'a str>,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_hex: Option<String>,
}

impl<'a> Event<'a> {
    /// The message as lines, each with its newline. `time` is what stands before it.
    pub(in crate::command) fn show(&self, transport: Transport, style: Style, time: &str) -> String {
        match style {
            Style::Text => self.text(transport, time),
            Style::Json => self.json(transport, time),
        }
    }

    fn of(message: &'a ToDriver<'a>) -> Event<'a> {
        match message {
            ToDriver::Opened { device } => Event { name: "opened", device, driver: None, data: None },
            ToDriver::Closed { device } => Event { name: "closed", device, driver: None, data: None },
            ToDriver::Received { device, data } => Event { name: "received", device, driver: None, data: Some(data) },
        }
    }

    fn address(&self) -> &'a str {
        std::str::from_utf8(self.device.ip.as_bytes()).unwrap_or_default()
    }

    fn text(&self, transport: Transport, time: &str) -> String {
        let (address, number) = (self.address(), self.device.id_or_port);
        let device = match transport {
            Transport::Tcp => format!("{address} @{number}"),
            Transport::Udp if address.contains(':') => format!("[{address}]:{number}"),
            Transport::Udp => format!("{address}:{number}"),
        };
        let mut lines = format!("{time} {:8} {device}", self.name);
        if let Some(driver) = self.driver {
            lines.extend([" by ", &driver.escape_debug().to_string()]);
        }
        if let Some(data) = self.data {
            // A String takes every write.
            let _ = write!(lines, " {} bytes", data.len());
            match printable(data) {
                Some(text) => lines.extend([" \"", &text.escape_debug().to_string(), "\"\n"]),
                None => lines.extend(["\n", &hex_dump(data)]),
            }
        } else {
            lines.push('\n');
        }
        lines
    }

    fn json(&self, transport: Transport, time: &str) -> String {
        let number = self.device.id_or_port;
        let text = self.data.map(std::str::from_utf8);
        let record = Record {
            time,
            event: self.name,
            address: self.address(),
            id: (transport == Transport::Tcp).then_some(number),
            port: (transport == Transport::Udp).then_some(number),
            driver: self.driver,
            size: self.data.map_or(0, <[u8]>::len),
            data: text.and_then(Result::ok),
            data_hex: self.data.filter(|_| matches!(text, Some(Err(_)))).map(hex),
        };
        // Numbers and text always serialize.
        serde_json::to_string(&record).unwrap_or_default() + "\n"
    }
}

/// The data as text, where a person can read it all.
fn printable(data: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(data).ok()?;
    let readable = |character: char| !character.is_control() || matches!(character, '\t' | '\r' | '\n');
    text.chars().all(readable).then_some(text)
}

fn hex(data: &[u8]) -> String {
    let mut text = String::with_capacity(data.len() * 2);
    for byte in data {
        // A String takes every write.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn hex_dump(data: &[u8]) -> String {
    let mut lines = String::new();
    for (index, part) in data.chunks(HEX_BYTES_A_LINE).enumerate() {
        let bytes: Vec<String> = part.iter().map(|byte| format!("{byte:02x}")).collect();
        let letter = |&byte: &u8| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '.' };
        let letters: String = part.iter().map(letter).collect();
        // A String takes every write.
        let _ = writeln!(lines, "    {:04x}  {:47}  {letters}", index * HEX_BYTES_A_LINE, bytes.join(" "));
    }
    lines
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::protocol::message::IpText;

    fn name(ip: &str, id_or_port: u64) -> DeviceName {
        DeviceName { ip: IpText::new(ip.parse().unwrap()), id_or_port }
    }

    fn text(message: &ToDriver, transport: Transport) -> String {
        show(message, transport, Style::Text, "T")
    }

    #[test]
    fn text_stands_on_one_line_with_its_ends_escaped() {
        let received = ToDriver::Received { device: name("127.0.0.1", 7), data: "hé\r\n".as_bytes() };
        assert_eq!(text(&received, Transport::Tcp), "T received 127.0.0.1 @7 5 bytes \"hé\\r\\n\"\n");
        assert_eq!(text(&ToDriver::Opened { device: name("::1", 0) }, Transport::Tcp), "T opened   ::1 @0\n");
        assert_eq!(text(&ToDriver::Closed { device: name("::1", 0) }, Transport::Tcp), "T closed   ::1 @0\n");
        let datagram = ToDriver::Received { device: name("::1", 9), data: b"" };
        assert_eq!(text(&datagram, Transport::Udp), "T received [::1]:9 0 bytes \"\"\n");
    }

    #[test]
    fn anything_else_is_a_hex_dump() {
        let data: Vec<u8> = (0x2f..0x40).chain([0xff]).collect();
        let received = ToDriver::Received { device: name("10.0.0.1", 5000), data: &data };
        let expected = "T received 10.0.0.1:5000 18 bytes\n    \
                        0000  2f 30 31 32 33 34 35 36 37 38 39 3a 3b 3c 3d 3e  /0123456789:;<=>\n    \
                        0010  3f ff                                            ?.\n";
        assert_eq!(text(&received, Transport::Udp), expected);
    }

    #[test]
    fn a_device_cannot_steer_the_terminal() {
        for data in ["\u{1b}[2J", "\u{9b}2J", "\u{7}", "\0", "\u{202e}"] {
            let received = ToDriver::Received { device: name("::1", 0), data: data.as_bytes() };
            let shown = text(&received, Transport::Tcp);
            assert!(shown.chars().all(|c| c == '\n' || (' '..='~').contains(&c)), "{shown:?}");
        }
    }

    #[test]
    fn json_is_one_object_a_line_with_text_or_hex() {
        let received = ToDriver::Received { device: name("10.0.0.1", 7), data: b"a\n\"" };
        let json = |message, transport| show(message, transport, Style::Json, "T");
        assert_eq!(
            json(&received, Transport::Tcp),
            r#"{"time":"T","event":"received","address":"10.0.0.1","id":7,"size":3,"data":"a\n\""}"#.to_owned() + "\n"
        );
        let binary = ToDriver::Received { device: name("::1", 9), data: &[0xff, 0] };
        assert_eq!(
            json(&binary, Transport::Udp),
            r#"{"time":"T","event":"received","address":"::1","port":9,"size":2,"data_hex":"ff00"}"#.to_owned() + "\n"
        );
        assert_eq!(
            json(&ToDriver::Closed { device: name("::1", 1) }, Transport::Tcp),
            r#"{"time":"T","event":"closed","address":"::1","id":1,"size":0}"#.to_owned() + "\n"
        );
    }

    #[test]
    fn the_time_is_utc() {
        let time = utc_time();
        assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
    }
}
