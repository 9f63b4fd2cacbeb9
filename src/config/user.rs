//! `[[user]]`: who may log in.

use super::claims::{Claims, Kind};
use super::names::{is_header_pattern, is_sender_pattern};
use super::quantity;
use super::reader::Section;
use crate::smtp::Account;
use crate::submission::{HashFault, Password, User};
use std::sync::Arc;

/// Reads one.
pub(super) fn read(mut section: Section<'_>, claims: &mut Claims) -> Option<User> {
    section.require("name");
    let name = section.text("name");
    if let Some(name) = &name {
        claims.name(Kind::User, &section, "name", name);
    }
    let password = password(&mut section);
    let rate = section.parsed("rate", quantity::A_RATE, quantity::rate);
    let client = section.text("client");
    let senders = section.list("senders", "an address, \"*@domain\" or \"*\"", |text| {
        is_sender_pattern(text).then(|| text.to_owned())
    });
    let request_headers =
        section.list("request_headers", "a header name, or its beginning and \"*\"", |text| {
            is_header_pattern(text).then(|| text.to_owned())
        });
    section.finish();
    let name = name?;
    let account = Account {
        client: client.unwrap_or_else(|| name.clone()),
        name,
        senders: senders.unwrap_or_default(),
        request_headers: request_headers.unwrap_or_default(),
    };
    Some(User { account: Arc::new(account), password: Some(password?), rate })
}

fn password(section: &mut Section<'_>) -> Option<Password> {
    if WAYS.iter().filter(|key| section.has(key)).count() != 1 {
        WAYS.iter().for_each(|key| drop(section.take(key)));
        section.fault("password", format!("give exactly one of {}", WAYS.join(", ")));
        return None;
    }
    if !section.has("password_hash") && !section.has("password_hash_file") {
        return section.secret("password").map(Password::Plain);
    }
    let key = if section.has("password_hash") { "password_hash" } else { "password_hash_file" };
    let hash = section.hash("password_hash")?;
    match hash.reveal().parse() {
        Ok(hash) => Some(Password::Hash(hash)),
        Err(fault) => {
            let fault: HashFault = fault;
            section.fault(key, fault.to_string());
            None
        }
    }
}

const WAYS: [&str; 4] = ["password_hash", "password_hash_file", "password_file", "password"];
