//! Syntax checks of names, hosts and patterns.

use std::net::IpAddr;

/// Whether a text is not blank and has no control characters.
pub(crate) fn is_single_line(text: &str) -> bool {
    !text.trim().is_empty() && !text.contains(char::is_control)
}

/// Whether a text can be part of a path and of a metric label.
pub(crate) fn is_slug(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(fits)
}

/// Whether a text is a domain name (RFC 1123 section 2.1) or an IP address.
pub(crate) fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        let fits = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        fits && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.parse::<IpAddr>().is_ok() || (text.len() <= 253 && text.split('.').all(label))
}

/// Whether a host can only be this machine.
pub fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Whether a text is `*`, an address, or `*@` with a domain.
pub(crate) fn is_address_pattern(text: &str) -> bool {
    let complete = |(local, domain): (&str, &str)| !local.is_empty() && !domain.is_empty();
    text == "*"
        || (is_single_line(text) && !text.contains(' ') && text.rsplit_once('@').is_some_and(complete))
}

/// Whether a text is a header field name.
pub(crate) fn is_header_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Whether a text is a header field name, or a prefix followed by `*`.
pub(crate) fn is_header_pattern(text: &str) -> bool {
    text == "*" || is_header_name(text.strip_suffix('*').unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_hostnames_and_ip_addresses() {
        for host in ["localhost", "smtp.mailgun.org", "10.0.0.1", "::1"] {
            assert!(is_hostname(host), "{host}");
        }
        for host in ["", "a..b", "smtp://host", "host:25", "-a", "a b"] {
            assert!(!is_hostname(host), "{host}");
        }
        assert!(is_loopback("LocalHost") && is_loopback("127.8.0.1") && !is_loopback("10.0.0.1"));
    }

    #[test]
    fn accepts_valid_patterns_only() {
        assert!(["*", "*@example.com", "*@*.example.com", "a@b"].iter().all(|text| is_address_pattern(text)));
        assert!(!["", "example.com", "@b", "a@", "a b@c"].iter().any(|text| is_address_pattern(text)));
        assert!(["Tag", "Track*", "Deliver-By", "*"].iter().all(|text| is_header_pattern(text)));
        assert!(!["", "Tra*ck", "Tag:", "**"].iter().any(|text| is_header_pattern(text)));
    }
}
