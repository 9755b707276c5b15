//! Lists of what there is: which rows match, in which order, and which page of them is asked for.
//!
//! A page begins behind the last row of the page before, and not at a number: rows that come and go meanwhile shift
//! nothing. Rows whose value changes meanwhile may be met twice or not at all; in the order of identity none are.
//!
//! **Invariants.** A page holds [`PAGE_ROWS_MAX`] rows at most, and so does what is kept while one is made. Every order is
//! total: rows of equal value are in the order of identity. What is not understood is refused, as a filter that is
//! passed over would widen what is found.
//! **Not here.** Collecting rows (`shard::survey`), and how they are written (`edge::lists`).

mod query;
mod rows;

pub use query::{Fault, Query, Scope, VALUE_BYTES_MAX, port_number};
pub use rows::{DeviceRow, DriverRow, FlapRow, PortRow, RefusalRow, Remote, Row, RowOf};

use std::collections::BinaryHeap;

/// Rows of one page at most.
pub const PAGE_ROWS_MAX: usize = 1_000;
/// Rows of one page where it is not said.
pub const PAGE_ROWS: usize = 100;

/// Where a row stands: by its value, then by its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    value: u128,
    identity: u128,
}

/// The kinds of lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Open ports.
    Ports,
    /// Sessions of drivers.
    Drivers,
    /// TCP devices.
    Devices,
    /// What was refused.
    Refusals,
    /// Sources that connect too often, and are refused for a while.
    Flapping,
}

/// What a list is ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The names say it; `name` spells them out for operators.
pub enum Order {
    Identity,
    Address,
    Since,
    LastSeen,
    BytesReceived,
    BytesWritten,
    Backlog,
    Credit,
    Drivers,
    Devices,
}

impl Order {
    /// As a request says it.
    pub fn name(self) -> &'static str {
        match self {
            Order::Identity => "id",
            Order::Address => "address",
            Order::Since => "since",
            Order::LastSeen => "last_seen",
            Order::BytesReceived => "bytes_received",
            Order::BytesWritten => "bytes_written",
            Order::Backlog => "backlog_bytes",
            Order::Credit => "credit_bytes",
            Order::Drivers => "drivers",
            Order::Devices => "devices",
        }
    }

    /// Those that a kind of list knows; the first is the usual one.
    pub fn of(kind: Kind) -> &'static [Order] {
        use Order::{
            Address, Backlog, BytesReceived, BytesWritten, Credit, Devices, Drivers, Identity, LastSeen, Since,
        };
        match kind {
            Kind::Ports => &[Identity, Since, BytesReceived, BytesWritten, Backlog, Drivers, Devices],
            Kind::Drivers => &[Identity, Address, Since, LastSeen, BytesReceived, BytesWritten, Backlog, Credit],
            Kind::Devices => &[Identity, Address, Since, LastSeen, BytesReceived, BytesWritten, Backlog],
            Kind::Refusals => &[LastSeen, Address],
            Kind::Flapping => &[Address, Since],
        }
    }
}

/// The first rows of a page, of all that were offered, and how many there were.
#[derive(Debug)]
pub struct Page<R> {
    /// Rows that match, on whichever page.
    pub total: usize,
    rows: BinaryHeap<Placed<R>>,
    rows_max: usize,
    after: Option<Place>,
}

#[derive(Debug)]
struct Placed<R>(Place, R);

impl<R> PartialEq for Placed<R> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<R> Eq for Placed<R> {}

impl<R> PartialOrd for Placed<R> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<R> Ord for Placed<R> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl<R> Page<R> {
    /// An empty page as a query wants it, and one row more, by which is known whether another page follows.
    pub fn new(query: &Query) -> Self {
        Page { total: 0, rows: BinaryHeap::new(), rows_max: query.rows_max + 1, after: query.after }
    }

    /// Offers a row that matches.
    pub fn offer(&mut self, place: Place, row: R) {
        self.total += 1;
        if self.after.is_some_and(|after| place <= after) {
            return;
        }
        if self.rows.len() < self.rows_max {
            self.rows.push(Placed(place, row));
        } else if let Some(mut last) = self.rows.peek_mut()
            && place < last.0
        {
            *last = Placed(place, row);
        }
    }

    /// Adds the page that another shard has found.
    pub fn merge(&mut self, other: Page<R>) {
        let total = self.total + other.total;
        other.rows.into_iter().for_each(|Placed(place, row)| self.offer(place, row));
        self.total = total;
    }

    /// The rows in order, and where the next page begins if there is one.
    pub fn into_rows(self) -> (Vec<R>, Option<Place>) {
        let mut placed = self.rows.into_sorted_vec();
        let has_more = placed.len() == self.rows_max;
        if has_more {
            placed.pop();
        }
        let last = placed.last().filter(|_| has_more).map(|last| last.0);
        (placed.into_iter().map(|Placed(_, row)| row).collect(), last)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn query(text: &str) -> Query {
        Query::parse(Kind::Devices, text).unwrap()
    }

    fn page_of(query: &Query, values: &[(u64, u64)]) -> Page<u64> {
        let mut page = Page::new(query);
        for (value, identity) in values {
            page.offer(query.place((*value).into(), (*identity).into()), *identity);
        }
        page
    }

    proptest! {
        #[test]
        fn pages_together_are_all_rows_in_order_whichever_shard_has_them(
            values in proptest::collection::vec(0u64..20, 0..60), rows in 1usize..9, falling in any::<bool>(),
        ) {
            let sort = if falling { "-bytes_received" } else { "bytes_received" };
            let rows_all: Vec<(u64, u64)> = values.iter().enumerate().map(|(id, value)| (*value, id as u64)).collect();
            let mut expected = rows_all.clone();
            expected.sort_by_key(|(value, id)| (if falling { u64::MAX - value } else { *value }, *id));
            let mut found = Vec::new();
            let mut after = String::new();
            loop {
                let query = query(&format!("limit={rows}&sort={sort}{after}"));
                let (one, other) = rows_all.split_at(rows_all.len() / 3);
                let mut page = page_of(&query, one);
                page.merge(page_of(&query, other));
                prop_assert_eq!(page.total, rows_all.len());
                let (some, next) = page.into_rows();
                prop_assert!(some.len() <= rows);
                found.extend(some);
                let Some(next) = next else { break };
                after = format!("&after={}", query.cursor(next));
            }
            prop_assert_eq!(found, expected.into_iter().map(|(_, id)| id).collect::<Vec<_>>());
        }
    }
}
