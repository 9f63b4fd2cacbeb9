use argon2::password_hash::{PasswordVerifier, phc};
use argon2::{Argon2, Params};
use mailtrail_mail::Secret;
use std::str::FromStr;
use subtle::ConstantTimeEq;

/// Password of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// Hash of the password.
    Hash(PasswordHash),
    /// Plaintext password.
    Plain(Secret),
}

/// A hash of a supported kind within the limits of a login: at most [`PasswordHash::MEMORY`], [`PasswordHash::WORK`]
/// and [`PasswordHash::BCRYPT_COST`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordHash {
    algorithm: HashAlgorithm,
    encoded: Secret,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HashAlgorithm {
    Argon2id,
    Bcrypt,
}

/// Error of parsing a password hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordHashError {
    /// Neither argon2id nor bcrypt.
    #[error("is not an argon2id or bcrypt hash; `mailtrail user hash` makes one")]
    UnsupportedAlgorithm,
    /// argon2id that takes too much.
    #[error("asks for more than 256 MiB, or 1 GiB over all its passes; m=19456,t=2,p=1 is enough")]
    TooMuchMemory,
    /// bcrypt that takes too long.
    #[error("has a cost of more than 14, with which a login takes seconds; 12 is enough")]
    CostTooHigh,
}

impl PasswordHash {
    /// KiB that an argon2id hash may take.
    pub const MAX_MEMORY_KIB: u32 = 256 << 10;
    /// KiB over all passes of an argon2id hash: about a second.
    pub const MAX_WORK_KIB: u32 = 1 << 20;
    /// log2 of the rounds of a bcrypt hash: about a second.
    pub const MAX_BCRYPT_COST: u32 = 14;

    /// Verifies a password, at the cost of the hash. bcrypt uses only the first 72 bytes.
    pub fn verify(&self, password: &Secret) -> bool {
        let password = password.expose().as_bytes();
        match self.algorithm {
            HashAlgorithm::Argon2id => phc::PasswordHash::new(self.encoded.expose())
                .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok()),
            HashAlgorithm::Bcrypt => bcrypt::verify(password, self.encoded.expose()).unwrap_or(false),
        }
    }
}

impl FromStr for PasswordHash {
    type Err = PasswordHashError;

    fn from_str(text: &str) -> Result<Self, PasswordHashError> {
        let bcrypt = ["$2a$", "$2b$", "$2y$"].iter().any(|start| text.starts_with(start));
        let algorithm = if bcrypt { parse_bcrypt(text) } else { parse_argon2id(text) }?;
        Ok(Self { algorithm, encoded: Secret::new(text) })
    }
}

impl Password {
    /// Returns whether verifying is too slow for a thread that serves connections.
    pub fn is_slow_to_verify(&self) -> bool {
        matches!(self, Self::Hash(_))
    }

    /// Whether it is this one.
    pub fn verify(&self, password: &Secret) -> bool {
        match self {
            Self::Hash(hash) => hash.verify(password),
            Self::Plain(own) => own.expose().as_bytes().ct_eq(password.expose().as_bytes()).into(),
        }
    }
}

fn parse_bcrypt(text: &str) -> Result<HashAlgorithm, PasswordHashError> {
    let parts: bcrypt::HashParts = text.parse().map_err(|_| PasswordHashError::UnsupportedAlgorithm)?;
    match parts.get_cost() {
        4..=PasswordHash::MAX_BCRYPT_COST => Ok(HashAlgorithm::Bcrypt),
        0..4 => Err(PasswordHashError::UnsupportedAlgorithm),
        _ => Err(PasswordHashError::CostTooHigh),
    }
}

fn parse_argon2id(text: &str) -> Result<HashAlgorithm, PasswordHashError> {
    let hash = phc::PasswordHash::new(text).map_err(|_| PasswordHashError::UnsupportedAlgorithm)?;
    let params = Params::try_from(&hash).map_err(|_| PasswordHashError::UnsupportedAlgorithm)?;
    if hash.algorithm.as_str() != "argon2id" || hash.hash.is_none() {
        return Err(PasswordHashError::UnsupportedAlgorithm);
    }
    let work = params.m_cost().checked_mul(params.t_cost());
    let fits = params.m_cost() <= PasswordHash::MAX_MEMORY_KIB
        && work.is_some_and(|work| work <= PasswordHash::MAX_WORK_KIB);
    if fits { Ok(HashAlgorithm::Argon2id) } else { Err(PasswordHashError::TooMuchMemory) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes of "password": the reference implementation's, and libxcrypt's.
    const FOREIGN_HASHES: [&str; 4] = [
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        "$2a$04$abcdefghijklmnopqrstuughE8Ev8uGFaUgY2cNEySvxngrb/Jzdm",
        "$2b$04$abcdefghijklmnopqrstuughE8Ev8uGFaUgY2cNEySvxngrb/Jzdm",
        "$2y$04$abcdefghijklmnopqrstuughE8Ev8uGFaUgY2cNEySvxngrb/Jzdm",
    ];

    #[test]
    fn verifies_hashes_of_other_programs() {
        for text in FOREIGN_HASHES {
            let hash: PasswordHash = text.parse().unwrap();
            assert!(hash.verify(&Secret::new("password")), "{text}");
            assert!(!hash.verify(&Secret::new("Password")) && !hash.verify(&Secret::new("")), "{text}");
            assert!(!format!("{hash:?}").contains(&text[10..]));
        }
    }

    #[test]
    fn rejects_invalid_and_expensive_hashes() {
        let argon2id = |params: &str| FOREIGN_HASHES[0].replace("m=65536,t=2,p=1", params);
        let bcrypt = |start: &str| FOREIGN_HASHES[1].replace("$2a$04", start);
        for (text, fault) in [
            (argon2id("m=262144,t=4,p=1"), None),
            (argon2id("m=262145,t=1,p=1"), Some(PasswordHashError::TooMuchMemory)),
            (argon2id("m=65536,t=17,p=1"), Some(PasswordHashError::TooMuchMemory)),
            (argon2id("m=65536,t=65536,p=1"), Some(PasswordHashError::TooMuchMemory)),
            (FOREIGN_HASHES[0].replace("argon2id", "argon2i"), Some(PasswordHashError::UnsupportedAlgorithm)),
            (
                FOREIGN_HASHES[0].rsplit_once('$').unwrap().0.to_owned(),
                Some(PasswordHashError::UnsupportedAlgorithm),
            ),
            (bcrypt("$2a$14"), None),
            (bcrypt("$2a$15"), Some(PasswordHashError::CostTooHigh)),
            (bcrypt("$2a$03"), Some(PasswordHashError::UnsupportedAlgorithm)),
            (bcrypt("$2x$04"), Some(PasswordHashError::UnsupportedAlgorithm)),
            (bcrypt("$2a$4"), Some(PasswordHashError::UnsupportedAlgorithm)),
            (
                FOREIGN_HASHES[1].trim_end_matches(char::is_alphanumeric).to_owned(),
                Some(PasswordHashError::UnsupportedAlgorithm),
            ),
            ("password".to_owned(), Some(PasswordHashError::UnsupportedAlgorithm)),
            (String::new(), Some(PasswordHashError::UnsupportedAlgorithm)),
        ] {
            assert_eq!(text.parse::<PasswordHash>().err(), fault, "{text}");
        }
    }
}
