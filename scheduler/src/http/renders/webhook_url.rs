//! Where a webhook may point: an https URL at a public address. Checked before a render is accepted, so
//! that nobody learns of a mistake when the render is done, and nobody aims us at our own network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use url::{Host, Url};

/// Characters of a webhook's URL.
const URL_CHARS_MAX: usize = 2_048;
/// How long the resolver may take; delivery checks the address again.
const RESOLVE_TIME_MAX: Duration = Duration::from_secs(2);
/// Names that no public resolver answers for.
const PRIVATE_SUFFIXES: [&str; 7] = ["localhost", "local", "internal", "lan", "home", "corp", "home.arpa"];

/// The URL in its normal form, or what is wrong with it.
pub(super) async fn check(text: &str, allow_private: bool) -> Result<String, String> {
    let url = check_form(text, allow_private)?;
    if !allow_private {
        check_resolved(&url).await?;
    }
    Ok(url.into())
}

fn check_form(text: &str, allow_private: bool) -> Result<Url, String> {
    if text.chars().count() > URL_CHARS_MAX {
        return Err(format!("must have at most {URL_CHARS_MAX} characters"));
    }
    let url = Url::parse(text).map_err(|error| format!("must be an absolute https URL: {error}"))?;
    match url.scheme() {
        "https" => {}
        "http" if allow_private => {}
        scheme => return Err(format!("must be an https URL; {scheme} is not accepted")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user name or password; webhooks are signed instead".into());
    }
    let public = match url.host() {
        None => return Err("must name a host".into()),
        Some(Host::Domain(name)) => is_public_name(name),
        Some(Host::Ipv4(address)) => is_public_v4(address),
        Some(Host::Ipv6(address)) => is_public_v6(address),
    };
    if public || allow_private { Ok(url) } else { Err(not_public(url.host_str().unwrap_or_default())) }
}

fn not_public(host: &str) -> String {
    format!("must point at a public address; {host} is private, local or reserved")
}

/// Looks the name up. A resolver that does not answer decides nothing: delivery asks again.
async fn check_resolved(url: &Url) -> Result<(), String> {
    let (Some(Host::Domain(name)), Some(port)) = (url.host(), url.port_or_known_default()) else {
        return Ok(());
    };
    let lookup = tokio::net::lookup_host((name, port));
    let Ok(Ok(addresses)) = tokio::time::timeout(RESOLVE_TIME_MAX, lookup).await else { return Ok(()) };
    for address in addresses {
        let public = match address.ip() {
            IpAddr::V4(address) => is_public_v4(address),
            IpAddr::V6(address) => is_public_v6(address),
        };
        if !public {
            return Err(format!("{}; {name} resolves to it", not_public(&address.ip().to_string())));
        }
    }
    Ok(())
}

fn is_public_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let private =
        |suffix| name.strip_suffix(suffix).is_some_and(|rest: &str| rest.is_empty() || rest.ends_with('.'));
    name.contains('.') && !PRIVATE_SUFFIXES.into_iter().any(private)
}

/// After the IANA IPv4 special-purpose address registry: globally reachable unicast only.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocol = a == 192 && b == 0 && c == 0;
    let relay = a == 192 && b == 88 && c == 99;
    let benchmarking = a == 198 && (b == 18 || b == 19);
    !(a == 0
        || a >= 224
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || shared
        || protocol
        || relay
        || benchmarking)
}

/// After the IANA IPv6 special-purpose address registry: global unicast (`2000::/3`) only, and of the
/// forms that carry an IPv4 address only those that carry a public one.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    match segments {
        // NAT64 (RFC 6052) and 6to4 (RFC 3056).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => is_public_v4(embedded(high, low)),
        // Documentation, protocol assignments including Teredo.
        [0x2001, 0x0db8 | 0..=0x01ff, ..] | [0x3fff, 0..=0x0fff, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_https_urls_are_accepted() {
        for url in [
            "https://example.com/hook",
            "https://example.com:8443/hook?x=1",
            "https://1.1.1.1/",
            "https://[2606:4700::1111]/",
        ] {
            assert!(check_form(url, false).is_ok(), "{url}");
        }
        for url in [
            "",
            "example.com",
            "http://example.com/",
            "ftp://example.com/",
            "file:///etc/passwd",
            "https://user:pw@example.com/",
            "https://localhost/",
            "https://LOCALHOST./",
            "https://api.localhost/",
            "https://printer.local/",
            "https://metadata.google.internal/",
            "https://intranet/",
            "https://127.0.0.1/",
            "https://0x7f.1/",
            "https://2130706433/",
            "https://017700000001/",
            "https://10.1.2.3/",
            "https://172.16.0.1/",
            "https://192.168.0.1/",
            "https://169.254.169.254/latest/meta-data",
            "https://100.64.0.1/",
            "https://100.100.100.200/",
            "https://0.0.0.0/",
            "https://255.255.255.255/",
            "https://224.0.0.1/",
            "https://198.18.0.1/",
            "https://203.0.113.7/",
            "https://[::1]/",
            "https://[::]/",
            "https://[fe80::1]/",
            "https://[fd00::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[2002:7f00:1::]/",
            "https://[2001:db8::1]/",
            "https://[ff02::1]/",
        ] {
            assert!(check_form(url, false).is_err(), "{url}");
        }
    }

    #[test]
    fn development_may_point_at_itself() {
        assert!(check_form("http://127.0.0.1:9000/hook", true).is_ok());
        assert!(check_form("ftp://127.0.0.1/", true).is_err());
    }

    #[test]
    fn a_long_url_is_refused() {
        assert!(check_form(&format!("https://example.com/{}", "a".repeat(URL_CHARS_MAX)), false).is_err());
    }
}
