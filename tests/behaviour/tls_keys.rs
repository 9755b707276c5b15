//! Proves that the text of a private key that a driver brings is nowhere in the daemon's memory once it has joined.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use crate::harness::tls::connect;
use crate::harness::{Connection, Daemon, Setup, UPGRADE, eventually, free_port};
use crate::tls_devices::target;

scenarios! {
    the_text_of_a_key_is_wiped_from_memory,
}

/// How often each text is in the daemon's memory.
fn count_in_memory(daemon: &Daemon, texts: &[String]) -> Vec<usize> {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", daemon.pid())).unwrap();
    let mut memory = File::open(format!("/proc/{}/mem", daemon.pid())).unwrap();
    let mut counts = vec![0; texts.len()];
    for line in maps.lines().filter(|line| line.contains(" rw") && !line.contains("[v")) {
        let (from, to) = line.split_once(' ').and_then(|(range, _)| range.split_once('-')).unwrap();
        let [from, to] = [from, to].map(|number| u64::from_str_radix(number, 16).unwrap());
        let mut bytes = vec![0; (to - from) as usize];
        // A part may be there that cannot be read, such as that of a ring.
        if memory.seek(SeekFrom::Start(from)).is_err() || memory.read_exact(&mut bytes).is_err() {
            continue;
        }
        for (count, text) in counts.iter_mut().zip(texts) {
            let text = text.as_bytes();
            let begins = bytes.iter().enumerate().filter(|(_, byte)| **byte == text[0]).map(|(at, _)| at);
            *count += begins.filter(|at| bytes[*at..].starts_with(text)).count();
        }
    }
    counts
}

/// Two lines from the middle of a key, as they are in it and as they are in a query.
fn stretches(key: &str) -> Vec<String> {
    let lines: Vec<&str> = key.lines().skip(12).take(2).collect();
    let plain = lines.join("\n");
    let encoded = form_urlencoded::byte_serialize(plain.as_bytes()).collect();
    vec![plain, encoded]
}

fn the_text_of_a_key_is_wiped_from_memory(shards: usize) {
    let key = include_str!("certificates/version-1.key");
    Setup::new(shards).run(|daemon| {
        let requests = |port| {
            let target = target(port, &[("private_key", key)]);
            format!("GET {target} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer testing\r\n{UPGRADE}\r\n")
        };
        // It is found where it is: of a head that has not come whole.
        let mut half = connect(daemon.api().port());
        let head = requests(free_port());
        half.write_all(&head.as_bytes()[..head.len() - 2]).unwrap();
        eventually("it is in memory", || (count_in_memory(daemon, &stretches(key))[1] > 0).then_some(()));
        half.write_all(b"\r\n").unwrap();
        assert!(half.read(&mut [0; 64]).unwrap() > 0);
        assert_eq!(count_in_memory(daemon, &stretches(key)), [0, 0]);
        // In pieces, so that it is moved as it grows.
        let mut pieces = connect(daemon.api().port());
        for piece in requests(free_port()).as_bytes().chunks(500) {
            pieces.write_all(piece).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert!(pieces.read(&mut [0; 64]).unwrap() > 0);
        assert_eq!(count_in_memory(daemon, &stretches(key)), [0, 0]);
        // One that is refused.
        let mut refused = Connection::open(daemon.api());
        let headers = format!("Authorization: Bearer wrong\r\n{UPGRADE}");
        assert_eq!(refused.request("GET", &target(free_port(), &[("private_key", key)]), &headers).status, 401);
        assert_eq!(count_in_memory(daemon, &stretches(key)), [0, 0]);
    });
}
