use super::guard::{Consequence, Guard};
use super::password::Password;
use super::settings::{Policy, User};
use crate::clock::Clock;
use crate::smtp::{Account, Credentials};
use crate::tls;
use hmac::{Hmac, KeyInit, Mac};
use rustls::pki_types::CertificateDer;
use sha2::Sha256;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The users of all listeners.
///
/// A password hash costs tens of milliseconds by design, and Odoo logs in for every immediate mail: a password that
/// was right once is remembered in memory as a keyed digest for [`REMEMBERED`], so that one login of a user pays for
/// many. One digest a configured user is kept, no more.
///
/// An unknown user takes as long as a known one: its password is checked against a known user's, chosen by the name,
/// so that the times of unknown names are spread as those of the known ones are.
pub struct Accounts {
    users: HashMap<String, User>,
    passwords: Vec<Password>,
    by_certificate: HashMap<String, Arc<Account>>,
    guard: Guard,
    lockout: Duration,
    clock: Clock,
    key: [u8; 32],
    proven: Mutex<HashMap<String, Proof>>,
    hashing: Semaphore,
}

/// What became of a login.
#[derive(Debug)]
pub enum Login {
    /// The credentials are right.
    Right(Arc<Account>),
    /// They are not.
    Wrong,
    /// Nobody may log in from there for a while.
    LockedOut,
}

/// A password that was right, and until when that is believed.
struct Proof {
    digest: [u8; 32],
    until: Instant,
}

impl Accounts {
    /// The users as configured.
    pub fn new(users: Vec<User>, policy: &Policy, clock: Clock) -> Self {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the system has randomness");
        Self::with(users, policy, Guard::new(policy), clock, key)
    }

    /// The users as they were changed. Failed logins stay in memory, passwords that were right do not.
    pub fn renewed(&self, users: Vec<User>, policy: &Policy) -> Self {
        Self::with(users, policy, self.guard.renewed(policy), self.clock, self.key)
    }

    fn with(users: Vec<User>, policy: &Policy, guard: Guard, clock: Clock, key: [u8; 32]) -> Self {
        Self {
            by_certificate: users
                .iter()
                .flat_map(|user| user.certificates.iter().map(|mark| (mark.clone(), user.account.clone())))
                .collect(),
            guard,
            lockout: policy.login_lockout,
            clock,
            passwords: users.iter().filter_map(|user| user.password.clone()).collect(),
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

    /// Whether nobody may log in from there now. If so, that counts as a refusal.
    pub fn is_locked_out(&self, peer: IpAddr) -> bool {
        let locked_out = self.guard.is_locked_out(peer, Instant::now());
        if locked_out {
            metrics::counter!("mailtrail_smtp_logins_refused_total", "reason" => "locked_out").increment(1);
        }
        locked_out
    }

    /// The user whose certificate that is. It was verified already.
    pub fn certified(&self, certificate: &CertificateDer<'_>) -> Option<Arc<Account>> {
        if self.by_certificate.is_empty() {
            return None;
        }
        let marks = tls::marks(certificate);
        let account = marks.iter().find_map(|mark| self.by_certificate.get(mark)).cloned();
        if account.is_none() {
            tracing::debug!(?marks, "a client's certificate belongs to no user");
        }
        account
    }

    /// Checks what a client sent. A refusal takes its time.
    pub async fn log_in(&self, credentials: Credentials, peer: IpAddr) -> Login {
        if self.is_locked_out(peer) {
            return Login::LockedOut;
        }
        let name = credentials.user.clone();
        let attempt = self.digest(&[&name, credentials.password.reveal()]);
        let found = self.authenticate(credentials, attempt).await;
        // Guesses that were under way when the lock fell learn nothing either.
        if self.is_locked_out(peer) {
            return Login::LockedOut;
        }
        let user = self.digest(&[&name]);
        if let Some(account) = found {
            self.guard.succeeded(peer, user);
            return Login::Right(account);
        }
        let consequence = self.guard.failed(peer, user, attempt, Instant::now());
        self.report(&name, peer, consequence);
        tokio::time::sleep(consequence.pause).await;
        Login::Wrong
    }

    fn report(&self, name: &str, peer: IpAddr, consequence: Consequence) {
        let user: String = name.chars().take(LOGGED).collect();
        tracing::warn!(%peer, user, "wrong user name or password");
        metrics::counter!("mailtrail_smtp_logins_refused_total", "reason" => "credentials").increment(1);
        if let Some(failures) = consequence.locked_out {
            let until = self.clock.now().after(self.lockout);
            tracing::warn!(%peer, user, failures, %until, "locked out after too many failed logins");
            metrics::counter!("mailtrail_smtp_lockouts_total").increment(1);
        }
    }

    /// The account behind the credentials, if they are right; `digest` stands for both of them.
    async fn authenticate(&self, credentials: Credentials, digest: [u8; 32]) -> Option<Arc<Account>> {
        let user = self.users.get(&credentials.user);
        if let Some(user) = user
            && self.is_proven(&credentials.user, &digest, Instant::now())
        {
            return Some(user.account.clone());
        }
        let own = user.and_then(|user| user.password.as_ref());
        let password = own.or_else(|| self.stand_in(&credentials.user))?;
        let right = self.is_right(password, &credentials).await && own.is_some();
        let user = user.filter(|_| right)?;
        let proof = Proof { digest, until: Instant::now() + REMEMBERED };
        self.proven.lock().unwrap_or_else(PoisonError::into_inner).insert(credentials.user, proof);
        Some(user.account.clone())
    }

    /// What the password of a user without one is compared with.
    fn stand_in(&self, user: &str) -> Option<&Password> {
        let [first, second, ..] = self.digest(&[user]);
        let chosen = usize::from(u16::from_be_bytes([first, second])) % self.passwords.len().max(1);
        self.passwords.get(chosen)
    }

    async fn is_right(&self, password: &Password, credentials: &Credentials) -> bool {
        if !password.is_slow() {
            return password.is(&credentials.password);
        }
        let Ok(_permit) = self.hashing.acquire().await else { return false };
        let (password, given) = (password.clone(), credentials.password.clone());
        tokio::task::spawn_blocking(move || password.is(&given)).await.unwrap_or(false)
    }

    fn is_proven(&self, user: &str, digest: &[u8; 32], now: Instant) -> bool {
        let proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        let known = proven.get(user).filter(|proof| now < proof.until);
        known.is_some_and(|proof| bool::from(proof.digest.ct_eq(digest)))
    }

    fn digest(&self, texts: &[&str]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        for text in texts {
            mac.update(text.as_bytes());
            mac.update(&[0]);
        }
        mac.finalize().into_bytes().into()
    }
}

/// How long a password counts as right without being hashed again.
const REMEMBERED: Duration = Duration::from_secs(600);
/// argon2 takes 19 MiB a time with the usual settings.
const HASHES_AT_ONCE: usize = 2;
/// Characters of a user name in the log.
const LOGGED: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use argon2::Argon2;
    use argon2::password_hash::PasswordHasher;

    fn user(name: &str, password: Password) -> User {
        let account = Account {
            name: name.into(),
            client: name.into(),
            senders: Vec::new(),
            request_headers: Vec::new(),
            repair: true,
        };
        let (account, certificates) = (Arc::new(account), Vec::new());
        User { account, password: Some(password), certificates, rate: None, quota: None }
    }

    fn accounts(users: Vec<User>) -> Accounts {
        Accounts::new(users, &Policy { login_failures: 3, ..Policy::default() }, Clock::System)
    }

    fn credentials(user: &str, password: &str) -> Credentials {
        Credentials { user: user.into(), password: Secret::new(password) }
    }

    #[tokio::test]
    async fn only_the_right_password_opens() {
        let argon2id = Argon2::default().hash_password(b"right").unwrap().to_string();
        let bcrypt = bcrypt::hash("right", 4).unwrap();
        let accounts = accounts(vec![
            user("odoo", Password::Hash(argon2id.parse().unwrap())),
            user("shop", Password::Hash(bcrypt.parse().unwrap())),
            user("legacy", Password::Plain(Secret::new("also right"))),
        ]);
        for _ in 0..2 {
            for (name, password, expected) in [
                ("odoo", "right", true),
                ("odoo", "wrong", false),
                ("odoo", "", false),
                ("shop", "right", true),
                ("shop", "wrong", false),
                ("legacy", "also right", true),
                ("legacy", "right", false),
                ("nobody", "right", false),
                ("nobody", "also right", false),
            ] {
                let digest = accounts.digest(&[name, password]);
                let found = accounts.authenticate(credentials(name, password), digest).await;
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
        let accounts = accounts(vec![user("odoo", Password::Plain(Secret::new("right")))]);
        let digest = accounts.digest(&["odoo", "right"]);
        assert!(!accounts.is_proven("odoo", &digest, Instant::now()));
        assert!(accounts.authenticate(credentials("odoo", "right"), digest).await.is_some());
        let now = Instant::now();
        assert!(accounts.is_proven("odoo", &digest, now));
        assert!(!accounts.is_proven("odoo", &accounts.digest(&["odoo", "other"]), now));
        assert!(!accounts.is_proven("odoo", &digest, now + REMEMBERED));
    }

    #[test]
    fn unknown_users_cost_what_known_ones_cost() {
        let bcrypt = bcrypt::hash("right", 4).unwrap();
        let accounts_of_nobody = accounts(Vec::new());
        let accounts = accounts(vec![
            user("shop", Password::Hash(bcrypt.parse().unwrap())),
            user("legacy", Password::Plain(Secret::new("right"))),
        ]);
        let names: Vec<_> = (0..200).map(|number| format!("nobody{number}")).collect();
        let slow = |name: &String| accounts.stand_in(name).unwrap().is_slow();
        assert_eq!(names.iter().map(slow).collect::<Vec<_>>(), names.iter().map(slow).collect::<Vec<_>>());
        let many = names.iter().filter(|name| slow(name)).count();
        assert!((50..150).contains(&many), "{many} of 200 take a hash, with one user of two");
        assert!(accounts_of_nobody.stand_in("nobody").is_none());
    }

    #[tokio::test]
    async fn who_guesses_is_locked_out_even_with_the_right_password() {
        let accounts = accounts(vec![user("odoo", Password::Plain(Secret::new("right")))]);
        let [here, there] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
        let log_in = async |password, from| match accounts.log_in(credentials("odoo", password), from).await {
            Login::Right(_) => "right",
            Login::Wrong => "wrong",
            Login::LockedOut => "locked out",
        };
        assert_eq!(log_in("right", here).await, "right");
        for guess in ["1", "2", "3"] {
            assert_eq!(log_in(guess, here).await, "wrong");
        }
        assert_eq!(log_in("right", here).await, "locked out");
        assert_eq!(log_in("right", there).await, "right");
    }

    #[tokio::test(start_paused = true)]
    async fn changed_users_keep_lockouts_and_no_proofs() {
        let peer = IpAddr::from([192, 0, 2, 1]);
        let with = |password: &str| vec![user("odoo", Password::Plain(Secret::new(password)))];
        let before = accounts(with("first"));
        assert!(matches!(before.log_in(credentials("odoo", "first"), peer).await, Login::Right(_)));
        let after = before.renewed(with("second"), &Policy { login_failures: 3, ..Policy::default() });
        assert!(matches!(after.log_in(credentials("odoo", "first"), peer).await, Login::Wrong));
        assert!(matches!(before.log_in(credentials("odoo", "a"), peer).await, Login::Wrong));
        assert!(matches!(after.log_in(credentials("odoo", "b"), peer).await, Login::Wrong));
        assert!(after.is_locked_out(peer) && before.is_locked_out(peer));
    }
}
