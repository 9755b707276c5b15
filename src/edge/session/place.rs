//! A session's place among those of its shard and of the process.
//!
//! **Invariants.** It is taken before the join and given back when the session's socket is done with.
//! **Not here.** The memory of a session (`api` reserves it).

use crate::policy::budget::Reservation;
use crate::shard::resources::Resources;
use std::rc::Rc;

/// One place; dropping it gives it back.
pub struct Place {
    resources: Rc<Resources>,
    _place: Reservation,
}

impl Place {
    /// Takes a place, if there is one.
    pub fn take(resources: &Rc<Resources>) -> Option<Self> {
        let place = resources.shared.sessions.reserve(1)?;
        resources.sessions.set(resources.sessions.get() + 1);
        Some(Place { resources: resources.clone(), _place: place })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.resources.sessions.set(self.resources.sessions.get() - 1);
    }
}
