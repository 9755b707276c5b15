//! Proves that the text of a private key that a driver brings is nowhere in the daemon's memory once it has joined, and
//! that certificates that the operator keeps are files.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::process::Command;

use crate::harness::tls::{Authority, connect};
use crate::harness::{Connection, Daemon, Setup, UPGRADE, eventually, free_port};
use crate::tls_devices::{join, target};

scenarios! {
    the_text_of_a_key_is_wiped_from_memory,
    the_decoded_text_of_a_key_that_came_by_tls_is_wiped_from_memory,
    what_is_no_regular_file_is_no_certificate_and_holds_nobody_back,
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

/// As it came it may be where TLS has read it, until other bytes take its place.
fn the_decoded_text_of_a_key_that_came_by_tls_is_wiped_from_memory(shards: usize) {
    let authority = Authority::new();
    let (setup, port) = authority.daemon(shards);
    setup.run(|daemon| {
        for number in 0..12 {
            // No two have a line in common, and a key that is refused is read all the same.
            let lines: String = (0..26).map(|line| format!("{number:032}{line:032}\n")).collect();
            let key = format!("-----BEGIN PRIVATE KEY-----\n{lines}-----END PRIVATE KEY-----\n");
            let target = target(free_port(), &[("private_key", &key)]);
            let head = format!("GET {target} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer testing\r\n{UPGRADE}\r\n");
            let mut stream = authority.client().connect(port);
            // Whole, and in pieces.
            for piece in head.as_bytes().chunks(if number % 2 == 0 { head.len() } else { 700 }) {
                stream.write_all(piece).unwrap();
                stream.flush().unwrap();
            }
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 400");
            assert_eq!(count_in_memory(daemon, &stretches(&key)[..1]), [0], "of key {number}");
        }
    });
}

fn what_is_no_regular_file_is_no_certificate_and_holds_nobody_back(shards: usize) {
    let authority = Authority::new();
    let pair = authority.issue(10);
    for name in ["pipe.crt", "half.key"] {
        assert!(Command::new("mkfifo").arg(authority.path(name)).status().unwrap().success());
    }
    std::fs::create_dir(authority.path("folder.crt")).unwrap();
    authority.file("long.crt", &"x".repeat((1 << 20) + 1));
    authority.file("half.crt", &pair.certificate);
    Setup::new(shards).flag("tls-device-certs", &authority.path("")).run(|daemon| {
        for (name, reason) in [
            ("pipe", "pipe.crt cannot be read: it is no regular file"),
            ("half", "half.key cannot be read: it is no regular file"),
            ("folder", "folder.crt cannot be read: it is no regular file"),
            ("long", "long.crt cannot be read: it is longer than 1 MiB"),
        ] {
            let Err(refused) = daemon.upgrade(&target(free_port(), &[("tls", name)]), "") else { panic!("{name}") };
            assert_eq!((refused.status, refused.member("parameter").as_str()), (400, "tls"));
            assert!(refused.member("restriction").contains(reason), "{refused:?}");
        }
        join(daemon, free_port(), &[("private_key", &pair.key)]).leave();
    });
}
