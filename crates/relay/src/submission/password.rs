use argon2::password_hash::{PasswordVerifier, phc};
use argon2::{Argon2, Params};
use mailtrail_mail::Secret;
use std::str::FromStr;
use subtle::ConstantTimeEq;

/// How a user's password is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// As a hash.
    Hash(PasswordHash),
    /// Itself.
    Plain(Secret),
}

/// A hash of a kind that we know, and no dearer than a login may be: at most [`PasswordHash::MEMORY`],
/// [`PasswordHash::WORK`] and [`PasswordHash::BCRYPT_COST`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordHash {
    kind: Kind,
    text: Secret,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Argon2id,
    Bcrypt,
}

/// Why a text is no hash that we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashFault {
    /// Neither kind.
    #[error("is not an argon2id or bcrypt hash; `mailtrail user hash` makes one")]
    Unknown,
    /// argon2id that takes too much.
    #[error("asks for more than 256 MiB, or 1 GiB over all its passes; m=19456,t=2,p=1 is enough")]
    Memory,
    /// bcrypt that takes too long.
    #[error("has a cost of more than 14, with which a login takes seconds; 12 is enough")]
    Cost,
}

impl PasswordHash {
    /// KiB that an argon2id hash may take.
    pub const MEMORY: u32 = 256 << 10;
    /// KiB over all passes of an argon2id hash: about a second.
    pub const WORK: u32 = 1 << 20;
    /// log2 of the rounds of a bcrypt hash: about a second.
    pub const BCRYPT_COST: u32 = 14;

    /// Whether it is this password's. Takes as long as the hash asks for. bcrypt looks at 72 bytes only.
    pub fn is_of(&self, password: &Secret) -> bool {
        let password = password.reveal().as_bytes();
        match self.kind {
            Kind::Argon2id => phc::PasswordHash::new(self.text.reveal())
                .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok()),
            Kind::Bcrypt => bcrypt::verify(password, self.text.reveal()).unwrap_or(false),
        }
    }
}

impl FromStr for PasswordHash {
    type Err = HashFault;

    fn from_str(text: &str) -> Result<Self, HashFault> {
        let bcrypt = ["$2a$", "$2b$", "$2y$"].iter().any(|start| text.starts_with(start));
        let kind = if bcrypt { check_bcrypt(text) } else { check_argon2id(text) }?;
        Ok(Self { kind, text: Secret::new(text) })
    }
}

impl Password {
    /// Whether comparing takes so long that it must not happen on a thread that serves others.
    pub fn is_slow(&self) -> bool {
        matches!(self, Self::Hash(_))
    }

    /// Whether it is this one.
    pub fn is(&self, password: &Secret) -> bool {
        match self {
            Self::Hash(hash) => hash.is_of(password),
            Self::Plain(own) => own.reveal().as_bytes().ct_eq(password.reveal().as_bytes()).into(),
        }
    }
}

fn check_bcrypt(text: &str) -> Result<Kind, HashFault> {
    let parts: bcrypt::HashParts = text.parse().map_err(|_| HashFault::Unknown)?;
    match parts.get_cost() {
        4..=PasswordHash::BCRYPT_COST => Ok(Kind::Bcrypt),
        0..4 => Err(HashFault::Unknown),
        _ => Err(HashFault::Cost),
    }
}

fn check_argon2id(text: &str) -> Result<Kind, HashFault> {
    let hash = phc::PasswordHash::new(text).map_err(|_| HashFault::Unknown)?;
    let params = Params::try_from(&hash).map_err(|_| HashFault::Unknown)?;
    if hash.algorithm.as_str() != "argon2id" || hash.hash.is_none() {
        return Err(HashFault::Unknown);
    }
    let work = params.m_cost().checked_mul(params.t_cost());
    let fits = params.m_cost() <= PasswordHash::MEMORY && work.is_some_and(|work| work <= PasswordHash::WORK);
    if fits { Ok(Kind::Argon2id) } else { Err(HashFault::Memory) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes of "password": the reference implementation's, and libxcrypt's.
    const OTHERS: [&str; 4] = [
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        "$2a$04$abcdefghijklmnopqrstuughE8Ev8uGFaUgY2cNEySvxngrb/Jzdm",
        "$2b$04$abcdefghijklmnopqrstuughE8Ev8uGFaUgY2cNEySvxngrb/Jzdm",
        "$2y$04$abcdefghijklmnopqrstuughE8Ev8uGFaUgY2cNEySvxngrb/Jzdm",
    ];

    #[test]
    fn hashes_of_other_programs_know_their_password() {
        for text in OTHERS {
            let hash: PasswordHash = text.parse().unwrap();
            assert!(hash.is_of(&Secret::new("password")), "{text}");
            assert!(!hash.is_of(&Secret::new("Password")) && !hash.is_of(&Secret::new("")), "{text}");
            assert!(!format!("{hash:?}").contains(&text[10..]));
        }
    }

    #[test]
    fn what_is_no_hash_or_too_dear_is_refused() {
        let argon2id = |params: &str| OTHERS[0].replace("m=65536,t=2,p=1", params);
        let bcrypt = |start: &str| OTHERS[1].replace("$2a$04", start);
        for (text, fault) in [
            (argon2id("m=262144,t=4,p=1"), None),
            (argon2id("m=262145,t=1,p=1"), Some(HashFault::Memory)),
            (argon2id("m=65536,t=17,p=1"), Some(HashFault::Memory)),
            (argon2id("m=65536,t=65536,p=1"), Some(HashFault::Memory)),
            (OTHERS[0].replace("argon2id", "argon2i"), Some(HashFault::Unknown)),
            (OTHERS[0].rsplit_once('$').unwrap().0.to_owned(), Some(HashFault::Unknown)),
            (bcrypt("$2a$14"), None),
            (bcrypt("$2a$15"), Some(HashFault::Cost)),
            (bcrypt("$2a$03"), Some(HashFault::Unknown)),
            (bcrypt("$2x$04"), Some(HashFault::Unknown)),
            (bcrypt("$2a$4"), Some(HashFault::Unknown)),
            (OTHERS[1].trim_end_matches(char::is_alphanumeric).to_owned(), Some(HashFault::Unknown)),
            ("password".to_owned(), Some(HashFault::Unknown)),
            (String::new(), Some(HashFault::Unknown)),
        ] {
            assert_eq!(text.parse::<PasswordHash>().err(), fault, "{text}");
        }
    }
}
