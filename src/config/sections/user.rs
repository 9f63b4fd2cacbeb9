//! `[[user]]`: who may log in.

use crate::config::section::Section;
use crate::config::sections::cleanup;
use crate::config::uniqueness::{Claims, Kind};
use crate::config::units;
use crate::config::validators::{is_header_pattern, is_sender_pattern};
use mailtrail_net::tls;
use mailtrail_relay::submission::{HashFault, Password, User};
use mailtrail_smtp::Account;
use mailtrail_trail::provider::SAFE_REQUESTS;
use std::sync::Arc;

/// Reads one.
pub(crate) fn read(mut section: Section<'_>, claims: &mut Claims) -> Option<User> {
    section.require("name");
    let name = section.text("name");
    if let Some(name) = &name {
        claims.name(Kind::User, &section, "name", name);
    }
    let certificates = section.list("certificates", A_CERTIFICATE, tls::mark).unwrap_or_default();
    for certificate in &certificates {
        claims.name(Kind::Certificate, &section, "certificates", certificate);
    }
    let password = password(&mut section, !certificates.is_empty());
    let rate = section.parsed("rate", units::A_RATE, units::rate);
    let quota = section.parsed("quota", units::A_CLIENT_QUOTA, units::client_quota);
    let client = section.text("client");
    let senders = section.list("senders", "an address, \"*@domain\" or \"*\"", |text| {
        is_sender_pattern(text).then(|| text.to_owned())
    });
    let request_headers =
        section.list("request_headers", "a header name, or its beginning and \"*\"", |text| {
            is_header_pattern(text).then(|| text.to_owned())
        });
    let cleanup = cleanup::read(&mut section);
    section.finish();
    let name = name?;
    let account = Account {
        client: client.unwrap_or_else(|| name.clone()),
        name,
        senders: senders.unwrap_or_default(),
        request_headers: request_headers.unwrap_or_else(|| vec![SAFE_REQUESTS.to_owned()]),
        cleanup,
    };
    Some(User { account: Arc::new(account), password: password?, certificates, rate, quota })
}

/// `Some(None)`: it has none and needs none.
fn password(section: &mut Section<'_>, certified: bool) -> Option<Option<Password>> {
    if certified && !WAYS.iter().any(|key| section.has(key)) {
        return Some(None);
    }
    if WAYS.iter().filter(|key| section.has(key)).count() != 1 {
        WAYS.iter().for_each(|key| drop(section.take(key)));
        section.fault("password", format!("give exactly one of {}", WAYS.join(", ")));
        return None;
    }
    if !section.has("password_hash") && !section.has("password_hash_file") {
        return section.secret("password").map(|password| Some(Password::Plain(password)));
    }
    let key = if section.has("password_hash") { "password_hash" } else { "password_hash_file" };
    let hash = section.hash("password_hash")?;
    match hash.reveal().parse() {
        Ok(hash) => Some(Some(Password::Hash(hash))),
        Err(fault) => {
            let fault: HashFault = fault;
            section.fault(key, fault.to_string());
            None
        }
    }
}

const A_CERTIFICATE: &str = "\"sha256:\" and 64 hex digits, a DNS name or a mail address";

const WAYS: [&str; 4] = ["password_hash", "password_hash_file", "password_file", "password"];
