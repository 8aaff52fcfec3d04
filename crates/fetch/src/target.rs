//! An address, parsed once. All that is done with it goes by this one reading.

use crate::failure::{credentials, no_address, origin};
use types::Result;
use url::{Host, Url};

/// What to ask whom.
#[derive(Debug, Clone)]
pub(crate) struct Target(Url);

impl Target {
    /// Reads an address of a client. Errors: it is none of HTTP, or has a password in it.
    pub(crate) fn parse(address: &str) -> Result<Self> {
        Self::check(Url::parse(address).map_err(|_| no_address())?)
    }

    /// Where a redirect from here leads. Errors: nowhere that could be fetched.
    pub(crate) fn redirected(&self, to: &[u8]) -> Result<Self> {
        let nowhere = || origin("its origin redirects to what cannot be fetched");
        let to = std::str::from_utf8(to).map_err(|_| nowhere())?;
        Self::check(self.0.join(to).map_err(|_| nowhere())?).map_err(|_| nowhere())
    }

    fn check(mut url: Url) -> Result<Self> {
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(no_address());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(credentials());
        }
        url.set_fragment(None);
        Ok(Self(url))
    }

    /// Whether the connection is encrypted.
    pub(crate) fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// The host, a name in ASCII or an IP address; parsing has seen that there is one.
    pub(crate) fn host(&self) -> Host<&str> {
        self.0.host().unwrap_or(Host::Domain(""))
    }

    /// The host as lists name it.
    pub(crate) fn host_text(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// The port to connect to.
    pub(crate) fn port(&self) -> u16 {
        let usual = if self.is_https() { 443 } else { 80 };
        self.0.port().unwrap_or(usual)
    }

    /// The host as the request names it: with the port, unless that is the usual one.
    pub(crate) fn authority(&self) -> String {
        match self.0.port() {
            Some(port) => format!("{}:{port}", self.host_text()),
            None => self.host_text().to_owned(),
        }
    }

    /// What to ask the host for.
    pub(crate) fn path_and_query(&self) -> String {
        match self.0.query() {
            Some(query) => format!("{}?{query}", self.0.path()),
            None => self.0.path().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_reading() {
        let check = |address: &str, expected: Option<(&str, u16, &str)>| {
            let found = Target::parse(address).ok();
            let found = found.map(|it| (it.host_text().to_owned(), it.port(), it.path_and_query()));
            let expected = expected.map(|(host, port, path)| (host.into(), port, path.into()));
            assert_eq!(found, expected, "{address}");
        };
        check("http://a.example/b.png?c=d#e", Some(("a.example", 80, "/b.png?c=d")));
        check("HTTPS://A.Example", Some(("a.example", 443, "/")));
        check("https://a.example:8443/b c", Some(("a.example", 8443, "/b%20c")));
        check("http://2130706433/", Some(("127.0.0.1", 80, "/")));
        check("http://0x7f.1/", Some(("127.0.0.1", 80, "/")));
        check("http://[::ffff:7f00:1]/", Some(("[::ffff:7f00:1]", 80, "/")));
        check("http://good.example\\@bad.example/", Some(("good.example", 80, "/@bad.example/")));
        check("http://good.example@bad.example/", None);
        check("http://user:word@a.example/", None);
        check("ftp://a.example/", None);
        check("file:///etc/passwd", None);
        check("http://", None);
        check("http://a.example:99999/", None);
    }

    #[test]
    fn redirects_lead_on_from_where_they_stand() {
        let check = |to: &str, expected: Option<&str>| {
            let from = Target::parse("https://a.example/b/c").unwrap();
            let found = from.redirected(to.as_bytes()).ok().map(|to| to.0.to_string());
            assert_eq!(found.as_deref(), expected, "{to}");
        };
        check("d", Some("https://a.example/b/d"));
        check("//e.example/f", Some("https://e.example/f"));
        check("http://127.0.0.1/", Some("http://127.0.0.1/"));
        check("file:///etc/passwd", None);
        check("gopher://a.example/", None);
        check("https://user@a.example/", None);
    }
}
