//! Every committed seed passes its check, without the fuzzer's engine.

use std::fs;
use std::path::Path;

fn run(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let mut seeds = 0;
    for entry in fs::read_dir(&folder).expect("a target has seeds") {
        let path = entry.expect("the folder can be read").path();
        println!("{}", path.display());
        check(&fs::read(&path).expect("a seed can be read"));
        seeds += 1;
    }
    assert!(seeds >= 3, "{} has {seeds} seeds", folder.display());
}

#[test]
fn the_seeds_of_http_heads_hold() {
    run("http_head", uring_dispatch_fuzz::http_head::check);
}

#[test]
fn the_seeds_of_accept_lists_hold() {
    run("accept_list", uring_dispatch_fuzz::accept_list::check);
}

#[test]
fn the_seeds_of_messages_hold() {
    run("message", uring_dispatch_fuzz::message::check);
}

#[test]
fn the_seeds_of_websockets_hold() {
    run("websocket", uring_dispatch_fuzz::websocket::check);
}

#[test]
fn the_seeds_of_the_port_model_hold() {
    run("port_model", uring_dispatch_fuzz::port_model::check);
}

#[test]
fn the_seeds_of_certificates_and_keys_hold() {
    run("certificate", uring_dispatch_fuzz::certificate::check);
}

#[test]
fn the_seeds_of_configuration_files_hold() {
    run("config_file", uring_dispatch_fuzz::config_file::check);
}

#[test]
fn the_seeds_of_forwarded_addresses_hold() {
    run("forwarded", uring_dispatch_fuzz::forwarded::check);
}

#[test]
fn the_seeds_of_queries_of_lists_hold() {
    run("list_query", uring_dispatch_fuzz::list_query::check);
}

#[test]
fn the_seeds_of_headers_of_balancers_hold() {
    run("proxy_header", uring_dispatch_fuzz::proxy_header::check);
}

#[test]
fn the_seeds_of_taps_hold() {
    run("tap", uring_dispatch_fuzz::tap::check);
}

#[test]
fn the_seeds_of_tls_hold() {
    run("tls", uring_dispatch_fuzz::tls::check);
}
