//! What the API serves: one table, from which requests are routed, `-r` prints and the OpenAPI document is made.
//!
//! **Invariants.** A route that is not in the table cannot be reached; every route is under both base paths, and that of the
//! metrics at the root as well, where scrapers look.
//! **Not here.** What a route does (`api`).

use crate::policy::port_id::Transport;

/// Drivers in the field use both.
pub const BASE_PATHS: [&str; 2] = ["/api/server", "/api/dispatch/v1"];
/// HEAD is GET without the body.
pub const METHODS: &str = "GET, HEAD";

/// The path of the metrics, also without a base path.
const METRICS_PATH: &str = "/metrics";

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Joined drivers and connected devices a port.
    Statistics,
    /// That the daemon is alive.
    Health,
    /// What runs here.
    Version,
    /// Everything that is counted, for Prometheus.
    Metrics,
    /// What each shard has and has counted.
    Shards,
    /// A driver's join.
    Join(Transport),
}

/// One route.
#[derive(Debug)]
pub struct Route {
    /// What it does.
    pub endpoint: Endpoint,
    /// Its path behind a base path.
    pub path: &'static str,
    /// Whether the token is needed.
    pub needs_token: bool,
    /// One sentence for people.
    pub summary: &'static str,
}

/// Every route.
pub const ROUTES: [Route; 7] = [
    Route {
        endpoint: Endpoint::Statistics,
        path: "/",
        needs_token: true,
        summary: "Joined drivers and connected devices of every open port",
    },
    Route { endpoint: Endpoint::Health, path: "/healthz", needs_token: false, summary: "Whether the daemon is alive" },
    Route { endpoint: Endpoint::Version, path: "/version", needs_token: false, summary: "What version runs" },
    Route {
        endpoint: Endpoint::Metrics,
        path: METRICS_PATH,
        needs_token: true,
        summary: "Everything that is counted, for Prometheus (--metrics-open: without a token)",
    },
    Route {
        endpoint: Endpoint::Shards,
        path: "/shards",
        needs_token: true,
        summary: "What each shard has and has counted",
    },
    Route {
        endpoint: Endpoint::Join(Transport::Tcp),
        path: "/tcp_dispatch",
        needs_token: true,
        summary: "Join a TCP port as a driver (WebSocket)",
    },
    Route {
        endpoint: Endpoint::Join(Transport::Udp),
        path: "/udp_dispatch",
        needs_token: true,
        summary: "Join a UDP port as a driver (WebSocket)",
    },
];

/// The route of a path; that of the statistics also without its slash.
pub fn find(path: &str) -> Option<&'static Route> {
    let under_base = BASE_PATHS.iter().find_map(|base| path.strip_prefix(base));
    let rest = under_base.or((path == METRICS_PATH).then_some(path))?;
    let rest = if rest.is_empty() { "/" } else { rest };
    ROUTES.iter().find(|route| route.path == rest)
}

/// Every path that is served, with its route.
pub fn paths() -> impl Iterator<Item = (String, &'static Route)> {
    let under = |base: &'static str| ROUTES.iter().map(move |route| (format!("{base}{}", route.path), route));
    BASE_PATHS.into_iter().flat_map(under).chain(find(METRICS_PATH).map(|route| (METRICS_PATH.to_owned(), route)))
}

/// The table as `-r` prints it.
pub fn text() -> String {
    let mut text = String::new();
    for (path, route) in paths() {
        let method = if matches!(route.endpoint, Endpoint::Join(_)) { "WS" } else { "GET" };
        let token = if route.needs_token { "token" } else { "open" };
        text.push_str(&format!("{method:<4}{path:<34}{token:<6} {}\n", route.summary));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_found_under_both_base_paths_and_nothing_else_is() {
        for base in BASE_PATHS {
            for route in &ROUTES {
                assert_eq!(find(&format!("{base}{}", route.path)).map(|found| found.endpoint), Some(route.endpoint));
            }
            assert_eq!(find(base).map(|route| route.endpoint), Some(Endpoint::Statistics));
            for path in [
                format!("/metrics{base}"),
                format!("{base}/healthz/"),
                format!("{base}//"),
                format!("{base}healthz"),
                format!("/x{base}"),
            ] {
                assert!(find(&path).is_none(), "{path}");
            }
        }
        assert_eq!(find("/metrics").map(|route| route.endpoint), Some(Endpoint::Metrics));
        assert!(find("/metrics/").is_none() && find("/healthz").is_none());
        assert!(find("/").is_none() && find("").is_none());
    }
}
