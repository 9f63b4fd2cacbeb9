use super::settings::{Password, User};
use crate::smtp::{Account, Credentials};
use argon2::Argon2;
use argon2::password_hash::{PasswordVerifier, phc::PasswordHash};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

/// The users of all listeners.
///
/// An argon2 hash costs tens of milliseconds by design, and Odoo logs in for every immediate mail: a password that
/// was right once is remembered in memory as a keyed digest for [`REMEMBERED`], so that one login of a user pays for
/// many. One digest a configured user is kept, no more.
pub struct Accounts {
    users: HashMap<String, User>,
    key: [u8; 32],
    proven: Mutex<HashMap<String, Proof>>,
    hashing: Semaphore,
}

/// A password that was right, and until when that is believed.
struct Proof {
    digest: [u8; 32],
    until: Instant,
}

impl Accounts {
    /// The users as configured.
    pub fn new(users: Vec<User>) -> Self {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the system has randomness");
        Self {
            users: users.into_iter().map(|user| (user.account.name.clone(), user)).collect(),
            key,
            proven: Mutex::default(),
            hashing: Semaphore::new(HASHES_AT_ONCE),
        }
    }

    /// The account of that name, for who needs no password.
    pub fn account(&self, name: &str) -> Option<Arc<Account>> {
        self.users.get(name).map(|user| user.account.clone())
    }

    /// The account behind the credentials, if they are right.
    pub async fn authenticate(&self, credentials: Credentials) -> Option<Arc<Account>> {
        let user = self.users.get(&credentials.user);
        let digest = self.digest(&credentials);
        if let Some(user) = user
            && self.is_proven(&credentials.user, &digest, Instant::now())
        {
            return Some(user.account.clone());
        }
        let right = match user.map(|user| user.password.clone()) {
            Some(Password::Plain(password)) => {
                bool::from(password.reveal().as_bytes().ct_eq(credentials.password.reveal().as_bytes()))
            }
            Some(Password::Hash(hash)) => self.verify(hash, &credentials).await,
            // An unknown user takes as long as a known one with a hash.
            None => {
                self.verify(UNKNOWN_USER.to_owned(), &credentials).await;
                false
            }
        };
        let user = user.filter(|_| right)?;
        let proof = Proof { digest, until: Instant::now() + REMEMBERED };
        self.proven.lock().unwrap_or_else(PoisonError::into_inner).insert(credentials.user, proof);
        Some(user.account.clone())
    }

    async fn verify(&self, hash: String, credentials: &Credentials) -> bool {
        let Ok(_permit) = self.hashing.acquire().await else { return false };
        let password = credentials.password.clone();
        let work = move || {
            let hash = PasswordHash::new(&hash).ok()?;
            Argon2::default().verify_password(password.reveal().as_bytes(), &hash).ok()
        };
        matches!(tokio::task::spawn_blocking(work).await, Ok(Some(())))
    }

    fn is_proven(&self, user: &str, digest: &[u8; 32], now: Instant) -> bool {
        let proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        let known = proven.get(user).filter(|proof| now < proof.until);
        known.is_some_and(|proof| bool::from(proof.digest.ct_eq(digest)))
    }

    fn digest(&self, credentials: &Credentials) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(credentials.user.as_bytes());
        mac.update(&[0]);
        mac.update(credentials.password.reveal().as_bytes());
        mac.finalize().into_bytes().into()
    }
}

/// How long a password counts as right without being hashed again.
const REMEMBERED: Duration = Duration::from_secs(600);
/// argon2 takes 19 MiB a time.
const HASHES_AT_ONCE: usize = 2;
/// The hash of a password that nobody knows, with the default parameters.
const UNKNOWN_USER: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bWFpbHRyYWlsLXVuaw$7Wgl1Yw0zrKs3dPKPyDQjzFX6SYcRTmQpX6vOQtBK8I";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use argon2::password_hash::PasswordHasher;

    fn user(name: &str, password: Password) -> User {
        let account = Account {
            name: name.into(),
            client: name.into(),
            senders: Vec::new(),
            request_headers: Vec::new(),
        };
        User { account: Arc::new(account), password }
    }

    fn credentials(user: &str, password: &str) -> Credentials {
        Credentials { user: user.into(), password: Secret::new(password) }
    }

    #[tokio::test]
    async fn only_the_right_password_opens() {
        let hash = Argon2::default().hash_password(b"right").unwrap().to_string();
        let accounts = Accounts::new(vec![
            user("odoo", Password::Hash(hash)),
            user("legacy", Password::Plain(Secret::new("also right"))),
        ]);
        for _ in 0..2 {
            for (name, password, expected) in [
                ("odoo", "right", true),
                ("odoo", "wrong", false),
                ("odoo", "", false),
                ("legacy", "also right", true),
                ("legacy", "right", false),
                ("nobody", "right", false),
            ] {
                let found = accounts.authenticate(credentials(name, password)).await;
                assert_eq!(
                    found.map(|account| account.name == name),
                    expected.then_some(true),
                    "{name} {password}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_proof_is_forgotten_after_a_while() {
        let accounts = Accounts::new(vec![user("odoo", Password::Plain(Secret::new("right")))]);
        let digest = accounts.digest(&credentials("odoo", "right"));
        assert!(!accounts.is_proven("odoo", &digest, Instant::now()));
        assert!(accounts.authenticate(credentials("odoo", "right")).await.is_some());
        let now = Instant::now();
        assert!(accounts.is_proven("odoo", &digest, now));
        assert!(!accounts.is_proven("odoo", &accounts.digest(&credentials("odoo", "other")), now));
        assert!(!accounts.is_proven("odoo", &digest, now + REMEMBERED));
    }

    #[test]
    fn the_unknown_users_hash_is_one() {
        assert!(PasswordHash::new(UNKNOWN_USER).is_ok());
    }
}
