//! Chooses the proxy to the kube-apiserver by kubectl's rules: `proxy-url` of the kubeconfig, else the environment
//! variables HTTPS_PROXY (HTTP_PROXY for an API server without TLS) and NO_PROXY. With a service account inside a
//! cluster, no proxy is used. etcd is never reached through a proxy.
//!
//! kube 5.0.0 compares NO_PROXY with the proxy's address in place of the API server's, and rejects a list with an empty
//! entry. So this module decides, and passes the result to kube.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use http::uri::Authority;

/// A proxy, and where it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) url: Uri,
    pub(super) origin: Origin,
}

/// Where a proxy is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Kubeconfig,
    /// An environment variable.
    Variable(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kubeconfig => f.write_str("proxy-url in the kubeconfig"),
            Self::Variable(name) => write!(f, "the environment variable {name}"),
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without user and password.
        let scheme = self.url.scheme_str().unwrap_or("http");
        let host = self.url.host().unwrap_or_default();
        let port = self.url.port().map(|port| format!(":{port}")).unwrap_or_default();
        write!(f, "the proxy {scheme}://{host}{port} ({})", self.origin)
    }
}

/// A proxy address that cannot be used. The error does not quote the address, which may contain a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unusable(Origin);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is not a usable proxy address: use http://host:port, https://host:port or socks5://host:port, or list \
             the kube-apiserver in NO_PROXY",
            self.0
        )
    }
}

/// Returns the proxy for the kube-apiserver at `server`, given the kubeconfig's `proxy_url` and the environment
/// `variable`.
pub(super) fn proxy(
    server: &Uri,
    proxy_url: Option<&str>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, Unusable> {
    // As in kubectl, the kubeconfig's `proxy-url` applies to its cluster regardless of NO_PROXY.
    if let Some(url) = proxy_url.filter(|url| !url.is_empty()) {
        return parse(url, Origin::Kubeconfig).map(Some);
    }
    let first = |names: [&'static str; 2]| {
        names.into_iter().find_map(|name| {
            let value = variable(name).filter(|value| !value.trim().is_empty())?;
            Some((name, value))
        })
    };
    let names = match server.scheme_str() {
        Some("http") => ["HTTP_PROXY", "http_proxy"],
        _ => ["HTTPS_PROXY", "https_proxy"],
    };
    let Some((name, url)) = first(names) else {
        return Ok(None);
    };
    let (_, exempt) = first(["NO_PROXY", "no_proxy"]).unwrap_or_default();
    if is_exempt(server, &exempt) {
        return Ok(None);
    }
    parse(&url, Origin::Variable(name)).map(Some)
}

fn parse(url: &str, origin: Origin) -> Result<Proxy, Unusable> {
    let url = url.trim();
    let url = if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    };
    // kube's client supports http, https and socks5. It rejects socks5h (name resolution at the proxy), but its socks5
    // resolves names at the proxy, too.
    let url = match url.strip_prefix("socks5h://") {
        Some(rest) => format!("socks5://{rest}"),
        None => url,
    };
    let url: Uri = url.parse().map_err(|_| Unusable(origin))?;
    let known = matches!(url.scheme_str(), Some("http" | "https" | "socks5"));
    // `port_u16` returns `None` for an invalid port, too, so this distinguishes "no port" from "invalid port".
    let without_port = |authority: &Authority| authority.as_str().ends_with(authority.host());
    let known = known && (url.port_u16().is_some() || url.authority().is_some_and(without_port));
    match url.host() {
        Some(host) if known && !host.is_empty() => Ok(Proxy { url, origin }),
        _ => Err(Unusable(origin)),
    }
}

/// Whether `server` is the local host or covered by the NO_PROXY list, by the rules of Go programs. An entry is an
/// address, a network (10.0.0.0/8), a name that also covers all names below it, `.name` or `*.name` for the names below
/// it only, or `*` for everything. Each but a network may end with a port.
fn is_exempt(server: &Uri, list: &str) -> bool {
    let host = server
        .host()
        .unwrap_or_default()
        .trim_matches(['[', ']'])
        .to_lowercase();
    let host = host.trim_end_matches('.');
    let port = server.port_u16().unwrap_or(match server.scheme_str() {
        Some("http") => 80,
        _ => 443,
    });
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    let mut entries = list.split(',').map(|entry| entry.trim().to_lowercase());
    entries.any(|entry| {
        if entry == "*" {
            return true;
        }
        if let Some((network, bits)) = entry.split_once('/') {
            return match (address, network.parse(), bits.parse()) {
                (Some(address), Ok(network), Ok(bits)) => contains(network, bits, address),
                _ => false,
            };
        }
        let (name, wanted) = split_port(&entry);
        if name.is_empty() || wanted.is_some_and(|wanted| wanted != port) {
            return false;
        }
        if let Ok(exempt) = name.parse::<IpAddr>() {
            return address == Some(exempt);
        }
        let name = name
            .strip_prefix('*')
            .filter(|rest| rest.starts_with('.'))
            .unwrap_or(name);
        match name.strip_prefix('.') {
            Some(_) => host.ends_with(name),
            None => host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')),
        }
    })
}

/// Splits an entry into a name or address and an optional port.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    if let Some(rest) = entry.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').unwrap_or((rest, ""));
        return (address, rest.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match entry.rsplit_once(':') {
        // An entry with more colons is an IPv6 address.
        Some((name, port)) if !name.contains(':') => match port.parse() {
            Ok(port) => (name, Some(port)),
            Err(_) => (entry, None),
        },
        _ => (entry, None),
    }
}

fn contains(network: IpAddr, bits: u32, address: IpAddr) -> bool {
    let (network, address, width) = match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (u128::from(network.to_bits()), u128::from(address.to_bits()), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => (network.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    bits <= width && (network ^ address).checked_shr(width - bits).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(server: &str, proxy_url: Option<&str>, env: &[(&str, &str)]) -> Result<Option<String>, Unusable> {
        let variable = |name: &str| {
            let found = env.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let proxy = proxy(&server.parse().unwrap(), proxy_url, variable)?;
        Ok(proxy.map(|proxy| proxy.to_string()))
    }

    #[test]
    fn proxy_source_is_the_kubeconfig_or_the_environment() {
        let server = "https://k8s.example.org:6443";
        let proxy_of = |proxy_url, env: &[(&str, &str)]| of(server, proxy_url, env).unwrap().unwrap_or_default();
        assert_eq!(proxy_of(None, &[]), "");
        assert_eq!(proxy_of(Some(""), &[("HTTPS_PROXY", "")]), "");
        assert_eq!(
            proxy_of(None, &[("HTTPS_PROXY", "http://u:secret@p:3128/")]),
            "the proxy http://p:3128 (the environment variable HTTPS_PROXY)"
        );
        assert_eq!(
            proxy_of(None, &[("https_proxy", " p:3128 ")]),
            "the proxy http://p:3128 (the environment variable https_proxy)"
        );
        assert_eq!(
            proxy_of(None, &[("HTTPS_PROXY", "socks5h://p:1080")]),
            "the proxy socks5://p:1080 (the environment variable HTTPS_PROXY)"
        );
        assert_eq!(proxy_of(None, &[("HTTP_PROXY", "p:1"), ("ALL_PROXY", "p:2")]), "");
        // NO_PROXY applies to the environment's proxy only.
        let env = [("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", "*")];
        assert_eq!(proxy_of(None, &env), "");
        assert_eq!(
            proxy_of(Some("https://q:2"), &env),
            "the proxy https://q:2 (proxy-url in the kubeconfig)"
        );
        let plain = of("http://k8s.example.org:8080", None, &[("HTTP_PROXY", "http://p:1")]);
        assert_eq!(
            plain.unwrap().unwrap_or_default(),
            "the proxy http://p:1 (the environment variable HTTP_PROXY)"
        );
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_an_error_that_names_where_it_is_written() {
        for wrong in ["socks4://p:1", "ftp://p", "http://", "http://p:port", "p q"] {
            let error = of("https://k8s.example.org", None, &[("https_proxy", wrong)]).expect_err(wrong);
            let message = error.to_string();
            assert!(
                message.starts_with("the environment variable https_proxy is not a usable proxy"),
                "{message}"
            );
            let error = of("https://k8s.example.org", Some(wrong), &[]).expect_err(wrong);
            assert!(error.to_string().starts_with("proxy-url in the kubeconfig"), "{wrong}");
        }
        // NO_PROXY covers the server, so the invalid proxy is not used.
        let env = [("HTTPS_PROXY", "socks4://p:1"), ("NO_PROXY", "example.org")];
        assert_eq!(of("https://k8s.example.org", None, &env), Ok(None));
    }

    #[test]
    fn no_proxy_is_read_as_go_reads_it() {
        let named = "https://k8s.example.org:6443";
        for (server, list, exempt) in [
            (named, "", false),
            (named, "*", true),
            (named, "other.org, example.org,", true),
            (named, ",,EXAMPLE.ORG", true),
            (named, "k8s.example.org", true),
            (named, "s.example.org", false),
            (named, ".example.org", true),
            (named, "*.example.org", true),
            (named, "*example.org", false),
            ("https://example.org", ".example.org", false),
            ("https://example.org", "example.org", true),
            (named, "example.org:6443", true),
            (named, "example.org:443", false),
            ("https://k8s.example.org", "example.org:443", true),
            (named, "10.0.0.0/8", false),
            ("https://10.1.2.3:6443", "10.0.0.0/8", true),
            ("https://10.1.2.3:6443", "10.1.2.3", true),
            ("https://10.1.2.3:6443", "10.1.2.3:6443", true),
            ("https://10.1.2.3:6443", "10.1.2.3:1", false),
            ("https://10.1.2.3:6443", "11.0.0.0/8,0.0.0.0/33,10.1.2.4/31", false),
            ("https://10.1.2.3:6443", "0.0.0.0/0", true),
            ("https://10.1.2.3:6443", "::/0", false),
            ("https://[fd00::7]:6443", "fd00::7", true),
            ("https://[fd00::7]:6443", "[fd00::7]:6443", true),
            ("https://[fd00::7]:6443", "fd00::/8", true),
            ("https://[fd00::7]:6443", "fe00::/8", false),
            ("https://kubernetes.default.svc", ".svc", true),
            // The local host, whatever the list says.
            ("https://127.0.0.1:6443", "", true),
            ("https://localhost:6443", "", true),
            ("https://[::1]:6443", "", true),
        ] {
            let env = [("HTTPS_PROXY", "http://p:1"), ("no_proxy", list)];
            assert_eq!(
                of(server, None, &env).unwrap().is_none(),
                exempt,
                "{server} in {list:?}"
            );
        }
    }
}
