//! `[[user]]`: credentials for the SMTP listeners.

use crate::config::section::Section;
use crate::config::sections::cleanup;
use crate::config::unique_names::{NameKind, UniqueNames};
use crate::config::units;
use crate::config::validators::{is_address_pattern, is_header_pattern};
use mailtrail_net::tls;
use mailtrail_relay::submission::{Password, PasswordHashError, User};
use mailtrail_smtp::Account;
use mailtrail_trail::provider::SAFE_REQUESTS_KEYWORD;
use std::sync::Arc;

/// Reads a user.
pub(crate) fn read_user(mut section: Section<'_>, claims: &mut UniqueNames) -> Option<User> {
    section.require_key("name");
    let name = section.text("name");
    if let Some(name) = &name {
        claims.insert_name(NameKind::User, &section, "name", name);
    }
    let certificate_identities =
        section.list("certificates", EXPECTED_CERTIFICATE, tls::normalize_identity).unwrap_or_default();
    for certificate in &certificate_identities {
        claims.insert_name(NameKind::Certificate, &section, "certificates", certificate);
    }
    let password = read_password(&mut section, !certificate_identities.is_empty());
    let rate = section.parse("rate", units::EXPECTED_RATE, units::parse_rate);
    let quota = section.parse("quota", units::EXPECTED_USER_QUOTA, units::parse_user_quota);
    let client = section.text("client");
    let senders = section.list("senders", "an address, \"*@domain\" or \"*\"", |text| {
        is_address_pattern(text).then(|| text.to_owned())
    });
    let request_headers =
        section.list("request_headers", "a header name, or its beginning and \"*\"", |text| {
            is_header_pattern(text).then(|| text.to_owned())
        });
    let header_cleanup = cleanup::read_cleanup(&mut section);
    section.reject_unknown();
    let name = name?;
    let account = Account {
        client_label: client.unwrap_or_else(|| name.clone()),
        name,
        sender_patterns: senders.unwrap_or_default(),
        allowed_request_headers: request_headers.unwrap_or_else(|| vec![SAFE_REQUESTS_KEYWORD.to_owned()]),
        header_cleanup,
    };
    Some(User { account: Arc::new(account), password: password?, certificate_identities, rate, quota })
}

/// Reads the password; `Some(None)` for a user that logs in by certificate.
fn read_password(section: &mut Section<'_>, certified: bool) -> Option<Option<Password>> {
    if certified && !PASSWORD_KEYS.iter().any(|key| section.contains_key(key)) {
        return Some(None);
    }
    if PASSWORD_KEYS.iter().filter(|key| section.contains_key(key)).count() != 1 {
        PASSWORD_KEYS.iter().for_each(|key| drop(section.take(key)));
        section.add_error("password", format!("give exactly one of {}", PASSWORD_KEYS.join(", ")));
        return None;
    }
    if !section.contains_key("password_hash") && !section.contains_key("password_hash_file") {
        return section.secret("password").map(|password| Some(Password::Plain(password)));
    }
    let key = if section.contains_key("password_hash") { "password_hash" } else { "password_hash_file" };
    let hash = section.password_hash("password_hash")?;
    match hash.expose().parse() {
        Ok(hash) => Some(Some(Password::Hash(hash))),
        Err(fault) => {
            let fault: PasswordHashError = fault;
            section.add_error(key, fault.to_string());
            None
        }
    }
}

const EXPECTED_CERTIFICATE: &str = "\"sha256:\" and 64 hex digits, a DNS name or a mail address";

const PASSWORD_KEYS: [&str; 4] = ["password_hash", "password_hash_file", "password_file", "password"];
