//! Tapped messages as a person reads them, or as JSON: like those of `listen`, with the daemon's time and the driver.
//!
//! **Invariants.** Nothing that a device or a driver sends reaches the terminal as a control character; JSON is one
//! object a line.
//! **Not here.** How a message's data is shown (`listen::show`).

use std::num::NonZeroU8;

use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Iso8601;
use time::format_description::well_known::iso8601::{Config, EncodedConfig, TimePrecision};

use crate::command::listen::show::{Event, Style};
use crate::policy::port_id::Transport;
use crate::protocol::tapped::{TapEvent, Tapped};

/// With microseconds, as `listen` shows it.
const TIME: EncodedConfig =
    Config::DEFAULT.set_time_precision(TimePrecision::Second { decimal_digits: NonZeroU8::new(6) }).encode();

/// A message as lines, each with its newline.
pub(super) fn show(tapped: &Tapped, transport: Transport, style: Style) -> String {
    let time = utc(tapped.time_us);
    let (name, device, driver, data) = match &tapped.event {
        TapEvent::Opened { device } => ("opened", device, None, None),
        TapEvent::Closed { device } => ("closed", device, None, None),
        TapEvent::Received { device, data } => ("received", device, None, Some(*data)),
        TapEvent::Write { device, module, data } => ("write", device, Some(*module), Some(*data)),
        TapEvent::Close { device, module } => ("close", device, Some(*module), None),
        TapEvent::Dropped { count } => return show_dropped(*count, style, &time),
        TapEvent::PortOpen => return show_port("open", style, &time),
        TapEvent::PortClosed => return show_port("closed", style, &time),
    };
    let driver = driver.filter(|module| !module.is_empty());
    Event { name, device, driver, data }.show(transport, style, &time)
}

fn show_dropped(count: u64, style: Style, time: &str) -> String {
    match style {
        Style::Text => format!("{time} dropped  {count} messages\n"),
        Style::Json => format!("{}\n", json!({ "time": time, "event": "dropped", "count": count })),
    }
}

fn show_port(state: &str, style: Style, time: &str) -> String {
    match style {
        Style::Text => format!("{time} port     {state}\n"),
        Style::Json => format!("{}\n", json!({ "time": time, "event": format!("port_{state}") })),
    }
}

fn utc(time_us: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(time_us) * 1_000);
    // A time that is none, of a daemon that is none.
    time.ok().and_then(|time| time.format(&Iso8601::<TIME>).ok()).unwrap_or_else(|| time_us.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::protocol::message::{DeviceName, IpText};

    const TIME_US: u64 = 1_700_000_000_000_042;

    fn text(event: TapEvent, style: Style) -> String {
        show(&Tapped { time_us: TIME_US, event }, Transport::Tcp, style)
    }

    #[test]
    fn both_directions_are_shown_with_their_time_and_driver() {
        let device = DeviceName { ip: IpText::new([10, 0, 0, 1].into()), id_or_port: 7 };
        let write = TapEvent::Write { device, module: "mod-1\u{1b}", data: b"hi" };
        let expected = "2023-11-14T22:13:20.000042Z write    10.0.0.1 @7 by mod-1\\u{1b} 2 bytes \"hi\"\n";
        assert_eq!(text(write, Style::Text), expected);
        let close = TapEvent::Close { device, module: "" };
        assert_eq!(text(close, Style::Text), "2023-11-14T22:13:20.000042Z close    10.0.0.1 @7\n");
        let json: serde_json::Value = serde_json::from_str(&text(write, Style::Json)).unwrap();
        assert_eq!((&json["event"], &json["driver"], &json["id"]), (&"write".into(), &"mod-1\u{1b}".into(), &7.into()));
    }

    #[test]
    fn the_state_of_the_port_is_told() {
        assert_eq!(text(TapEvent::PortClosed, Style::Text), "2023-11-14T22:13:20.000042Z port     closed\n");
        let json: serde_json::Value = serde_json::from_str(&text(TapEvent::PortOpen, Style::Json)).unwrap();
        assert_eq!(json, json!({ "time": "2023-11-14T22:13:20.000042Z", "event": "port_open" }));
    }

    #[test]
    fn what_was_dropped_is_told() {
        let dropped = TapEvent::Dropped { count: 3 };
        assert_eq!(text(dropped, Style::Text), "2023-11-14T22:13:20.000042Z dropped  3 messages\n");
        let json: serde_json::Value = serde_json::from_str(&text(dropped, Style::Json)).unwrap();
        assert_eq!((&json["event"], &json["count"]), (&"dropped".into(), &3.into()));
    }
}
