//! Whose requests are served at all: the defence against web pages and rebound names.
//!
//! Loopback is no authentication: a browser on this machine reaches it too. Knows nothing of tokens.

use std::net::IpAddr;

use crate::Error;
use crate::error::{FORBIDDEN_HOST, FORBIDDEN_ORIGIN};

/// The names and origins that are taken beside the obvious ones.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// Hosts beside loopback and the bound address. Ports do not matter.
    pub hosts: Vec<String>,
    /// Origins, as `https://example.org`, beside the own one and any `moz-extension://…`.
    pub origins: Vec<String>,
}

impl Gate {
    /// Takes a `Host` that is a loopback name, the bound address, or listed; HTTP/1.0 may leave it out.
    ///
    /// # Errors
    /// `forbidden_host`.
    pub(super) fn host(&self, host: Option<&str>, bound: IpAddr) -> Result<(), Error> {
        let Some(given) = host else { return Ok(()) };
        let name = without_port(given);
        let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        let ours = match literal.parse::<IpAddr>() {
            Ok(ip) if ip.is_loopback() || ip == bound => true,
            _ => name.eq_ignore_ascii_case("localhost"),
        };
        if ours || self.hosts.iter().any(|host| without_port(host).eq_ignore_ascii_case(name)) {
            return Ok(());
        }
        Err(Error::new(FORBIDDEN_HOST, format!("Host `{given}` is not served here.")))
    }

    /// Takes an `Origin` that is the own one (the scheme may be a proxy's), an extension's or listed; a program
    /// sends none.
    ///
    /// # Errors
    /// `forbidden_origin`.
    pub(super) fn origin(&self, origin: Option<&str>, host: Option<&str>) -> Result<(), Error> {
        let Some(given) = origin else { return Ok(()) };
        let authority = given.strip_prefix("http://").or_else(|| given.strip_prefix("https://"));
        let own = authority.zip(host).is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host));
        let listed = self.origins.iter().any(|origin| origin.eq_ignore_ascii_case(given));
        if own || listed || given.starts_with("moz-extension://") {
            return Ok(());
        }
        Err(Error::new(FORBIDDEN_ORIGIN, format!("Origin `{given}` may not do that here.")))
    }
}

/// A host without its port; `[::1]` keeps its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.ends_with(':') && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        Gate { hosts: vec!["node.example".into()], origins: vec!["https://panel.example".into()] }
    }

    #[test]
    fn hosts_are_loopback_the_bound_address_or_listed() {
        let bound = "100.64.0.7".parse().unwrap();
        let taken = [
            "localhost",
            "LOCALHOST:4317",
            "127.0.0.1",
            "127.0.0.1:80",
            "127.8.8.8:1",
            "[::1]",
            "[::1]:4317",
            "100.64.0.7:4317",
            "node.example",
            "Node.Example:443",
            "localhost:",
        ];
        for host in taken {
            assert!(gate().host(Some(host), bound).is_ok(), "{host}");
        }
        let refused = [
            "",
            "evil.example",
            "evil.example:4317",
            "localhost.evil.example",
            "100.64.0.8",
            "0.0.0.0",
            "[::2]",
            "user@localhost",
            "localhost:80:80x",
            "[127.0.0.1",
            "node.example.evil",
            "localhost/",
        ];
        for host in refused {
            assert_eq!(gate().host(Some(host), bound).unwrap_err().code, FORBIDDEN_HOST, "{host}");
        }
        assert!(gate().host(None, bound).is_ok());
    }

    #[test]
    fn origins_are_the_own_one_an_extension_or_listed() {
        let host = Some("127.0.0.1:4317");
        let taken = [
            "http://127.0.0.1:4317",
            "https://127.0.0.1:4317",
            "moz-extension://0d5f",
            "https://panel.example",
        ];
        for origin in taken {
            assert!(gate().origin(Some(origin), host).is_ok(), "{origin}");
        }
        let refused = [
            "",
            "null",
            "http://127.0.0.1",
            "http://127.0.0.1:3000",
            "http://localhost:4317",
            "ftp://127.0.0.1:4317",
            "https://evil.example",
            "http://panel.example",
            "chrome-extension://x",
        ];
        for origin in refused {
            assert_eq!(gate().origin(Some(origin), host).unwrap_err().code, FORBIDDEN_ORIGIN, "{origin}");
        }
        assert!(gate().origin(None, host).is_ok());
    }
}
