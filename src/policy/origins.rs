//! What is known of the addresses that devices come from: how many devices each has, how often it connects, and which of
//! them flap and are refused for a while.
//!
//! **Invariants.** An address never has more devices than the limit. It connects as often at once as the rate allows in a
//! second, then in step with the rate; beyond, it is refused for the time that is set. No more than [`CONNECTS_MAX`]
//! addresses are held for how often they connect; those with devices are bounded by the devices.
//! **Not here.** Who asks, and on which thread (`shard::gate`). Time is what the caller says it is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// Addresses that are held for how often they connect; beyond, those go that are at rest, then the one that has been
/// quiet longest, and last the one whose refusal ends first.
pub const CONNECTS_MAX: usize = 4_096;

/// Addresses of devices, all of the process or a part of them. Without limits to begin with: see
/// [`set_limits`](Origins::set_limits).
#[derive(Debug)]
pub struct Origins {
    devices_max: usize,
    /// What one connect adds to the time in which a bucket runs empty; `None` where there is no rate.
    connect: Option<Duration>,
    refused_time: Duration,
    devices: HashMap<IpAddr, usize>,
    connects: HashMap<IpAddr, Connects>,
}

/// How often one address connects: a leaky bucket.
#[derive(Debug)]
struct Connects {
    empty_at: Duration,
    flap: Option<Flap>,
}

/// A source that flaps, and is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flap {
    /// When it began to be refused, since the start of the process, as is the next.
    pub since: Duration,
    /// Until when it is.
    pub until: Duration,
    /// How often it was refused meanwhile.
    pub times: u64,
}

/// What becomes of one connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connect {
    /// It is taken.
    Taken,
    /// It is one too many: the source is refused from here on.
    Flaps,
    /// The source is refused.
    Refused,
}

impl Default for Origins {
    fn default() -> Self {
        Origins {
            devices_max: usize::MAX,
            connect: None,
            refused_time: Duration::ZERO,
            devices: HashMap::new(),
            connects: HashMap::new(),
        }
    }
}

impl Origins {
    /// Goes by these limits from here on; `usize::MAX` is no bound. Who is refused stays so for as long as it was to be,
    /// where connects are bounded still.
    pub fn set_limits(&mut self, devices_max: usize, connects_per_second_max: usize, refused_time: Duration) {
        let is_bounded = connects_per_second_max != usize::MAX;
        self.devices_max = devices_max;
        self.connect = is_bounded.then(|| Duration::from_secs_f64(1.0 / connects_per_second_max as f64));
        self.refused_time = refused_time;
        if !is_bounded {
            self.connects.clear();
        }
    }

    /// A source, in canonical form, connects.
    pub fn connects(&mut self, ip: IpAddr, now: Duration) -> Connect {
        const AT_ONCE: Duration = Duration::from_secs(1);
        let Some(connect) = self.connect else { return Connect::Taken };
        if self.connects.len() >= CONNECTS_MAX && !self.connects.contains_key(&ip) {
            self.make_room(now);
        }
        let source = self.connects.entry(ip).or_insert(Connects { empty_at: now, flap: None });
        if let Some(flap) = source.flap.as_mut().filter(|flap| now < flap.until) {
            flap.times += 1;
            return Connect::Refused;
        }
        if source.flap.take().is_some() {
            source.empty_at = now;
        }
        source.empty_at = source.empty_at.max(now) + connect;
        // A bucket that was filled in one go is one second high; rounding may add to each connect.
        if source.empty_at - now <= AT_ONCE + connect / 2 {
            return Connect::Taken;
        }
        source.flap = Some(Flap { since: now, until: now + self.refused_time, times: 1 });
        Connect::Flaps
    }

    /// Lets a device of this source in; false where it has as many as it may. Who was let in [leaves](Self::leaves) once.
    pub fn enters(&mut self, ip: IpAddr) -> bool {
        let has_room = self.devices.get(&ip).is_none_or(|devices| *devices < self.devices_max);
        if has_room {
            self.is_there(ip);
        }
        has_room
    }

    /// Counts a device that is there already, whatever the limit.
    pub fn is_there(&mut self, ip: IpAddr) {
        *self.devices.entry(ip).or_default() += 1;
    }

    /// A device of this source is gone.
    pub fn leaves(&mut self, ip: IpAddr) {
        if let Some(devices) = self.devices.get_mut(&ip) {
            *devices -= 1;
            if *devices == 0 {
                self.devices.remove(&ip);
            }
        }
    }

    /// How many devices the address has that has most of them.
    pub fn devices_most(&self) -> usize {
        self.devices.values().copied().max().unwrap_or_default()
    }

    /// The sources that are refused at this moment.
    pub fn flapping(&self, now: Duration) -> impl Iterator<Item = (IpAddr, Flap)> {
        let flap = move |(ip, source): (&IpAddr, &Connects)| Some((*ip, source.flap.filter(|flap| now < flap.until)?));
        self.connects.iter().filter_map(flap)
    }

    /// Refuses a source no longer; false where it was not refused.
    pub fn forgive(&mut self, ip: IpAddr, now: Duration) -> bool {
        let flaps = self.flapping(now).any(|(flapping, _)| flapping == ip);
        if flaps {
            self.connects.remove(&ip);
        }
        flaps
    }

    fn make_room(&mut self, now: Duration) {
        let is_refused = |source: &Connects| source.flap.is_some_and(|flap| now < flap.until);
        self.connects.retain(|_, source| source.empty_at > now || is_refused(source));
        if self.connects.len() >= CONNECTS_MAX {
            let rank = |source: &Connects| source.flap.filter(|_| is_refused(source)).map(|flap| flap.until);
            let oldest = self.connects.iter().min_by_key(|(_, source)| (rank(source), source.empty_at));
            oldest.map(|(ip, _)| *ip).and_then(|ip| self.connects.remove(&ip));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Duration = Duration::from_secs(1_000);
    const SECOND: Duration = Duration::from_secs(1);
    const REFUSED: Duration = Duration::from_secs(60);

    fn origins(devices: usize, rate: usize) -> Origins {
        let mut origins = Origins::default();
        origins.set_limits(devices, rate, REFUSED);
        origins
    }

    fn ip(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn a_source_has_as_many_devices_as_it_may_and_no_more() {
        let mut origins = origins(2, usize::MAX);
        assert_eq!([0; 3].map(|_| origins.enters(ip(1))), [true, true, false]);
        assert!(origins.enters(ip(2)));
        origins.leaves(ip(1));
        assert_eq!([0; 2].map(|_| origins.enters(ip(1))), [true, false]);
        (0..2).for_each(|_| origins.leaves(ip(1)));
        origins.leaves(ip(2));
        assert!(origins.devices.is_empty());
    }

    #[test]
    fn devices_beyond_a_lower_limit_stay_and_no_more_are_let_in_until_it_is_met() {
        let mut origins = origins(usize::MAX, usize::MAX);
        assert!(origins.enters(ip(1)));
        (0..2).for_each(|_| origins.is_there(ip(1)));
        origins.set_limits(2, usize::MAX, REFUSED);
        assert!(!origins.enters(ip(1)) && origins.enters(ip(2)));
        origins.leaves(ip(1));
        assert!(!origins.enters(ip(1)));
        origins.leaves(ip(1));
        assert!(origins.enters(ip(1)) && !origins.enters(ip(1)));
    }

    #[test]
    fn who_is_refused_stays_so_under_another_rate_and_not_under_none() {
        let mut origins = origins(usize::MAX, 1);
        (0..2).for_each(|_| _ = origins.connects(ip(1), START));
        origins.set_limits(usize::MAX, 100, SECOND);
        assert_eq!(origins.connects(ip(1), START + REFUSED - SECOND), Connect::Refused);
        origins.set_limits(usize::MAX, usize::MAX, SECOND);
        assert_eq!(origins.connects(ip(1), START), Connect::Taken);
        assert_eq!(origins.flapping(START).count(), 0);
    }

    #[test]
    fn a_source_that_connects_too_often_is_refused_for_a_while_and_others_are_not() {
        for rate in [1, 3, 7, 1_000] {
            let mut origins = origins(usize::MAX, rate);
            assert!((0..rate).all(|_| origins.connects(ip(1), START) == Connect::Taken), "{rate}");
            assert_eq!(origins.connects(ip(1), START), Connect::Flaps, "{rate}");
            assert_eq!(origins.connects(ip(1), START + REFUSED - SECOND), Connect::Refused);
            assert_eq!(origins.connects(ip(2), START), Connect::Taken);
            let flapping: Vec<_> = origins.flapping(START).collect();
            assert_eq!(flapping, [(ip(1), Flap { since: START, until: START + REFUSED, times: 2 })]);
            assert_eq!(origins.connects(ip(1), START + REFUSED), Connect::Taken);
            assert_eq!(origins.flapping(START + REFUSED).count(), 0);
        }
    }

    #[test]
    fn a_source_in_step_with_the_rate_is_never_refused() {
        let mut origins = origins(usize::MAX, 4);
        (0..10_000u32).for_each(|at| assert_eq!(origins.connects(ip(1), START + at * SECOND / 4), Connect::Taken));
    }

    #[test]
    fn a_source_that_is_forgiven_starts_anew() {
        let mut origins = origins(usize::MAX, 1);
        (0..2).for_each(|_| _ = origins.connects(ip(1), START));
        assert!(!origins.forgive(ip(2), START) && origins.forgive(ip(1), START) && !origins.forgive(ip(1), START));
        assert_eq!(origins.connects(ip(1), START), Connect::Taken);
    }

    #[test]
    fn a_flood_of_sources_does_not_wash_out_one_that_is_refused() {
        let mut origins = origins(usize::MAX, 1);
        (0..2).for_each(|_| _ = origins.connects(ip(1), START));
        (2..20_000).for_each(|number| _ = origins.connects(ip(number), START));
        assert_eq!((origins.connects.len(), origins.connects(ip(1), START)), (CONNECTS_MAX, Connect::Refused));
    }

    proptest! {
        // Each case fills the table again and again.
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn the_table_is_bounded_and_a_source_connects_in_step_with_the_rate(
            connects in proptest::collection::vec((0..6_000u32, 0..40u64), 1..9_000), rate in 1..9usize,
        ) {
            let mut origins = origins(usize::MAX, rate);
            let (mut now, mut taken) = (START, 0usize);
            for (number, gap_us) in connects {
                now += Duration::from_micros(gap_us);
                // One of them again and again, the others now and then.
                let ip = ip(if number % 2 == 0 { 0 } else { number });
                taken += usize::from(origins.connects(ip, now) == Connect::Taken && number % 2 == 0);
                prop_assert!(origins.connects.len() <= CONNECTS_MAX);
            }
            let most = rate as f64 * (1.0 + (now - START).as_secs_f64()) + 1.0;
            prop_assert!(taken as f64 <= most, "{taken} of {most}");
        }
    }
}
