//! Who is joined to a port and for which sources; the audience of a source, shared by all devices at it.
//!
//! **Invariants.** An audience holds exactly the members that accept its source, whatever joined or left since it was
//! made; a session is a member once; an audience lives while a device holds it.
//! **Not here.** What a subscriber is: `S` is the shard's subscription, and a number in tests.

use crate::policy::sources::{Family, Sources};
use crate::protocol::message::IpText;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

/// One driver's session, unique in the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// The members of one port.
#[derive(Debug)]
pub struct Roster<S> {
    members: Vec<Member<S>>,
    audiences: HashMap<IpAddr, Rc<Audience<S>>>,
}

#[derive(Debug)]
struct Member<S> {
    session: SessionId,
    sources: Sources,
    subscriber: S,
}

/// Those who accept devices at one source; it changes in place as drivers join and leave.
#[derive(Debug)]
pub struct Audience<S> {
    source: IpAddr,
    text: IpText,
    subscribers: RefCell<Vec<(SessionId, S)>>,
}

impl<S> Audience<S> {
    /// The devices' address.
    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// The address as messages carry it.
    pub fn text(&self) -> IpText {
        self.text
    }

    /// Who accepts the source, in the order of joining. Borrowed: not to be held across an await.
    pub fn subscribers(&self) -> std::cell::Ref<'_, Vec<(SessionId, S)>> {
        self.subscribers.borrow()
    }

    /// Whether nobody accepts the source any more.
    pub fn is_empty(&self) -> bool {
        self.subscribers.borrow().is_empty()
    }

    /// Whether this session accepts the source.
    pub fn has(&self, session: SessionId) -> bool {
        self.subscribers.borrow().iter().any(|(member, _)| *member == session)
    }
}

impl<S> Default for Roster<S> {
    fn default() -> Self {
        Roster { members: Vec::new(), audiences: HashMap::new() }
    }
}

impl<S: Clone> Roster<S> {
    /// Adds a session, and adds it to the audiences of the sources that it accepts.
    pub fn join(&mut self, session: SessionId, sources: Sources, subscriber: S) {
        for audience in self.audiences.values().filter(|audience| sources.accepts(audience.source)) {
            audience.subscribers.borrow_mut().push((session, subscriber.clone()));
        }
        self.members.push(Member { session, sources, subscriber });
    }

    /// Removes a session from the roster and from every audience; `None` where it is no member.
    pub fn leave(&mut self, session: SessionId) -> Option<S> {
        let at = self.members.iter().position(|member| member.session == session)?;
        for audience in self.audiences.values() {
            audience.subscribers.borrow_mut().retain(|(member, _)| *member != session);
        }
        Some(self.members.remove(at).subscriber)
    }

    /// The audience of `source`, in canonical form; `None` where nobody accepts it.
    ///
    /// Whoever lets go of an audience calls [`release`](Self::release) before.
    pub fn audience(&mut self, source: IpAddr) -> Option<Rc<Audience<S>>> {
        if let Some(audience) = self.audiences.get(&source) {
            return (!audience.is_empty()).then(|| audience.clone());
        }
        let subscribers: Vec<(SessionId, S)> = self.accepting(source).map(|(id, s)| (id, s.clone())).collect();
        if subscribers.is_empty() {
            return None;
        }
        let audience = Rc::new(Audience { source, text: IpText::new(source), subscribers: RefCell::new(subscribers) });
        self.audiences.insert(source, audience.clone());
        Some(audience)
    }

    /// Forgets an audience that its last device is about to let go of.
    pub fn release(&mut self, audience: &Rc<Audience<S>>) {
        const ROSTER_AND_CALLER: usize = 2;
        if Rc::strong_count(audience) <= ROSTER_AND_CALLER
            && self.audiences.get(&audience.source).is_some_and(|known| Rc::ptr_eq(known, audience))
        {
            self.audiences.remove(&audience.source);
        }
    }

    /// The members that accept `source`, without making an audience: for datagrams, whose sources are without bound.
    pub fn accepting(&self, source: IpAddr) -> impl Iterator<Item = (SessionId, &S)> {
        let accepts = move |member: &&Member<S>| member.sources.accepts(source);
        self.members.iter().filter(accepts).map(|member| (member.session, &member.subscriber))
    }

    /// Whether this session accepts `source`, in canonical form.
    pub fn accepts(&self, session: SessionId, source: IpAddr) -> bool {
        self.members.iter().any(|member| member.session == session && member.sources.accepts(source))
    }

    /// Whether a member accepts any source of this family.
    pub fn has(&self, family: Family) -> bool {
        self.members.iter().any(|member| member.sources.has(family))
    }

    /// Every member.
    pub fn subscribers(&self) -> impl Iterator<Item = &S> {
        self.members.iter().map(|member| &member.subscriber)
    }

    /// How many sessions are joined.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nobody is joined.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Takes everybody out.
    pub fn clear(&mut self) {
        for audience in self.audiences.values() {
            audience.subscribers.borrow_mut().clear();
        }
        self.audiences.clear();
        self.members.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Join { session: u64, sources: Vec<u8> },
        Leave { session: u64 },
        Connect { source: u8 },
        Disconnect { device: usize },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..6u64, proptest::collection::vec(0..4u8, 1..3))
                .prop_map(|(session, sources)| Step::Join { session, sources }),
            (0..6u64).prop_map(|session| Step::Leave { session }),
            (0..5u8).prop_map(|source| Step::Connect { source }),
            any::<usize>().prop_map(|device| Step::Disconnect { device }),
        ];
        proptest::collection::vec(step, 0..60)
    }

    fn ip(source: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, source])
    }

    fn list(sources: &[u8]) -> Sources {
        let text: Vec<String> = sources.iter().map(|&source| ip(source).to_string()).collect();
        Sources::parse(&text.join(",")).unwrap()
    }

    fn audience_of(model: &[(u64, Vec<u8>)], source: u8) -> Vec<SessionId> {
        model.iter().filter(|(_, sources)| sources.contains(&source)).map(|&(id, _)| SessionId(id)).collect()
    }

    proptest! {
        #[test]
        fn every_audience_holds_whom_a_naive_model_says(steps in steps()) {
            let mut roster: Roster<u32> = Roster::default();
            let mut model: Vec<(u64, Vec<u8>)> = Vec::new();
            let mut devices: Vec<(u8, Rc<Audience<u32>>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Join { session, sources } if model.iter().all(|(id, _)| *id != session) => {
                        roster.join(SessionId(session), list(&sources), session as u32);
                        model.push((session, sources));
                    }
                    Step::Join { .. } => {}
                    Step::Leave { session } => {
                        let known = model.iter().position(|(id, _)| *id == session);
                        let left = roster.leave(SessionId(session));
                        prop_assert_eq!(left.is_some(), known.is_some());
                        known.map(|at| model.remove(at));
                    }
                    Step::Connect { source } => {
                        let audience = roster.audience(ip(source));
                        prop_assert_eq!(audience.is_some(), !audience_of(&model, source).is_empty());
                        devices.extend(audience.map(|audience| (source, audience)));
                    }
                    Step::Disconnect { device } if !devices.is_empty() => {
                        let (_, audience) = devices.swap_remove(device % devices.len());
                        roster.release(&audience);
                    }
                    Step::Disconnect { .. } => {}
                }
                for (source, audience) in &devices {
                    let members: Vec<SessionId> = audience.subscribers().iter().map(|(id, _)| *id).collect();
                    prop_assert_eq!(members, audience_of(&model, *source));
                }
                for (id, sources) in &model {
                    for source in 0..5 {
                        prop_assert_eq!(roster.accepts(SessionId(*id), ip(source)), sources.contains(&source));
                    }
                }
                prop_assert_eq!(roster.len(), model.len());
            }
            for (_, audience) in devices.drain(..) {
                roster.release(&audience);
            }
            prop_assert!(roster.audiences.is_empty());
        }
    }

    #[test]
    fn a_family_is_wanted_while_a_member_accepts_one_of_its_sources() {
        let mut roster = Roster::default();
        roster.join(SessionId(1), Sources::parse("10.0.0.1").unwrap(), 1);
        roster.join(SessionId(2), Sources::parse("::1").unwrap(), 2);
        assert!(roster.has(Family::V4) && roster.has(Family::V6));
        roster.leave(SessionId(1));
        assert!(!roster.has(Family::V4) && roster.has(Family::V6));
    }
}
