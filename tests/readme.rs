//! The README's table of settings, and the configuration file that is shipped, are those that the command line makes;
//! `UPDATE_README=1` writes them. Its tables of statuses and close codes give every reason for one.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::Path;

use ipnet::IpNet;
use uring_dispatch::config::{settings_table, template};
use uring_dispatch::policy::ending::{JoinRefusal, SessionEnd};
use uring_dispatch::policy::port_id::{PortId, Transport};
use uring_dispatch::protocol::message::MessageError;

const BEGIN: &str = "<!-- settings -->\n";
const END: &str = "<!-- /settings -->";

#[test]
fn the_readme_lists_every_setting_as_the_command_line_knows_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).unwrap_or_else(|| panic!("README.md has no line {BEGIN}"));
    let (written, after) = rest.split_once(END).unwrap_or_else(|| panic!("README.md has no line {END}"));
    let table = format!("\n{}\n", settings_table());
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
        return;
    }
    assert!(
        written == table,
        "README.md's settings are out of date. UPDATE_README=1 cargo test --test readme writes this there:\n{table}"
    );
}

#[test]
fn the_shipped_configuration_file_has_every_setting_as_the_command_line_knows_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/dispatch.toml");
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(&path, template()).unwrap();
        return;
    }
    let is_current = std::fs::read_to_string(&path).is_ok_and(|written| written == template());
    assert!(is_current, "packaging/dispatch.toml is out of date: UPDATE_README=1 cargo test --test readme");
}

/// What the README says of a code, in the table with this head.
fn meaning(head: &str, code: u16) -> String {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, table) = readme.split_once(&format!("\n| {head} | meaning |\n|---|---|\n")).unwrap();
    let rows = table.lines().map_while(|row| row.strip_prefix("| ")?.split_once(" | "));
    let has_code = |codes: &str| codes.split(", ").any(|told| told == code.to_string());
    let found = rows.into_iter().find(|(codes, _)| has_code(codes));
    found.unwrap_or_else(|| panic!("no row for the {head} {code}")).1.to_owned()
}

#[test]
fn the_readme_says_every_reason_for_a_status() {
    let in_words = |refusal| match refusal {
        JoinRefusal::InUse => "another program holds the port",
        JoinRefusal::OpenWithTls | JoinRefusal::OpenWithoutTls => "it is open with TLS and not without, or the reverse",
        JoinRefusal::NotAllowed | JoinRefusal::OwnPort | JoinRefusal::PortNotAllowed(_) => "the port",
        JoinRefusal::SourceNotAllowed(_) => "an entry of `accept`",
        JoinRefusal::NoFamily => "the host has no socket of the address family",
        JoinRefusal::NoMemory | JoinRefusal::TooManySessions => "no room for another session",
        JoinRefusal::TooManyOfToken => "the token has as many drivers as it may",
        JoinRefusal::TooManyPorts => "no room for another session or port",
        // No driver meets it: it is a tap's.
        JoinRefusal::TooManyTaps => "",
        JoinRefusal::Draining => "the daemon is stopping",
        JoinRefusal::Io(_) => "the port could not be opened",
    };
    let port = PortId { transport: Transport::Tcp, number: NonZeroU16::MIN };
    let every = [
        JoinRefusal::InUse,
        JoinRefusal::OpenWithTls,
        JoinRefusal::OpenWithoutTls,
        JoinRefusal::NotAllowed,
        JoinRefusal::OwnPort,
        JoinRefusal::PortNotAllowed(port),
        JoinRefusal::SourceNotAllowed(IpNet::from(IpAddr::from([127, 0, 0, 1]))),
        JoinRefusal::NoFamily,
        JoinRefusal::NoMemory,
        JoinRefusal::TooManySessions,
        JoinRefusal::TooManyOfToken,
        JoinRefusal::TooManyPorts,
        JoinRefusal::TooManyTaps,
        JoinRefusal::Draining,
        JoinRefusal::Io(ErrorKind::Other),
    ];
    assert_eq!(every.map(JoinRefusal::name).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(JoinRefusal::NAMES));
    for refusal in every {
        let (meaning, words) = (meaning("status", refusal.status()), in_words(refusal));
        assert!(meaning.contains(words), "{} does not say that {words}: {meaning}", refusal.status());
    }
}

#[test]
fn the_readme_says_every_reason_for_a_close_code() {
    let in_words = |end| match end {
        SessionEnd::Drained => "the daemon stops",
        SessionEnd::Undecodable(_) | SessionEnd::Violation => "the driver broke the protocol",
        SessionEnd::NotUtf8 => "a text that is not UTF-8",
        SessionEnd::Operator => "the operator disconnected the driver",
        SessionEnd::TooBig => "a message over `--message-bytes-max`",
        SessionEnd::Silent => "no life for `--driver-silence-ms-max`",
        SessionEnd::Failed => "an internal error",
        SessionEnd::Stalled => "it took nothing for `--stall-ms-max`",
        SessionEnd::NoMemory => "a large message found no memory",
        // With these the daemon sends no code of its own.
        SessionEnd::DriverClosed | SessionEnd::DriverGone | SessionEnd::Io(_) | SessionEnd::KeysUsedUp => "",
    };
    let every = [
        SessionEnd::DriverClosed,
        SessionEnd::DriverGone,
        SessionEnd::Io(ErrorKind::Other),
        SessionEnd::Undecodable(MessageError::Empty),
        SessionEnd::Violation,
        SessionEnd::TooBig,
        SessionEnd::NotUtf8,
        SessionEnd::Stalled,
        SessionEnd::Silent,
        SessionEnd::NoMemory,
        SessionEnd::Drained,
        SessionEnd::Failed,
        SessionEnd::Operator,
        SessionEnd::KeysUsedUp,
    ];
    assert_eq!(every.map(SessionEnd::name).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(SessionEnd::NAMES));
    for end in every {
        let Some(code) = end.close_code() else { continue };
        let (meaning, words) = (meaning("close code", code), in_words(end));
        assert!(meaning.contains(words), "{code} does not say that {words}: {meaning}");
    }
}
