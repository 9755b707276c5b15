//! Failed tokens by address: one leaky bucket each, which says whether the next request is checked, waits, or is refused.
//!
//! **Invariants.** An address that is asked for before each check fails at most [`REFUSED_FROM`] times at once and
//! [`LEAK_PER_SECOND`] times a second, whatever others do; no more than [`ADDRESSES_MAX`] addresses are held, and none
//! whose bucket is empty.
//! **Not here.** Tokens (`token`), and the waiting (`edge::door`). Time is what the caller says it is.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Failures that a bucket forgets in a second: twenty drivers that retry every second with a wrong token hold nobody up.
pub const LEAK_PER_SECOND: u32 = 20;
/// The level from which requests wait.
pub const SLOWED_FROM: u32 = 40;
/// The level from which requests are refused.
pub const REFUSED_FROM: u32 = 80;
/// Addresses that are held; beyond, the one with the least level goes.
pub const ADDRESSES_MAX: usize = 1_024;

/// What one failure adds to the time in which a bucket runs empty.
const FAILURE: Duration = Duration::from_millis(1_000 / LEAK_PER_SECOND as u64);
/// The networks of IPv6 hosts: whoever has one has all of its addresses.
const NETWORK_V6: u128 = !(u64::MAX as u128);

/// The buckets of one shard.
#[derive(Debug, Default)]
pub struct Attempts {
    /// When each bucket is empty, on the caller's clock; its level is the time until then, in failures of 50 ms.
    empty_at: HashMap<IpAddr, Duration>,
}

/// What is to be done with a request that needs a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its token is checked at once.
    Check,
    /// It waits for this long (2 s at most), is asked for again, and is checked unless it is refused then.
    Wait(Duration),
    /// It is answered unchecked.
    Refuse,
}

impl Attempts {
    /// What is to be done with a request from an address in canonical form, at `now` since the start.
    pub fn ask(&self, ip: IpAddr, now: Duration) -> Verdict {
        let full = self.empty_at.get(&network(ip)).map_or(Duration::ZERO, |at| at.saturating_sub(now));
        if full >= FAILURE * REFUSED_FROM {
            Verdict::Refuse
        } else if full >= FAILURE * SLOWED_FROM {
            Verdict::Wait(full - FAILURE * SLOWED_FROM)
        } else {
            Verdict::Check
        }
    }

    /// A token from this address was wrong.
    pub fn failed(&mut self, ip: IpAddr, now: Duration) {
        self.empty_at.retain(|_, at| *at > now);
        let network = network(ip);
        if self.empty_at.len() >= ADDRESSES_MAX && !self.empty_at.contains_key(&network) {
            let least = self.empty_at.iter().min_by_key(|(_, at)| **at).map(|(ip, _)| *ip);
            least.and_then(|ip| self.empty_at.remove(&ip));
        }
        *self.empty_at.entry(network).or_insert(now) += FAILURE;
    }

    /// How many addresses are held.
    pub fn len(&self) -> usize {
        self.empty_at.len()
    }

    /// Whether no address is held.
    pub fn is_empty(&self) -> bool {
        self.empty_at.is_empty()
    }
}

/// What is counted as one: an IPv4 address, or the /64 of an IPv6 address.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & NETWORK_V6)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn numbered(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    fn fail(attempts: &mut Attempts, from: IpAddr, times: u32, now: Duration) {
        (0..times).for_each(|_| attempts.failed(from, now));
    }

    const START: Duration = Duration::from_secs(1_000);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn failures_slow_an_address_from_forty_on_and_close_it_from_eighty_on() {
        let mut attempts = Attempts::default();
        let guesser = ip("10.0.0.9");
        fail(&mut attempts, guesser, 39, START);
        assert_eq!(attempts.ask(guesser, START), Verdict::Check);
        fail(&mut attempts, guesser, 1, START);
        assert_eq!(attempts.ask(guesser, START), Verdict::Wait(Duration::ZERO));
        fail(&mut attempts, guesser, 20, START);
        assert_eq!(attempts.ask(guesser, START), Verdict::Wait(SECOND));
        fail(&mut attempts, guesser, 19, START);
        assert_eq!(attempts.ask(guesser, START), Verdict::Wait(Duration::from_millis(1_950)));
        fail(&mut attempts, guesser, 1, START);
        assert_eq!(attempts.ask(guesser, START), Verdict::Refuse);
        assert_eq!(attempts.ask(guesser, START + SECOND), Verdict::Wait(SECOND));
        assert_eq!(attempts.ask(guesser, START + 2 * SECOND), Verdict::Wait(Duration::ZERO));
        assert_eq!(attempts.ask(guesser, START + 2 * SECOND + FAILURE), Verdict::Check);
    }

    #[test]
    fn other_addresses_are_not_affected() {
        let mut attempts = Attempts::default();
        fail(&mut attempts, ip("10.0.0.9"), 80, START);
        for other in ["10.0.0.8", "10.0.0.10", "::1"] {
            assert_eq!(attempts.ask(ip(other), START), Verdict::Check);
        }
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_address() {
        let mut attempts = Attempts::default();
        (0..80u128).for_each(|host| {
            attempts.failed(IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) | host << 40)), START);
        });
        assert_eq!(attempts.len(), 1);
        assert_eq!(attempts.ask(ip("2001:db8::1234:5678"), START), Verdict::Refuse);
        assert_eq!(attempts.ask(ip("2001:db8:0:1::1"), START), Verdict::Check);
    }

    #[test]
    fn drivers_that_share_an_address_with_misconfigured_ones_are_never_held_up() {
        let mut attempts = Attempts::default();
        let shared = ip("10.0.0.1");
        // All of them begin with the same restart; each then tries again every second, the fastest that drivers do.
        const MISCONFIGURED: u32 = 19;
        for second in 0..600 {
            for number in 0..MISCONFIGURED {
                let now = START + second * SECOND;
                assert_eq!(attempts.ask(shared, now), Verdict::Check, "driver {number} in second {second}");
                attempts.failed(shared, now);
            }
            assert_eq!(attempts.ask(shared, START + second * SECOND), Verdict::Check, "a good driver");
        }
        assert_eq!(attempts.len(), 1);
    }

    #[test]
    fn of_too_many_addresses_the_one_with_the_least_level_goes() {
        let mut attempts = Attempts::default();
        let guesser = ip("192.168.0.1");
        fail(&mut attempts, guesser, 60, START);
        let count = u32::try_from(ADDRESSES_MAX).unwrap() - 1;
        (1..=count).for_each(|number| fail(&mut attempts, numbered(number), if number == 7 { 1 } else { 2 }, START));
        assert_eq!(attempts.len(), ADDRESSES_MAX);
        attempts.failed(numbered(count + 1), START);
        assert_eq!(attempts.len(), ADDRESSES_MAX);
        assert!(!attempts.empty_at.contains_key(&numbered(7)));
        // A flood from ever new addresses does not wash a guesser out of the table.
        (count + 2..9_000).for_each(|number| attempts.failed(numbered(number), START));
        assert_eq!((attempts.len(), attempts.ask(guesser, START)), (ADDRESSES_MAX, Verdict::Wait(SECOND)));
    }

    #[test]
    fn buckets_that_have_run_empty_are_dropped() {
        let mut attempts = Attempts::default();
        (0..100).for_each(|number| attempts.failed(numbered(number), START));
        attempts.failed(numbered(100), START + FAILURE);
        assert_eq!(attempts.len(), 1);
    }

    proptest! {
        // Each case fills and searches the table again and again.
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn the_table_never_grows_beyond_its_bound(
            failures in proptest::collection::vec((any::<IpAddr>(), 0..100u64), 1..3_000),
        ) {
            let mut attempts = Attempts::default();
            let mut now = START;
            for (from, gap_us) in failures {
                now += Duration::from_micros(gap_us);
                attempts.failed(from, now);
                prop_assert!(attempts.len() <= ADDRESSES_MAX && attempts.empty_at.contains_key(&network(from)));
            }
        }
    }

    proptest! {
        #[test]
        fn the_checks_of_an_address_are_bounded_however_it_asks(
            gaps_ms in proptest::collection::vec(0..200u64, 1..600),
        ) {
            let mut attempts = Attempts::default();
            let guesser = ip("10.0.0.9");
            let (mut now, mut checks) = (START, 0u32);
            for gap in gaps_ms {
                now += Duration::from_millis(gap);
                match attempts.ask(guesser, now) {
                    Verdict::Refuse => continue,
                    // Many at once may have waited, so the wait itself bounds nothing.
                    Verdict::Wait(time) => prop_assert!(time < 2 * SECOND),
                    Verdict::Check => {}
                }
                checks += 1;
                attempts.failed(guesser, now);
                let leaked = (now - START).as_millis() as u32 * LEAK_PER_SECOND / 1_000;
                prop_assert!(checks <= REFUSED_FROM + leaked + 1, "{checks} checks, {leaked} leaked");
            }
        }
    }
}
