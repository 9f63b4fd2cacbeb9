//! Reads identities and expiry of certificates.

use crate::tls::{TlsError, read_certificates};
use mailtrail_mail::Timestamp;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::path::Path;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// When the first of the certificates in a PEM file expires; `None` where none of them can be read that far.
pub fn file_expiry(path: &Path) -> Result<Option<Timestamp>, TlsError> {
    Ok(first_expiry(&read_certificates(path)?))
}

/// When the first of them expires.
pub(super) fn first_expiry(certificates: &[CertificateDer<'_>]) -> Option<Timestamp> {
    let expiries = certificates.iter().filter_map(|certificate| {
        let certificate = Certificate::from_der(certificate).ok()?;
        let not_after = certificate.tbs_certificate().validity().not_after;
        Some(Timestamp::from_secs(not_after.to_unix_duration().as_secs()))
    });
    expiries.min()
}

/// Identities of a certificate: its fingerprint, then its DNS names and mail addresses, all normalized by
/// [`normalize_identity`].
pub fn certificate_identities(certificate: &CertificateDer<'_>) -> Vec<String> {
    let digest = Sha256::digest(certificate);
    let mut marks =
        vec![digest.iter().fold(FINGERPRINT_PREFIX.to_owned(), |text, byte| format!("{text}{byte:02x}"))];
    let parsed = Certificate::from_der(certificate).ok();
    let names = parsed.as_ref().and_then(|parsed| parsed.tbs_certificate().get_extension().ok()?);
    let names = names.map(|(_, SubjectAltName(names))| names).unwrap_or_default();
    marks.extend(names.iter().filter_map(|name| match name {
        GeneralName::DnsName(name) | GeneralName::Rfc822Name(name) => normalize_identity(name.as_str()),
        _ => None,
    }));
    marks
}

/// A mark as it is compared: `sha256:` and 64 hex digits (colons between them are dropped), a DNS name or a mail
/// address, in small letters.
pub fn normalize_identity(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let Some(digits) = text.strip_prefix(FINGERPRINT_PREFIX) else {
        let domain = text.rsplit_once('@').map_or(text.as_str(), |(_, domain)| domain);
        let name = text.bytes().all(|byte| byte.is_ascii_graphic()) && domain.split('.').all(is_dns_label);
        return name.then_some(text);
    };
    let digits = digits.replace(':', "");
    let hex = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    hex.then(|| format!("{FINGERPRINT_PREFIX}{digits}"))
}

/// Shorter than a fingerprint that lacks its prefix.
fn is_dns_label(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_*".contains(&byte);
    (1..=63).contains(&text.len()) && text.bytes().all(fits)
}

const FINGERPRINT_PREFIX: &str = "sha256:";

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType, date_time_ymd};

    fn self_signed_certificate(names: Vec<SanType>) -> CertificateDer<'static> {
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = names;
        parameters.not_after = date_time_ymd(2027, 1, 2);
        parameters.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn lists_fingerprint_and_names() {
        let names = vec![
            SanType::DnsName("Shop.Example.com".try_into().unwrap()),
            SanType::Rfc822Name("App@example.com".try_into().unwrap()),
            SanType::IpAddress("192.0.2.1".parse().unwrap()),
        ];
        let marks = certificate_identities(&self_signed_certificate(names));
        assert_eq!(marks[1..], ["shop.example.com", "app@example.com"]);
        let (_, digits) = marks[0].split_once(':').unwrap();
        let pairs: Vec<_> = (0..32).map(|at| digits[2 * at..2 * at + 2].to_uppercase()).collect();
        assert_eq!(normalize_identity(&format!("SHA256:{}", pairs.join(":"))), Some(marks[0].clone()));
        assert_eq!(super::certificate_identities(&self_signed_certificate(Vec::new())).len(), 1);
    }

    #[test]
    fn normalizes_identities() {
        for text in ["odoo", "shop.example.com", "*.example.com", "ada+x@example.com"] {
            assert_eq!(normalize_identity(&text.to_uppercase()).as_deref(), Some(text));
        }
        let bare = "ab".repeat(32);
        for text in ["", "sha256:ab", "sha1:00", "a b.example", "jiří.example", "a..b", "ada@", &bare] {
            assert_eq!(normalize_identity(text), None, "{text}");
        }
    }

    #[test]
    fn reports_the_earliest_expiry() {
        let early = self_signed_certificate(Vec::new());
        let directory = tempfile::tempdir().unwrap();
        crate::tls::load_self_signed(directory.path(), "localhost").unwrap();
        let path = directory.path().join("relay.pem");
        let late = read_certificates(&path).unwrap().remove(0);
        let second_of_january = Timestamp::from_secs(1_798_848_000);
        assert_eq!(first_expiry(&[late.clone(), early]), Some(second_of_january));
        let far = file_expiry(&path).unwrap().unwrap();
        assert!(far > Timestamp::from_secs(32_503_680_000), "the self-made pair lasts: {far}");
        assert_eq!(first_expiry(&[CertificateDer::from(vec![0])]), None);
    }
}
