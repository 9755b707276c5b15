//! Proves that what TCP repairs arrives whole and in order, and that a datagram arrives whole or not at all.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::harness::{Addr, Daemon, Datagrams, Event, Setup, Transport, free_port, pattern};
use crate::network::{HERE, Network, THERE};
use crate::relay::Weather;

scenarios! {
    bytes_of_devices_survive_loss_delay_reordering_and_repetition,
    bytes_of_drivers_survive_loss_delay_reordering_and_repetition,
    datagrams_are_whole_or_missing,
}

/// A radio link on a bad day.
const BAD: Weather = Weather { lost_percent: 5, doubled_percent: 5, delay_max: Duration::from_millis(20), cut: false };
const SIZE: usize = 400_000;
const DEVICES: u64 = 4;

/// Starts a daemon on the near machine, and spoils the link once `prepared` is done.
fn on_a_bad_link(shards: usize, scenario: impl FnOnce(&Network, &Daemon) + Send) {
    let Some(network) = Network::new() else { return };
    network.run(Setup::new(shards), |daemon| scenario(&network, daemon));
    let damage = network.damage();
    let [lost, doubled, overtaken] =
        [&damage.lost, &damage.doubled, &damage.overtaken].map(|count| count.load(Ordering::Relaxed));
    assert!(lost > 10 && doubled > 10 && overtaken > 10, "the link was too good: {damage:?}");
}

fn bytes_of_devices_survive_loss_delay_reordering_and_repetition(shards: usize) {
    on_a_bad_link(shards, |network, daemon| {
        network.set(BAD);
        let port = free_port();
        let mut driver = daemon.join_tcp(port, THERE);
        let devices: Vec<_> = (0..DEVICES).map(|_| (network.device(port), driver.opened())).collect();
        std::thread::scope(|scope| {
            for (mut device, addr) in devices {
                let (up, down) = (pattern(addr.id, 0, SIZE), pattern(100 + addr.id, 0, SIZE));
                driver.write(&addr, &down[..SIZE / 2]);
                driver.write(&addr, &down[SIZE / 2..]);
                scope.spawn(move || {
                    let mut sender = device.another_handle();
                    std::thread::scope(|scope| {
                        scope.spawn(|| sender.send(&up));
                        device.expect(&down);
                    });
                    device.half_close();
                    device.ends();
                });
            }
            let mut taken = [0; DEVICES as usize];
            let mut closed = 0;
            while closed < DEVICES {
                match driver.event() {
                    Event::Received(addr, data) => {
                        let from = &mut taken[addr.id as usize];
                        assert!(data == pattern(addr.id, *from, data.len()), "device {} after {from} bytes", addr.id);
                        *from += data.len();
                    }
                    Event::Closed(_) => closed += 1,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(taken, [SIZE; DEVICES as usize]);
        });
    });
}

fn bytes_of_drivers_survive_loss_delay_reordering_and_repetition(shards: usize) {
    on_a_bad_link(shards, |network, daemon| {
        network.set(BAD);
        let port = free_port();
        let mut driver = network.driver(daemon, Transport::Tcp, port, THERE);
        let mut device = network.device(port);
        let addr = driver.opened();
        let (up, down) = (pattern(1, 0, SIZE), pattern(2, 0, SIZE));
        let mut sender = device.another_handle();
        std::thread::scope(|scope| {
            scope.spawn(|| sender.send(&up));
            scope.spawn(|| device.expect(&down));
            for part in down.chunks(SIZE / 8) {
                driver.write(&addr, part);
            }
            driver.received(&addr, &up);
        });
    });
}

const THE_END: &[u8] = b"the end";

fn until_the_end(next: impl FnMut() -> Vec<u8>) -> Vec<Vec<u8>> {
    std::iter::repeat_with(next).take_while(|data| data != THE_END).collect()
}

fn datagrams_are_whole_or_missing(shards: usize) {
    const COUNT: usize = 200;
    // Some are one packet, some are many.
    let size = |number: usize| [1, 700, 1_400, 4_000, 9_000][number % 5];
    on_a_bad_link(shards, |network, daemon| {
        let port = free_port();
        let [mut writer, mut reader] = [(); 2].map(|()| daemon.join_udp(port, THERE));
        let device = network.there(|| Datagrams::bind(THERE));
        network.set(BAD);
        let to = format!("{HERE}:{port}").parse().unwrap();
        let addr = Addr::new(THERE, device.port());
        let (up, down) = std::thread::scope(|scope| {
            let down = scope.spawn(|| until_the_end(|| device.receive().0));
            let up = scope.spawn(|| {
                until_the_end(|| match reader.event() {
                    Event::Received(from, data) if from == addr => data,
                    other => panic!("{other:?}"),
                })
            });
            for number in 0..COUNT {
                let data = pattern(number as u64, 0, size(number));
                device.send_to(to, &data);
                writer.write(&addr, &data);
                std::thread::sleep(Duration::from_millis(2));
            }
            network.set(Weather::default());
            // An end may be lost too: on the last of the bad link, or where a buffer is full.
            for _ in 0..50 {
                std::thread::sleep(Duration::from_millis(100));
                if up.is_finished() && down.is_finished() {
                    break;
                }
                device.send_to(to, THE_END);
                writer.write(&addr, THE_END);
            }
            (up.join().unwrap(), down.join().unwrap())
        });
        for (way, datagrams) in [("up", up), ("down", down)] {
            let sent: BTreeSet<_> = (0..COUNT).map(|number| pattern(number as u64, 0, size(number))).collect();
            assert!(datagrams.len() > COUNT / 4, "{way}: {} of {COUNT}", datagrams.len());
            assert!(datagrams.iter().all(|data| sent.contains(data)), "{way}: one that was not sent so");
        }
    });
}
