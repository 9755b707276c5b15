//! How an open port follows rules that change.
//!
//! **Invariants.** No device ends as the rules change. Those that are counted by source are counted from a moment on, all of
//! them, and each leaves once.
//! **Not here.** What may change (`config::changes`), and what is decided as a device or driver comes (`admission`, `mod`).

use super::Port;
use crate::policy::access::PortRanges;
use crate::policy::port_id::PortId;
use crate::policy::sources::Family;
use crate::shard::handover::Held;
use crate::shard::ledger::Counted;
use crate::shard::sockets;
use std::rc::Rc;

impl Port {
    /// Goes by the rules as they stand.
    pub fn follow_rules(&self) {
        if self.ledger.follow_rules() == Counted::FromHereOn {
            let gate = &self.resources().shared.gate;
            self.devices.borrow().values().for_each(|device| gate.is_there(device.source()));
        }
        self.follow_replacing();
        let keepalive = self.resources().limits().device_keepalive;
        self.listeners().iter().for_each(|listener| {
            // What a socket has taken as it was opened, it takes again.
            let _ = sockets::set_keepalive(&listener.options(), keepalive);
        });
    }

    pub(super) fn follow_replacing(&self) {
        let replaces = |ports: &PortRanges| ports.contains(self.id().number);
        if self.resources().rules().devices.replacing.as_ref().is_some_and(replaces) {
            self.replacing.begin(self.devices.borrow().values());
        } else {
            self.replacing.end();
        }
    }

    /// Opens the sockets that are needed for balancers which are listed by now, and stops those which nobody needs; says
    /// whether there was one of these, which closes soon after.
    pub fn follow_balancers(self: &Rc<Self>, held: &Held) -> bool {
        let has_balancers = Family::ALL.into_iter().any(|family| self.is_balanced(family));
        if has_balancers && let Err(refusal) = self.open_families(|family| self.is_balanced(family), held) {
            let PortId { transport, number } = self.id();
            tracing::warn!(
                server_protocol = transport.name(), server_port = number.get(), reason = %refusal.reason(),
                "a port has no socket for balancers that were listed"
            );
        }
        self.stop_unneeded()
    }
}
