//! Proves the status page as it is served: to whom, with which policy, and that it needs nothing from elsewhere; and what
//! the API tells for its sake. What it does in a browser is proved by `scripts/page`.

use data_encoding::BASE64;
use sha2::{Digest, Sha256};

use crate::harness::{BASES, Daemon, Device, Setup, eventually, free_port};

scenarios! {
    the_page_is_served_to_anyone,
    a_page_that_is_known_is_not_sent_again,
    the_page_is_read_and_nothing_else,
    the_policy_names_what_the_page_holds,
    the_page_needs_nothing_from_elsewhere,
    the_shards_say_what_a_reader_needs_beside_them,
    the_last_minutes_are_told,
    a_port_tells_its_troubles,
    a_driver_tells_how_often_it_was_waited_for,
}

/// What stands between two marks, of which there is one each.
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    assert_eq!((text.matches(from).count(), text.matches(to).count()), (1, 1), "{from} {to}");
    text.split_once(from).unwrap().1.split_once(to).unwrap().0
}

fn the_page_is_served_to_anyone(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let response = daemon.connection().request("GET", "/", "");
        assert_eq!((response.status, response.header("content-type")), (200, Some("text/html; charset=utf-8")));
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-cache"),
            ("content-length", &response.body.len().to_string()),
        ] {
            assert_eq!(response.header(name), Some(value), "{name}");
        }
        assert!(response.text().starts_with("<!doctype html>"));
        let mut connection = daemon.connection();
        let head = connection.request("HEAD", "/", "");
        assert_eq!(head.header("content-length"), response.header("content-length"));
        assert_eq!(head.header("etag"), response.header("etag"));
        assert_eq!(connection.request("GET", "/?whatever", "").status, 200);
        // A wrong token is not looked at.
        assert_eq!(connection.request("GET", "/", "Authorization: Bearer wrong\r\n").status, 200);
        assert_eq!(daemon.count("tokens_refused"), 0);
    });
}

fn a_page_that_is_known_is_not_sent_again(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let mut connection = daemon.connection();
        let tag = connection.request("GET", "/", "").header("etag").unwrap().to_owned();
        for known in [tag.clone(), format!("\"other\", {tag}"), format!("W/{tag}"), "*".to_owned()] {
            connection.send(format!("GET / HTTP/1.1\r\nHost: test\r\nIf-None-Match: {known}\r\n\r\n"));
            let response = connection.head_only();
            assert_eq!((response.status, response.header("etag")), (304, Some(&*tag)), "{known}");
            assert!(response.header("content-security-policy").is_some());
        }
        // Nothing followed the heads.
        assert_eq!(connection.request("GET", "/", "If-None-Match: \"other\"\r\n").status, 200);
    });
}

fn the_page_is_read_and_nothing_else(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let response = daemon.connection().request(method, "/", "");
            assert_eq!((response.status, response.header("allow")), (405, Some("GET, HEAD")), "{method}");
        }
        for target in ["//", "/index.html", "/favicon.ico", "/page"] {
            assert_eq!(daemon.connection().request("GET", target, "").status, 404, "{target}");
        }
    });
}

fn the_policy_names_what_the_page_holds(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let response = daemon.connection().request("GET", "/", "");
        let policy = response.header("content-security-policy").unwrap();
        let page = response.text();
        let hash = |text: &str| format!("'sha256-{}'", BASE64.encode(&Sha256::digest(text)));
        let rules: Vec<&str> = policy.split(';').map(str::trim).collect();
        let script = format!("script-src {}", hash(between(page, "<script type=\"module\">", "</script>")));
        let style = format!("style-src {}", hash(between(page, "<style>", "</style>")));
        for rule in [
            "default-src 'none'",
            &script,
            &style,
            "img-src data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ] {
            assert!(rules.contains(&rule), "{rule} in {policy}");
        }
        assert_eq!(rules.len(), 10, "{policy}");
        // No part was forgotten where the sources are joined.
        assert!(!page.contains("/* style */") && !page.contains("/* script */"));
    });
}

fn the_page_needs_nothing_from_elsewhere(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let response = daemon.connection().request("GET", "/", "");
        let page = response.text();
        // The namespace of SVG is a name, and no address.
        let addresses = page.replace("http://www.w3.org/2000/svg", "");
        for outside in ["http://", "https://", "url(", "@import", " src=", "import ", "import("] {
            assert!(!addresses.contains(outside), "{outside}");
        }
        for (markup, _) in page.match_indices("href=") {
            assert!(page[markup..].starts_with("href=\"data:"), "{}", &page[markup..markup + 40]);
        }
        let markup = format!("{}{}", page.split_once("<style>").unwrap().0, page.split_once("</style>").unwrap().1);
        let markup = markup.split_once("<script").unwrap().0.to_owned();
        for inline in [" style=", " onclick=", " onload=", " onsubmit=", "javascript:"] {
            assert!(!markup.contains(inline), "{inline}");
        }
        // The token is in memory alone, and no text becomes markup.
        for word in
            ["localStorage", "sessionStorage", "indexedDB", "document.cookie", "innerHTML", "eval(", "bearer_token"]
        {
            assert!(!page.contains(word), "{word}");
        }
    });
}

fn fetch(daemon: &Daemon, path: &str) -> serde_json::Value {
    let response = daemon.fetch(&format!("{}/{path}", BASES[1]));
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    response.json()
}

fn the_shards_say_what_a_reader_needs_beside_them(shards: usize) {
    Setup::new(shards).limit("receive-buffers", 64).limit("write-window-bytes-max", 150_000).run(|daemon| {
        let all = eventually("every loop has turned", || {
            let all = fetch(daemon, "shards");
            let has_turned = |shard: &serde_json::Value| shard["loop_turn"]["seconds"].as_f64().unwrap() > 0.0;
            all["shards"].as_array().unwrap().iter().all(has_turned).then_some(all)
        });
        assert_eq!(all["state"], "serving");
        assert!(all["uptime_seconds"].as_f64().unwrap() > 0.0);
        assert_eq!(all["limits"]["receive_buffers"], 64);
        assert_eq!(all["limits"]["driver_credit_bytes"], 150_000);
        let buckets = all["time_bounds_seconds"].as_array().unwrap().len() + 1;
        for shard in all["shards"].as_array().unwrap() {
            for times in ["loop_turn", "timer_lag"] {
                assert_eq!(shard[times]["buckets"].as_array().unwrap().len(), buckets);
            }
        }
        let version = daemon.connection().request("GET", &format!("{}/version", BASES[1]), "");
        assert!(version.json()["version"].is_string());
    });
}

fn the_last_minutes_are_told(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let device = Device::connect("127.0.0.1", port);
        driver.opened();
        let history = eventually("a moment with the device was taken", || {
            let history = fetch(daemon, "history");
            let last = history["devices"].as_array().unwrap().last()?.as_u64()?;
            (last == 1).then_some(history)
        });
        let moments = history["times"].as_array().unwrap().len();
        assert!((2..=61).contains(&moments));
        // What comes right behind the start has grown since, too.
        let first_and_last = |values: &serde_json::Value| {
            let values = values.as_array().unwrap();
            assert_eq!(values.len(), moments);
            [values.first(), values.last()].map(|value| value.unwrap().as_u64().unwrap())
        };
        let counts = &history["counts"];
        for values in [&history["sessions"], &counts["sessions_joined"], &counts["devices_opened"]] {
            assert_eq!(first_and_last(values), [0, 1]);
        }
        let times: Vec<u64> = history["times"].as_array().unwrap().iter().map(|time| time.as_u64().unwrap()).collect();
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 5), "{times:?}");
        assert_eq!(daemon.connection().request("GET", &format!("{}/history", BASES[1]), "").status, 401);
        drop(device);
    });
}

fn a_port_tells_its_troubles(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let row = || fetch(daemon, &format!("ports/tcp/{port}"));
        assert_eq!((&row()["refused"], &row()["dropped"], &row()["waits"]), (&0.into(), &0.into(), &0.into()));
        drop(Device::connect("127.0.0.2", port));
        eventually("the refusal is told", || (row()["refused"] == 1).then_some(()));
        let device = Device::connect("127.0.0.1", port);
        let mut addr = driver.opened();
        addr.id += 1;
        driver.write(&addr, b"to nobody");
        eventually("the drop is told", || (row()["dropped"] == 1).then_some(()));
        drop(device);
    });
}

fn a_driver_tells_how_often_it_was_waited_for(shards: usize) {
    Setup::new(shards).limit("socket-bytes", 4_096).limit("outbox-bytes-max", 204_800).run(|daemon| {
        let port = free_port();
        let driver = daemon.wire(crate::harness::Transport::Tcp, port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        device.send_until_blocked(1, 8 << 20, std::time::Duration::from_millis(500));
        let driver_row = || fetch(daemon, &format!("drivers?port={port}"))["items"][0].clone();
        let row = eventually("the wait is told", || Some(driver_row()).filter(|row| row["outbox_full"] == true));
        assert!(row["outbox_waits"].as_u64().unwrap() > 0, "{row}");
        assert_eq!(row["credit_waits"], 0);
        assert!(fetch(daemon, &format!("ports/tcp/{port}"))["waits"].as_u64().unwrap() > 0);
        drop((driver, device));
    });
}
