//! What a request for a list says: its filter, its order, its page.
//!
//! **Invariants.** A parameter that is unknown, twice there, too long or of the wrong form is refused.
//! **Not here.** Rows and pages (`listing`).

use super::rows::Row;
use super::{Kind, Order, PAGE_ROWS, PAGE_ROWS_MAX, Place};
use crate::policy::port_id::{PortId, Transport};
use crate::policy::sources::Sources;
use std::borrow::Cow;
use std::net::IpAddr;
use std::num::NonZeroU16;

/// The longest value of a parameter.
pub const VALUE_BYTES_MAX: usize = 512;
/// The most that one request may disconnect.
const EXPECTED_MAX: usize = 100_000;
/// What is read by whoever checks tokens.
const TOKEN_PARAMETER: &str = "bearer_token";

/// One request for a list.
#[derive(Debug, Clone)]
pub struct Query {
    kind: Kind,
    address: Option<Sources>,
    transport: Option<Transport>,
    port: Option<NonZeroU16>,
    id: Option<u64>,
    module: Option<String>,
    has_backlog: bool,
    idle_s_min: Option<u32>,
    order: Order,
    falls: bool,
    /// Rows of the page.
    pub(super) rows_max: usize,
    pub(super) after: Option<Place>,
    /// How many rows are to be disconnected, where that is asked for.
    pub expected: Option<usize>,
}

/// Where rows that match can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// The only port.
    pub port: Option<PortId>,
    /// The only id.
    pub id: Option<u64>,
}

/// A parameter that is not taken, and what it has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The parameter; cut where it is long.
    pub parameter: String,
    /// What it has to be.
    pub restriction: Cow<'static, str>,
}

impl Query {
    /// Reads the query of a request's target.
    ///
    /// # Errors
    /// The first parameter that is not taken.
    pub fn parse(kind: Kind, text: &str) -> Result<Query, Fault> {
        let mut query = Query::all(kind);
        let mut seen = Vec::new();
        let mut cursor = None;
        for (name, value) in form_urlencoded::parse(text.as_bytes()).filter(|(name, _)| name != TOKEN_PARAMETER) {
            let fault = |restriction: Cow<'static, str>| {
                let parameter = name.chars().take(32).collect();
                Fault { parameter, restriction }
            };
            if seen.contains(&name) {
                return Err(fault("must be there once".into()));
            }
            if value.len() > VALUE_BYTES_MAX {
                return Err(fault(format!("must be of {VALUE_BYTES_MAX} bytes at most").into()));
            }
            if name == "after" {
                cursor = Some(value.clone());
            } else {
                query.take(&name, &value).map_err(fault)?;
            }
            seen.push(name);
        }
        if let Some(cursor) = cursor {
            let restriction = "must be the `next` of a page in the same order";
            let fault = || Fault { parameter: "after".into(), restriction: restriction.into() };
            query.after = Some(query.read_cursor(&cursor).ok_or_else(fault)?);
        }
        Ok(query)
    }

    /// Everything of a kind, in the usual order.
    fn all(kind: Kind) -> Query {
        Query {
            kind,
            address: None,
            transport: None,
            port: None,
            id: None,
            module: None,
            has_backlog: false,
            idle_s_min: None,
            order: Order::of(kind)[0],
            // The newest first.
            falls: kind == Kind::Refusals,
            rows_max: PAGE_ROWS,
            after: None,
            expected: None,
        }
    }

    /// The one row of a kind that is about this address.
    pub fn of_address(kind: Kind, ip: IpAddr) -> Query {
        Query { address: Some(Sources::from(ip)), rows_max: 1, expected: Some(1), ..Query::all(kind) }
    }

    /// One row of a kind, of which there is to be one.
    pub fn one(kind: Kind, port: Option<PortId>, id: Option<u64>) -> Query {
        let (transport, number) = (port.map(|port| port.transport), port.map(|port| port.number));
        Query { transport, port: number, id, rows_max: 1, expected: Some(1), ..Query::all(kind) }
    }

    /// What it lists.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Takes one parameter.
    fn take(&mut self, name: &str, value: &str) -> Result<(), Cow<'static, str>> {
        let about_remotes = matches!(self.kind, Kind::Drivers | Kind::Devices);
        let has_backlog = !matches!(self.kind, Kind::Refusals | Kind::Flapping);
        let has_port = self.kind != Kind::Flapping;
        match name {
            "transport" if has_port => self.transport = Some(Transport::parse(value).ok_or("must be tcp or udp")?),
            "port" if has_port => self.port = Some(port_number(value).ok_or("must be a number from 1 to 65535")?),
            "backlog" if has_backlog => self.has_backlog = flag(value).ok_or("must be true or false")?,
            "limit" => {
                let rows = value.parse().ok().filter(|rows| (1..=PAGE_ROWS_MAX).contains(rows));
                self.rows_max = rows.ok_or_else(|| format!("must be a number from 1 to {PAGE_ROWS_MAX}"))?;
            }
            "sort" => self.take_order(value)?,
            "expected" if about_remotes || self.kind == Kind::Flapping => {
                let expected = value.parse().ok().filter(|expected| *expected <= EXPECTED_MAX);
                self.expected = Some(expected.ok_or_else(|| format!("must be a number up to {EXPECTED_MAX}"))?);
            }
            "address" if self.kind != Kind::Ports => {
                self.address = Some(Sources::parse(value).map_err(|fault| fault.to_string())?);
            }
            "module" if about_remotes => self.module = Some(value.to_owned()),
            "idle_seconds_min" if about_remotes => {
                self.idle_s_min = Some(value.parse().map_err(|_| "must be a number of seconds")?);
            }
            _ => return Err("is not known here".into()),
        }
        Ok(())
    }

    fn take_order(&mut self, value: &str) -> Result<(), Cow<'static, str>> {
        self.falls = value.starts_with('-');
        let name = value.strip_prefix('-').unwrap_or(value);
        let known = Order::of(self.kind);
        self.order = *known.iter().find(|order| order.name() == name).ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|order| order.name()).collect();
            format!("must be one of {}, with a minus before it to fall", names.join(", "))
        })?;
        Ok(())
    }

    /// Where to look for rows.
    pub fn scope(&self) -> Scope {
        let port = self.transport.zip(self.port).map(|(transport, number)| PortId { transport, number });
        Scope { port, id: self.id }
    }

    /// Whether rows of this port may match.
    pub fn takes_port(&self, port: PortId) -> bool {
        self.transport.is_none_or(|transport| transport == port.transport)
            && self.port.is_none_or(|number| number == port.number)
    }

    /// Whether a row matches; `has_module` tells whether it belongs to a driver with this module id.
    pub fn takes(&self, row: &dyn Row, now_s: u32, has_module: impl FnOnce(&str) -> bool) -> bool {
        row.port().map_or(self.transport.is_none() && self.port.is_none(), |port| self.takes_port(port))
            && self.id.is_none_or(|id| row.identity() as u64 == id)
            && (!self.has_backlog || row.backlog_bytes() > 0)
            && self.idle_s_min.is_none_or(|idle_s| now_s.saturating_sub(row.seen_s()) >= idle_s)
            && self.address.as_ref().is_none_or(|sources| row.ip().is_some_and(|ip| sources.accepts(ip)))
            && self.module.as_deref().is_none_or(has_module)
    }

    /// Where a row stands in this query's order.
    pub fn place_of(&self, row: &dyn Row) -> Place {
        self.place(row.value(self.order), row.identity())
    }

    pub(super) fn place(&self, value: u128, identity: u128) -> Place {
        Place { value: if self.falls { !value } else { value }, identity }
    }

    /// A place as a request gives it back in `after`.
    pub fn cursor(&self, place: Place) -> String {
        format!("{}~{:x}~{:x}", self.order_text(), place.value, place.identity)
    }

    fn read_cursor(&self, text: &str) -> Option<Place> {
        let mut parts = text.split('~');
        let is_of_this_order = parts.next()? == self.order_text();
        let value = u128::from_str_radix(parts.next()?, 16).ok()?;
        let identity = u128::from_str_radix(parts.next()?, 16).ok()?;
        (is_of_this_order && parts.next().is_none()).then_some(Place { value, identity })
    }

    fn order_text(&self) -> String {
        format!("{}{}", if self.falls { "-" } else { "" }, self.order.name())
    }
}

/// Decimal digits alone, leading zeros allowed.
pub fn port_number(text: &str) -> Option<NonZeroU16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let significant = text.trim_start_matches('0');
    (digits && significant.len() <= 5).then(|| significant.parse().ok()).flatten()
}

fn flag(value: &str) -> Option<bool> {
    match value {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for (text, parameter) in [
            ("adress=10.0.0.1", "adress"),
            ("address=bogus", "address"),
            ("port=0", "port"),
            ("port=1&port=2", "port"),
            ("transport=sctp", "transport"),
            ("backlog=yes", "backlog"),
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("sort=credit_bytes", "sort"),
            ("idle_seconds_min=-1", "idle_seconds_min"),
            ("after=x", "after"),
            ("sort=since&after=id~0~0", "after"),
            ("after=id~0~0~0", "after"),
            ("expected=100001", "expected"),
        ] {
            assert_eq!(Query::parse(Kind::Devices, text).unwrap_err().parameter, parameter, "{text}");
        }
        assert_eq!(Query::parse(Kind::Refusals, "backlog=true").unwrap_err().parameter, "backlog");
        assert_eq!(Query::parse(Kind::Ports, "module=x").unwrap_err().parameter, "module");
        assert_eq!(Query::parse(Kind::Flapping, "address=::1&port=1").unwrap_err().parameter, "port");
        assert!(Query::parse(Kind::Devices, &format!("module={}", "a".repeat(VALUE_BYTES_MAX + 1))).is_err());
        assert!(Query::parse(Kind::Drivers, "bearer_token=x&sort=-credit_bytes&after=-credit_bytes~0~a").is_ok());
    }

    #[test]
    fn a_port_is_decimal_digits_from_1_to_65535() {
        assert_eq!(port_number("80").map(NonZeroU16::get), Some(80));
        assert_eq!(port_number("0000065535").map(NonZeroU16::get), Some(65_535));
        for text in
            ["", "0", "000", "65536", "70000", "-1", "+1", " 1", "1 ", "0x1", "1.0", "٣", "99999999999999999999"]
        {
            assert_eq!(port_number(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,80}") {
            for kind in [Kind::Ports, Kind::Drivers, Kind::Devices, Kind::Refusals, Kind::Flapping] {
                let _ = Query::parse(kind, &text);
            }
        }
    }
}
