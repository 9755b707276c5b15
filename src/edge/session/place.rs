//! A session's place among those of its shard and of the process.
//!
//! **Invariants.** It is taken before the join and given back when the session's socket is done with. A tap is no
//! session of its shard: what waits for those, such as a drain, does not wait for taps.
//! **Not here.** The memory of a session (`api` reserves it).

use crate::policy::budget::Reservation;
use crate::shard::resources::Resources;
use std::rc::Rc;

/// One place; dropping it gives it back.
pub struct Place {
    /// Whose sessions it counts among; none for a tap.
    counted: Option<Rc<Resources>>,
    _place: Reservation,
}

impl Place {
    /// Takes a driver's place, if there is one.
    pub fn take(resources: &Rc<Resources>) -> Option<Self> {
        let place = resources.shared.sessions.reserve(1)?;
        resources.sessions.set(resources.sessions.get() + 1);
        Some(Place { counted: Some(resources.clone()), _place: place })
    }

    /// Takes a tap's place, if there is one.
    pub fn take_for_tap(resources: &Resources) -> Option<Self> {
        Some(Place { counted: None, _place: resources.shared.taps.reserve(1)? })
    }

    /// Whether it is a tap's.
    pub fn is_tap(&self) -> bool {
        self.counted.is_none()
    }

    /// Who has it, for log lines.
    pub fn owner(&self) -> &'static str {
        if self.is_tap() { "tap" } else { "driver" }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(resources) = &self.counted {
            resources.sessions.set(resources.sessions.get() - 1);
        }
    }
}
