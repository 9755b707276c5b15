//! Proves that where the API listens is what the settings say, or the .socket unit, and not what is left in a manager's
//! store of an earlier start.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use crate::harness::{Connection, Manager, Setup, eventually, free_port};

scenarios! {
    another_host_on_the_same_port_counts_from_the_restart_on,
    a_unit_that_listens_elsewhere_goes_before_what_is_stored,
    a_unit_that_listens_elsewhere_than_the_settings_say_is_warned_of,
}

/// What the log has where a unit's listener is not where the settings say.
const WARNING: &str = "the API listens where it was handed a listener, and not where the settings say";

fn listen(address: impl Into<SocketAddr>) -> TcpListener {
    TcpListener::bind(address.into()).unwrap()
}

fn another_host_on_the_same_port_counts_from_the_restart_on(shards: usize) {
    let (mut manager, port) = (Manager::new(), free_port());
    manager.listens("stored-api", listen((Ipv4Addr::UNSPECIFIED, port)).into());
    let new = manager.hand_stored(Setup::new(shards).api_port(port)).spawn();
    // The address is in use until the manager has let it go.
    manager.until("READY=1");
    assert!(manager.stored().is_empty(), "{:?}", manager.stored());
    assert_eq!(Connection::open(new.api()).request("GET", "/api/server/healthz", "").status, 200);
    eventually("nobody listens there", || TcpStream::connect(("127.0.0.2", port)).err());
    new.assert_drains();
}

fn a_unit_that_listens_elsewhere_goes_before_what_is_stored(shards: usize) {
    let (mut manager, before, after) = (Manager::new(), free_port(), free_port());
    let unit = listen((Ipv4Addr::LOCALHOST, after));
    manager.listens("api", unit.try_clone().unwrap().into());
    manager.listens("stored-api", listen((Ipv4Addr::LOCALHOST, before)).into());
    // What the unit has may be in the store as well.
    manager.listens("stored-api", unit.try_clone().unwrap().into());
    let new = manager.hand_stored(Setup::new(shards).api_port(after)).start();
    manager.until("READY=1");
    assert_eq!(manager.stored(), ["api"], "the unit's own is none of the store");
    eventually("nobody listens there", || TcpStream::connect(("127.0.0.1", before)).err());
    assert!(!new.log().contains(WARNING));
    new.assert_drains();
}

fn a_unit_that_listens_elsewhere_than_the_settings_say_is_warned_of(shards: usize) {
    let (mut manager, set, of_unit) = (Manager::new(), free_port(), free_port());
    manager.listens("api", listen((Ipv4Addr::LOCALHOST, of_unit)).into());
    let new = manager.hand_stored(Setup::new(shards).api_port(set)).spawn();
    new.until_logged(WARNING);
    manager.until("READY=1");
    let api = (Ipv4Addr::LOCALHOST, of_unit).into();
    assert_eq!(Connection::open(api).request("GET", "/api/server/healthz", "").status, 200);
    assert!(TcpStream::connect(("127.0.0.1", set)).is_err(), "the unit alone says where");
    new.assert_drains();
}
