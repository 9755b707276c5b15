//! What the API serves: one table, from which requests are routed, `-r` prints and the OpenAPI document is made.
//!
//! **Invariants.** A route that is not in the table cannot be reached; every route is under both base paths, and that of the
//! metrics at the root as well, where scrapers look. Only the status page is at the root alone, where people look.
//! **Not here.** What a route does (`api`).

use crate::policy::listing::Kind;
use crate::policy::port_id::Transport;

/// Drivers in the field use both.
pub const BASE_PATHS: [&str; 2] = ["/api/server", "/api/dispatch/v1"];
/// The path of the metrics, also without a base path.
const METRICS_PATH: &str = "/metrics";
/// The path of the status page, which is under no base path.
pub const PAGE_PATH: &str = "/";
/// Parts of a path that may stand for something.
const PARTS_MAX: usize = 3;

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// The status page.
    Page,
    /// Joined drivers and connected devices a port.
    Statistics,
    /// That the daemon is alive.
    Health,
    /// Whether it serves newcomers.
    Ready,
    /// What runs here.
    Version,
    /// Everything that is counted, for Prometheus.
    Metrics,
    /// What each shard has and has counted.
    Shards,
    /// What was counted in the last minutes.
    History,
    /// A list, and disconnecting what a filter finds.
    List(Kind),
    /// One port, driver or device, and disconnecting it.
    One(Kind),
    /// What is logged.
    LogLevel,
    /// A driver's join.
    Join(Transport),
    /// A copy of a port's messages.
    Tap,
    /// A driver's join of a TCP port whose devices speak TLS.
    JoinTls,
}

/// What may be done with a route's resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Methods {
    /// It is read. HEAD is GET without the body.
    Read,
    /// It is read, and disconnected.
    ReadDelete,
    /// It is read, and set.
    ReadPut,
}

impl Methods {
    /// As an `Allow` line has them.
    pub fn text(self) -> &'static str {
        match self {
            Methods::Read => "GET, HEAD",
            Methods::ReadDelete => "GET, HEAD, DELETE",
            Methods::ReadPut => "GET, HEAD, PUT",
        }
    }

    /// Whether a request's method is among them.
    pub fn have(self, method: &str) -> bool {
        self.text().split(", ").any(|known| known == method)
    }
}

/// One route.
#[derive(Debug)]
pub struct Route {
    /// What it does.
    pub endpoint: Endpoint,
    /// Its path behind a base path; a part in braces stands for any text without a slash.
    pub path: &'static str,
    /// What may be done.
    pub methods: Methods,
    /// Whether the token is needed.
    pub needs_token: bool,
    /// One sentence for people.
    pub summary: &'static str,
}

impl Route {
    /// What metrics call it: its path, unless another route has the same one elsewhere.
    pub fn label(&self) -> &'static str {
        if self.endpoint == Endpoint::Page { "page" } else { self.path }
    }
}

/// A route, and what the parts of its path stand for.
#[derive(Debug)]
pub struct Found<'a> {
    /// The route.
    pub route: &'static Route,
    /// In the order of the path.
    pub parts: Vec<&'a str>,
}

const fn read(endpoint: Endpoint, path: &'static str, summary: &'static str) -> Route {
    Route { endpoint, path, methods: Methods::Read, needs_token: true, summary }
}

const fn open(endpoint: Endpoint, path: &'static str, summary: &'static str) -> Route {
    Route { needs_token: false, ..read(endpoint, path, summary) }
}

const fn read_delete(endpoint: Endpoint, path: &'static str, summary: &'static str) -> Route {
    Route { methods: Methods::ReadDelete, ..read(endpoint, path, summary) }
}

/// The status page.
static PAGE: Route = open(Endpoint::Page, PAGE_PATH, "The status page, for people");

/// Every route under a base path.
pub const ROUTES: [Route; 21] = [
    read(Endpoint::Statistics, "/", "Joined drivers and connected devices of every open port"),
    open(Endpoint::Health, "/healthz", "Whether the daemon is alive"),
    open(Endpoint::Ready, "/readyz", "Whether every shard answers and the daemon is not stopping"),
    open(Endpoint::Version, "/version", "What version runs"),
    read(
        Endpoint::Metrics,
        METRICS_PATH,
        "Everything that is counted, for Prometheus (--metrics-open: without a token)",
    ),
    read(Endpoint::Shards, "/shards", "What each shard has and has counted"),
    read(Endpoint::History, "/history", "What there was and was counted in the last five minutes"),
    read(Endpoint::List(Kind::Ports), "/ports", "Open ports"),
    read(Endpoint::One(Kind::Ports), "/ports/{transport}/{port}", "One open port"),
    read_delete(Endpoint::List(Kind::Drivers), "/drivers", "Joined drivers; DELETE disconnects those that match"),
    read_delete(Endpoint::One(Kind::Drivers), "/drivers/{id}", "One joined driver; DELETE disconnects it"),
    read_delete(Endpoint::List(Kind::Devices), "/devices", "TCP devices; DELETE disconnects those that match"),
    read_delete(
        Endpoint::One(Kind::Devices),
        "/devices/{transport}/{port}/{id}",
        "One TCP device; DELETE disconnects it",
    ),
    read(
        Endpoint::List(Kind::Refusals),
        "/refused",
        "The last that were refused: devices, datagrams, joins, tokens, connections",
    ),
    read_delete(
        Endpoint::List(Kind::Flapping),
        "/flapping",
        "Sources that connect too often and are refused; DELETE forgives those that match",
    ),
    read_delete(Endpoint::One(Kind::Flapping), "/flapping/{address}", "One such source; DELETE forgives it"),
    Route {
        methods: Methods::ReadPut,
        ..read(Endpoint::LogLevel, "/log-level", "What is logged; PUT changes it until the daemon stops")
    },
    read(Endpoint::Join(Transport::Tcp), "/tcp_dispatch", "Join a TCP port as a driver (WebSocket)"),
    read(Endpoint::JoinTls, "/tls_dispatch", "Join a TCP port whose devices speak TLS as a driver (WebSocket)"),
    read(Endpoint::Join(Transport::Udp), "/udp_dispatch", "Join a UDP port as a driver (WebSocket)"),
    read(Endpoint::Tap, "/tap", "A live copy of a port's messages (WebSocket)"),
];

/// The route of a path; that of the statistics also without its slash.
pub fn find(path: &str) -> Option<Found<'_>> {
    if path == PAGE_PATH {
        return Some(Found { route: &PAGE, parts: Vec::new() });
    }
    let under_base = BASE_PATHS.iter().find_map(|base| path.strip_prefix(base));
    let rest = under_base.or((path == METRICS_PATH).then_some(path))?;
    let rest = if rest.is_empty() { "/" } else { rest };
    ROUTES.iter().find_map(|route| Some(Found { route, parts: parts(route.path, rest)? }))
}

/// What the parts in braces stand for in a path; `None` where it is another path.
fn parts<'a>(template: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let mut parts = Vec::with_capacity(PARTS_MAX);
    let mut found = path.split('/');
    for wanted in template.split('/') {
        let found = found.next()?;
        if wanted.starts_with('{') && !found.is_empty() {
            parts.push(found);
        } else if wanted != found {
            return None;
        }
    }
    found.next().is_none().then_some(parts)
}

/// Every path that is served, with its route.
pub fn paths() -> impl Iterator<Item = (String, &'static Route)> {
    let under = |base: &'static str| ROUTES.iter().map(move |route| (format!("{base}{}", route.path), route));
    let at_root = [PAGE_PATH, METRICS_PATH].into_iter();
    let at_root = at_root.filter_map(|path| Some((path.to_owned(), find(path)?.route)));
    BASE_PATHS.into_iter().flat_map(under).chain(at_root)
}

/// The table as `-r` prints it.
pub fn text() -> String {
    let mut text = String::new();
    for (path, route) in paths() {
        let method = match (route.endpoint, route.methods) {
            (Endpoint::Join(_) | Endpoint::JoinTls | Endpoint::Tap, _) => "WS",
            (_, Methods::Read) => "GET",
            (_, Methods::ReadDelete) => "GET, DELETE",
            (_, Methods::ReadPut) => "GET, PUT",
        };
        let token = if route.needs_token { "token" } else { "open" };
        text.push_str(&format!("{method:<12}{path:<50}{token:<6} {}\n", route.summary));
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_found_under_both_base_paths_and_nothing_else_is() {
        let endpoint = |path: &str| find(path).map(|found| found.route.endpoint);
        for base in BASE_PATHS {
            for route in &ROUTES {
                assert_eq!(endpoint(&format!("{base}{}", route.path)), Some(route.endpoint));
            }
            assert_eq!(endpoint(base), Some(Endpoint::Statistics));
            for path in [
                format!("/metrics{base}"),
                format!("{base}/healthz/"),
                format!("{base}//"),
                format!("{base}healthz"),
                format!("/x{base}"),
                format!("{base}/drivers/"),
                format!("{base}/drivers/1/"),
                format!("{base}/ports/tcp"),
                format!("{base}/ports//1"),
            ] {
                assert!(find(&path).is_none(), "{path}");
            }
        }
        assert_eq!(endpoint("/metrics"), Some(Endpoint::Metrics));
        assert!(find("/metrics/").is_none() && find("/healthz").is_none());
        assert_eq!(endpoint("/"), Some(Endpoint::Page));
        assert!(find("").is_none() && find("//").is_none());
    }

    #[test]
    fn the_parts_of_a_path_are_what_stands_in_it() {
        assert_eq!(find("/api/server/devices/tcp/6001/7").unwrap().parts, ["tcp", "6001", "7"]);
        assert!(find("/api/server/devices").unwrap().parts.is_empty());
    }
}
