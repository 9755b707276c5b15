//! Queries of lists: what is refused names a parameter that is there, and what is taken is there once and in bounds.

use form_urlencoded::parse;
use std::borrow::Cow;
use uring_dispatch::policy::listing::{Kind, Query, VALUE_BYTES_MAX};

const KINDS: [Kind; 5] = [Kind::Ports, Kind::Drivers, Kind::Devices, Kind::Refusals, Kind::Flapping];

/// Reads `input`, behind a first byte that says which list it is of, as a query.
pub fn check(input: &[u8]) {
    let Some((&kind, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let kind = KINDS[usize::from(kind) % KINDS.len()];
    let pairs: Vec<_> = parse(text.as_bytes()).filter(|(name, _)| name != "bearer_token").collect();
    match Query::parse(kind, text) {
        Err(fault) => {
            assert!(fault.parameter.chars().count() <= 32 && !fault.restriction.is_empty());
            assert!(pairs.iter().any(|(name, _)| name.starts_with(&fault.parameter)), "{fault:?}");
        }
        Ok(_) => check_taken(&pairs),
    }
}

fn check_taken(pairs: &[(Cow<'_, str>, Cow<'_, str>)]) {
    for (at, (name, value)) in pairs.iter().enumerate() {
        assert!(value.len() <= VALUE_BYTES_MAX);
        assert!(!pairs[..at].iter().any(|(before, _)| before == name), "{name} is there twice");
    }
    let value = |wanted: &str| pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_ref());
    if let (Some(order), Some(place)) = (value("sort"), value("after")) {
        assert!(place.strip_prefix(order).is_some_and(|rest| rest.starts_with('~')), "a place of another order");
    }
    assert!(value("port").is_none_or(|port| port.trim_start_matches('0').parse().is_ok_and(|port: u16| port > 0)));
}
