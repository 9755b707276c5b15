//! What the API serves: one table, from which requests are routed, `-r` prints and the OpenAPI document is made.
//!
//! **Invariants.** A route that is not in the table cannot be reached; every route is under both base paths.
//! **Not here.** What a route does (`api`).

use crate::policy::port_id::Transport;

/// Drivers in the field use both.
pub const BASE_PATHS: [&str; 2] = ["/api/server", "/api/dispatch/v1"];
/// HEAD is GET without the body.
pub const METHODS: &str = "GET, HEAD";

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Joined drivers and connected devices a port.
    Statistics,
    /// That the daemon is alive.
    Health,
    /// What runs here.
    Version,
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
pub const ROUTES: [Route; 6] = [
    Route {
        endpoint: Endpoint::Statistics,
        path: "/",
        needs_token: true,
        summary: "Joined drivers and connected devices of every open port",
    },
    Route { endpoint: Endpoint::Health, path: "/healthz", needs_token: false, summary: "Whether the daemon is alive" },
    Route { endpoint: Endpoint::Version, path: "/version", needs_token: false, summary: "What version runs" },
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
    let rest = BASE_PATHS.iter().find_map(|base| path.strip_prefix(base))?;
    let rest = if rest.is_empty() { "/" } else { rest };
    ROUTES.iter().find(|route| route.path == rest)
}

/// The table as `-r` prints it.
pub fn text() -> String {
    let mut text = String::new();
    for base in BASE_PATHS {
        for route in &ROUTES {
            let method = if matches!(route.endpoint, Endpoint::Join(_)) { "WS" } else { "GET" };
            let token = if route.needs_token { "token" } else { "open" };
            text.push_str(&format!("{method:<4}{:<34}{token:<6} {}\n", format!("{base}{}", route.path), route.summary));
        }
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
            for path in [format!("{base}/healthz/"), format!("{base}//"), format!("{base}healthz"), format!("/x{base}")]
            {
                assert!(find(&path).is_none(), "{path}");
            }
        }
        assert!(find("/").is_none() && find("").is_none());
    }
}
