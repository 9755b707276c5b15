//! The configuration file: what is taken are settings and texts that its TOML has; what is refused is said in one line
//! with a place in the file, and without a value.

use std::path::Path;
use uring_dispatch::config::{ConfigError, Position, file, settings};

/// Reads `input` as a configuration file.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let lines = text.lines().count().max(1) + 1;
    let is_inside = |position: &Position| {
        let line = text.split('\n').nth(position.line - 1).unwrap_or_default();
        (1..=lines).contains(&position.line) && (1..=line.chars().count() + 1).contains(&position.column)
    };
    let entries = match file::parse(Path::new("d.toml"), text) {
        Ok(entries) => entries,
        Err(fault) => return check_fault(&fault, is_inside),
    };
    let known = settings();
    for (key, entry) in entries {
        let setting = known.iter().find(|setting| setting.key.as_deref() == Some(&key));
        assert!(setting.is_some(), "{key} is no setting");
        assert!(is_inside(&entry.position), "{key}: {}", entry.position);
        assert!(entry.elements.iter().all(|(_, position)| is_inside(position)), "{key}");
        let joined: Vec<&str> = entry.elements.iter().map(|(text, _)| text.as_str()).collect();
        assert!(joined.is_empty() || joined.join(",") == entry.text, "{key}");
    }
}

fn check_fault(fault: &ConfigError, is_inside: impl Fn(&Position) -> bool) {
    let line = fault.to_string();
    assert!(!line.contains(['\n', '\r']), "{line:?}");
    match fault {
        ConfigError::Syntax { position, .. }
        | ConfigError::UnknownKey { position, .. }
        | ConfigError::Section { position, .. }
        | ConfigError::Form { position, .. } => assert!(is_inside(position), "{line}"),
        other => panic!("{other} of a text alone"),
    }
}
