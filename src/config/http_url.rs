//! A URL of `http`, `https`, `ws` or `wss`, as the health check and the terminal's driver take it.
//!
//! **Invariants.** A port of 1 to 65,535, a path that begins with a slash, no blanks and no control characters
//! anywhere.
//! **Not here.** Connecting, and TLS (`command`).

use std::fmt;
use std::str::FromStr;

const NO_SCHEME: &str = "the URL must begin with http://, https://, ws:// or wss://";

/// How to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `http` or `ws`.
    Plain,
    /// `https` or `wss`.
    Tls,
}

impl Scheme {
    const fn port_default(self) -> u16 {
        match self {
            Scheme::Plain => 80,
            Scheme::Tls => 443,
        }
    }
}

/// Where to ask, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    /// Whether with TLS.
    pub scheme: Scheme,
    /// A name or an address, an IPv6 address without its brackets.
    pub host: String,
    /// 80 unless given, or 443 with TLS.
    pub port: u16,
    /// With the query; `/` unless given.
    pub path: String,
}

impl HttpUrl {
    /// Host and port as the `Host` header and a URL write them.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HttpUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<HttpUrl, &'static str> {
        if text.chars().any(|character| character.is_whitespace() || character.is_control()) {
            return Err("a URL has no blanks");
        }
        let (scheme, rest) = text.split_once("://").ok_or(NO_SCHEME)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" | "ws" => Scheme::Plain,
            "https" | "wss" => Scheme::Tls,
            _ => return Err(NO_SCHEME),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("a URL with a user is not taken");
        }
        let (host, port) = split_port(authority, scheme.port_default())?;
        if host.is_empty() {
            return Err("the URL has no host");
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(HttpUrl { scheme, host: host.to_owned(), port, path })
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Plain => "http",
            Scheme::Tls => "https",
        };
        write!(formatter, "{scheme}://{}{}", self.authority(), self.path)
    }
}

fn split_port(authority: &str, port_default: u16) -> Result<(&str, u16), &'static str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']').ok_or("the address has no closing bracket")?;
            let port = rest.strip_prefix(':');
            if port.is_none() && !rest.is_empty() {
                return Err("only a port may follow the closing bracket");
            }
            (host, port)
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    match port {
        None | Some("") => Ok((host, port_default)),
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => Ok((host, port)),
            _ => Err("the port must be a number from 1 to 65535"),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, u16, String) {
        let url: HttpUrl = text.parse().unwrap();
        (url.host, url.port, url.path)
    }

    #[test]
    fn a_url_is_host_port_and_path_with_defaults() {
        let expected = ("127.0.0.1".into(), 8080, "/api/dispatch/v1/healthz".into());
        assert_eq!(parts("http://127.0.0.1:8080/api/dispatch/v1/healthz"), expected);
        assert_eq!(parts("HTTP://host"), ("host".into(), 80, "/".into()));
        assert_eq!(parts("http://host:?a=b#c"), ("host".into(), 80, "/?a=b".into()));
        assert_eq!(parts("http://[::1]:3000/x"), ("::1".into(), 3000, "/x".into()));
    }

    #[test]
    fn a_scheme_says_whether_with_tls_and_which_port_by_default() {
        for (text, scheme, port) in [
            ("http://host", Scheme::Plain, 80),
            ("ws://host", Scheme::Plain, 80),
            ("HTTPS://host", Scheme::Tls, 443),
            ("wss://host:3443/", Scheme::Tls, 3_443),
        ] {
            let url: HttpUrl = text.parse().unwrap();
            assert_eq!((url.scheme, url.port), (scheme, port), "{text}");
        }
    }

    #[test]
    fn it_prints_as_it_was_written() {
        for text in ["http://[::1]:3000/x?y=z", "http://localhost:1/", "https://localhost:443/"] {
            assert_eq!(text.parse::<HttpUrl>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_url_is_refused() {
        let refused = [
            "",
            "http",
            "ftp://host/",
            "host:80",
            "http://",
            "http:///x",
            "http://host:0",
            "http://host:65536",
            "http://host:x",
            "http://[::1",
            "http://[::1]x",
            "http://u:p@host/",
            "http://host/a b",
            "http://host/\r\nx",
        ];
        for text in refused {
            assert!(text.parse::<HttpUrl>().is_err(), "{text:?}");
        }
    }
}
