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
        match origin {
            Some(given) if !self.knows(given, host) => {
                Err(Error::new(FORBIDDEN_ORIGIN, format!("Origin `{given}` may not do that here.")))
            }
            _ => Ok(()),
        }
    }

    /// Takes no request that a browser makes for a page of another site: it could not read the answer, but hold a place
    /// among those who wait. What a person opens is taken, and what an origin of ours asks for. Other clients say nothing
    /// of a site (Fetch Metadata, <https://www.w3.org/TR/fetch-metadata/>).
    ///
    /// # Errors
    /// `forbidden_origin`.
    pub(super) fn site(
        &self,
        (site, mode): (Option<&str>, Option<&str>),
        origin: Option<&str>,
        host: Option<&str>,
    ) -> Result<(), Error> {
        let foreign = site.is_some_and(|site| site != "same-origin" && site != "none");
        if !foreign || mode == Some("navigate") || origin.is_some_and(|given| self.knows(given, host)) {
            return Ok(());
        }
        Err(Error::new(FORBIDDEN_ORIGIN, "A page of another site may not ask for that here."))
    }

    fn knows(&self, origin: &str, host: Option<&str>) -> bool {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        let own = authority.zip(host).is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host));
        let listed = self.origins.iter().any(|listed| listed.eq_ignore_ascii_case(origin));
        own || listed || origin.starts_with("moz-extension://")
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

    #[test]
    fn what_a_browser_asks_for_a_page_of_another_site_is_refused() {
        let host = Some("127.0.0.1:4317");
        let asked = |site, mode, origin| gate().site((site, mode), origin, host).is_ok();
        assert!(asked(None, None, None), "a program says nothing");
        assert!(asked(Some("same-origin"), Some("cors"), None), "the page of the node itself");
        assert!(asked(Some("none"), Some("navigate"), None), "an address that was typed");
        assert!(asked(Some("cross-site"), Some("navigate"), None), "a link that was followed");
        assert!(
            asked(Some("cross-site"), Some("cors"), Some("https://panel.example")),
            "an origin that is listed"
        );
        assert!(asked(Some("cross-site"), Some("cors"), Some("moz-extension://0d5f")));
        for site in ["cross-site", "same-site"] {
            assert!(!asked(Some(site), Some("no-cors"), None), "{site}");
            assert!(!asked(Some(site), Some("cors"), Some("https://evil.example")), "{site}");
            assert!(!asked(Some(site), None, None), "{site}");
        }
    }
}
