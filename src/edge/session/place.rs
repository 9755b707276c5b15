//! A session's place among those of its shard, of its token and of the process.
//!
//! **Invariants.** It is taken before the join and given back when the session's socket is done with. A tap is no
//! session of its shard: what waits for those, such as a drain, does not wait for taps.
//! **Not here.** The memory of a session (`api` reserves it).

use crate::policy::budget::{Budget, Reservation};
use crate::policy::ending::JoinRefusal;
use crate::shard::resources::Resources;
use std::rc::Rc;

/// One place; dropping it gives it back.
pub struct Place {
    /// Whose sessions it counts among; none for a tap.
    counted: Option<Rc<Resources>>,
    _place: Reservation,
    _of_token: Option<Reservation>,
}

impl Place {
    /// Takes a driver's place, also among the sessions of a token where there is one.
    ///
    /// # Errors
    /// Where there is none.
    pub fn take(resources: &Rc<Resources>, of_token: Option<&Budget>) -> Result<Self, JoinRefusal> {
        let place = resources.shared.sessions.reserve(1).ok_or(JoinRefusal::TooManySessions)?;
        let of_token = of_token.map(|sessions| sessions.reserve(1).ok_or(JoinRefusal::TooManyOfToken)).transpose()?;
        resources.sessions.set(resources.sessions.get() + 1);
        Ok(Place { counted: Some(resources.clone()), _place: place, _of_token: of_token })
    }

    /// Takes a tap's place, if there is one.
    pub fn take_for_tap(resources: &Resources) -> Option<Self> {
        Some(Place { counted: None, _place: resources.shared.taps.reserve(1)?, _of_token: None })
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
