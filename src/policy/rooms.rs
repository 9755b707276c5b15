//! Who of those that come gets one of a few rooms: on a port with TLS, who shakes hands.
//!
//! **Invariants.** No more have a room than there are. Where all are taken, a source takes one from the source that has
//! most, as long as it has two fewer, and otherwise waits: so a source that takes all it can holds no other back, and many
//! that come back at once wait for each other. A room that becomes free goes to a source that has none, or else fewest of
//! all, and there to the newest, who is there still.
//! **Not here.** How long one may wait, and what a room is for (`shard::secured_port`).

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// The rooms, and who waits for one.
#[derive(Debug)]
pub struct Rooms {
    rooms_max: usize,
    next: u64,
    /// Those that have one, in the order of getting it.
    inside: Vec<(u64, IpAddr)>,
    /// Those that wait.
    outside: HashMap<IpAddr, BTreeSet<u64>>,
}

/// What becomes of one that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// It has a room.
    Inside,
    /// It has the room of this one, which has it no longer.
    InPlaceOf(u64),
    /// It waits for one.
    Outside,
}

impl Rooms {
    /// So many rooms, all of them free.
    pub fn new(rooms_max: usize) -> Self {
        Rooms { rooms_max, next: 0, inside: Vec::new(), outside: HashMap::new() }
    }

    /// One of this source comes; the answer has its number, by which it [leaves](Self::leave) once.
    pub fn arrive(&mut self, source: IpAddr) -> (u64, Arrived) {
        let number = self.next;
        self.next += 1;
        if self.inside.len() < self.rooms_max {
            self.inside.push((number, source));
            return (number, Arrived::Inside);
        }
        let most = self.inside.iter().map(|(_, source)| self.rooms_of(*source)).max().unwrap_or_default();
        if self.rooms_of(source) + 1 >= most {
            self.outside.entry(source).or_default().insert(number);
            return (number, Arrived::Outside);
        }
        // The one of them that has had its room longest.
        let longest = self.inside.iter().position(|(_, source)| self.rooms_of(*source) == most).unwrap_or_default();
        let (gone, _) = self.inside.remove(longest);
        self.inside.push((number, source));
        (number, Arrived::InPlaceOf(gone))
    }

    /// One of this source goes, or waits no longer; the answer is who has its room instead.
    pub fn leave(&mut self, number: u64, source: IpAddr) -> Option<u64> {
        if let Some(outside) = self.outside.get_mut(&source)
            && outside.remove(&number)
        {
            if outside.is_empty() {
                self.outside.remove(&source);
            }
            return None;
        }
        let at = self.inside.iter().position(|(inside, _)| *inside == number)?;
        self.inside.remove(at);
        let source = self.neediest()?;
        let outside = self.outside.get_mut(&source)?;
        let next = outside.pop_last()?;
        if outside.is_empty() {
            self.outside.remove(&source);
        }
        self.inside.push((next, source));
        Some(next)
    }

    /// Of the sources that wait the one with fewest rooms. Looks at one more than have a room at most.
    fn neediest(&self) -> Option<IpAddr> {
        let mut best = None;
        for source in self.outside.keys() {
            let rooms = self.rooms_of(*source);
            if rooms == 0 {
                return Some(*source);
            }
            if best.is_none_or(|(fewest, _)| rooms < fewest) {
                best = Some((rooms, *source));
            }
        }
        best.map(|(_, source)| source)
    }

    fn rooms_of(&self, source: IpAddr) -> usize {
        self.inside.iter().filter(|(_, inside)| *inside == source).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn a_source_that_takes_all_rooms_gives_the_one_that_it_has_longest_to_another() {
        let mut rooms = Rooms::new(3);
        assert_eq!(
            [0; 4].map(|_| rooms.arrive(ip(1)).1),
            [Arrived::Inside, Arrived::Inside, Arrived::Inside, Arrived::Outside]
        );
        assert_eq!(rooms.arrive(ip(2)), (4, Arrived::InPlaceOf(0)));
        // It has as many from here on as the first would have without another.
        assert_eq!(rooms.arrive(ip(2)), (5, Arrived::Outside));
        assert_eq!(rooms.leave(0, ip(1)), None);
        assert_eq!(rooms.arrive(ip(3)), (6, Arrived::InPlaceOf(1)));
    }

    #[test]
    fn a_room_goes_to_the_source_with_fewest_and_there_to_the_newest() {
        let mut rooms = Rooms::new(2);
        for source in [1, 2, 1, 1, 3, 3] {
            rooms.arrive(ip(source));
        }
        assert_eq!(rooms.leave(5, ip(3)), None);
        assert_eq!(rooms.leave(1, ip(2)), Some(4));
        assert_eq!(rooms.leave(4, ip(3)), Some(3));
        assert_eq!(rooms.leave(0, ip(1)), Some(2));
        assert_eq!([rooms.leave(3, ip(1)), rooms.leave(2, ip(1))], [None, None]);
        assert!(rooms.inside.is_empty() && rooms.outside.is_empty());
    }

    proptest! {
        #[test]
        fn rooms_are_used_and_nobody_is_forgotten(steps in proptest::collection::vec((any::<bool>(), 0..6u32), 1..300)) {
            let mut rooms = Rooms::new(4);
            let mut there: Vec<(u64, u32)> = Vec::new();
            let mut inside: Vec<u64> = Vec::new();
            for (comes, source) in steps {
                if comes || there.is_empty() {
                    let (number, arrived) = rooms.arrive(ip(source));
                    there.push((number, source));
                    match arrived {
                        Arrived::Inside => inside.push(number),
                        Arrived::Outside => prop_assert_eq!(inside.len(), 4),
                        Arrived::InPlaceOf(gone) => {
                            prop_assert!(inside.contains(&gone));
                            inside.retain(|number| *number != gone);
                            inside.push(number);
                        }
                    }
                } else {
                    let (number, source) = there.remove(source as usize % there.len());
                    let was_inside = inside.contains(&number);
                    inside.retain(|inside| *inside != number);
                    if let Some(next) = rooms.leave(number, ip(source)) {
                        prop_assert!(was_inside && there.iter().any(|(number, _)| *number == next));
                        inside.push(next);
                    }
                }
                let outside: usize = rooms.outside.values().map(BTreeSet::len).sum();
                prop_assert!(outside == 0 || rooms.inside.len() == 4);
                prop_assert_eq!(rooms.inside.len(), inside.len());
            }
        }
    }
}
