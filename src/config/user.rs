//! `[[user]]`: who may log in.

use super::claims::{Claims, Kind};
use super::names::{is_header_pattern, is_sender_pattern};
use super::reader::Section;
use crate::smtp::Account;
use crate::submission::{Password, User};
use argon2::Params;
use argon2::password_hash::phc::PasswordHash;
use std::sync::Arc;

/// Reads one.
pub(super) fn read(mut section: Section<'_>, claims: &mut Claims) -> Option<User> {
    section.require("name");
    let name = section.text("name");
    if let Some(name) = &name {
        claims.name(Kind::User, &section, "name", name);
    }
    let password = password(&mut section);
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
    Some(User { account: Arc::new(account), password: password? })
}

fn password(section: &mut Section<'_>) -> Option<Password> {
    let given = WAYS.iter().filter(|key| section.has(key)).count();
    if given != 1 {
        WAYS.iter().for_each(|key| drop(section.take(key)));
        section.fault("password", format!("give exactly one of {}", WAYS.join(", ")));
        return None;
    }
    if !section.has("password_hash") {
        return section.secret("password").map(Password::Plain);
    }
    let hash = section.take("password_hash");
    let hash = hash.as_ref().and_then(|value| value.text()).filter(|text| is_argon2id(text));
    if hash.is_none() {
        section.fault("password_hash", "is not an argon2id hash; `mailtrail user hash` makes one");
    }
    hash.map(|hash| Password::Hash(hash.into()))
}

const WAYS: [&str; 3] = ["password_hash", "password_file", "password"];

fn is_argon2id(text: &str) -> bool {
    PasswordHash::new(text).is_ok_and(|hash| {
        hash.algorithm.as_str() == "argon2id" && hash.hash.is_some() && Params::try_from(&hash).is_ok()
    })
}
