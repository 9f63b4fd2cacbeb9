use crate::submission::login_throttle::{
    CredentialDigest, LoginAdmission, LoginAttempt, LoginPenalty, LoginThrottle, TRUST_DURATION,
};
use crate::submission::password::Password;
use crate::submission::settings::{LoginPolicy, User};
use hmac::{Hmac, KeyInit, Mac};
use mailtrail_mail::Clock;
use mailtrail_net::{BoundedMap, Expires, RefusalLog, tls};
use mailtrail_smtp::{Account, Credentials};
use mailtrail_store::Store;
use rustls::pki_types::CertificateDer;
use sha2::Sha256;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Users of all listeners, with their passwords.
///
/// Hashing a password takes tens of milliseconds by design, and Odoo logs in for every immediate mail. So a verified
/// password is cached in memory as a keyed digest for `VERIFIED_CACHE_TTL`, one digest per user. The digest is kept for
/// longer, to distinguish the user from clients that guess its password from the same address. Rejected credentials are
/// not hashed a second time either.
///
/// An unknown user takes as long as a known one: its password is checked against that of a known user, selected by the
/// name, so that the response times have the same distribution.
pub struct Authenticator {
    users: HashMap<String, User>,
    decoy_passwords: Vec<Password>,
    by_certificate: HashMap<String, Arc<Account>>,
    throttle: LoginThrottle,
    refusals: RefusalLog,
    lockout_duration: Duration,
    clock: Clock,
    digest_key: [u8; 32],
    verified_cache: Mutex<HashMap<String, VerifiedPassword>>,
    rejected_cache: Mutex<BoundedMap<CredentialDigest, RejectedCredentials>>,
    rejected_ttl: Duration,
    hash_permits: Semaphore,
}

/// What became of a login.
#[derive(Debug)]
pub enum LoginResult {
    /// The credentials are right.
    Accepted(Arc<Account>),
    /// Wrong credentials.
    Rejected,
    /// Wrong or unchecked credentials after too many failures.
    LockedOut,
}

/// A password that was right, and when.
#[derive(Clone, Copy)]
struct VerifiedPassword {
    digest: CredentialDigest,
    verified_at: Instant,
}

/// Credentials that were wrong; when that is forgotten.
struct RejectedCredentials(Instant);

impl Expires for RejectedCredentials {
    fn expires_at(&self) -> Instant {
        self.0
    }
}

impl Authenticator {
    /// The users as configured.
    pub fn new(users: Vec<User>, policy: &LoginPolicy, clock: Clock) -> Self {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the system has randomness");
        Self::with_state(users, policy, (LoginThrottle::new(policy), RefusalLog::default()), clock, key)
    }

    /// Reads from the store which users logged in rightly within `TRUST_DURATION` and from where: guesses that come after a
    /// restart and before the user's next login do not lock it out.
    pub fn recall_logins(&self, store: &Store) {
        let (now, begun) = (self.clock.now(), Instant::now());
        let logins = store.logins(now.saturating_sub(TRUST_DURATION)..now).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the logins of the last day; guesses may lock their users out");
            Default::default()
        });
        for ((peer, user), last) in logins {
            self.throttle.succeeded_before(
                peer,
                self.keyed_digest(&[&user]),
                now.duration_since(last),
                begun,
            );
        }
    }

    /// Returns an authenticator for changed users. Counts of failed logins are kept, and verified passwords that have
    /// not changed stay cached.
    pub fn reconfigured(&self, users: Vec<User>, policy: &LoginPolicy) -> Self {
        let renewed = Self::with_state(
            users,
            policy,
            (self.throttle.reconfigured(policy), self.refusals.clone()),
            self.clock,
            self.digest_key,
        );
        let password =
            |users: &HashMap<String, User>, name: &str| users.get(name).map(|user| user.password.clone());
        let mut proven = self.verified_cache.lock().unwrap_or_else(PoisonError::into_inner).clone();
        proven.retain(|name, _| password(&self.users, name) == password(&renewed.users, name));
        Self { verified_cache: Mutex::new(proven), ..renewed }
    }

    fn with_state(
        users: Vec<User>,
        policy: &LoginPolicy,
        (throttle, refusals): (LoginThrottle, RefusalLog),
        clock: Clock,
        digest_key: [u8; 32],
    ) -> Self {
        Self {
            by_certificate: users
                .iter()
                .flat_map(|user| {
                    user.certificate_identities.iter().map(|mark| (mark.clone(), user.account.clone()))
                })
                .collect(),
            throttle,
            refusals,
            lockout_duration: policy.login_lockout,
            clock,
            decoy_passwords: users.iter().filter_map(|user| user.password.clone()).collect(),
            users: users.into_iter().map(|user| (user.account.name.clone(), user)).collect(),
            digest_key,
            verified_cache: Mutex::default(),
            rejected_cache: Mutex::default(),
            rejected_ttl: policy.login_window,
            hash_permits: Semaphore::new(MAX_CONCURRENT_HASHES),
        }
    }

    /// Returns the account of a user, for clients that need no password.
    pub fn find_account(&self, name: &str) -> Option<Arc<Account>> {
        self.users.get(name).map(|user| user.account.clone())
    }

    /// Returns the account of a client certificate, which TLS has verified already.
    pub fn find_account_by_certificate(&self, certificate: &CertificateDer<'_>) -> Option<Arc<Account>> {
        if self.by_certificate.is_empty() {
            return None;
        }
        let marks = tls::certificate_identities(certificate);
        let account = marks.iter().find_map(|mark| self.by_certificate.get(mark)).cloned();
        if account.is_none() {
            tracing::debug!(?marks, "a client's certificate belongs to no user");
        }
        account
    }

    /// Checks credentials. A rejection is delayed.
    pub async fn log_in(&self, credentials: Credentials, peer: IpAddr) -> LoginResult {
        let begun = Instant::now();
        let name = credentials.user.clone();
        let attempt = self.keyed_digest(&[&name, credentials.password.expose()]);
        let claim = LoginAttempt {
            peer,
            user: self.keyed_digest(&[&name]),
            user_exists: self.users.contains_key(&name),
        };
        let found = match self.throttle.admit(claim, begun) {
            LoginAdmission::Verify => self.authenticate(credentials, attempt).await,
            LoginAdmission::PreferCached => match self.verified_digest(&name, TRUST_DURATION) {
                // Another password than the right one needs no hash to be wrong.
                Some(proof) => self.find_account(&name).filter(|_| bool::from(proof.ct_eq(&attempt))),
                None => self.authenticate(credentials, attempt).await,
            },
            LoginAdmission::Reject => None,
        };
        // Guesses in progress when the lock is set learn nothing either.
        let admission = self.throttle.admit(claim, Instant::now());
        if let Some(account) = found.filter(|_| admission != LoginAdmission::Reject) {
            self.throttle.record_success(peer, claim.user, Instant::now());
            return LoginResult::Accepted(account);
        }
        let consequence = self.throttle.record_failure(claim, attempt, Instant::now());
        self.log_rejection(&name, peer, consequence);
        // Measured from the start, so that the time does not reveal whether a password was checked.
        tokio::time::sleep_until(begun + consequence.delay).await;
        if consequence.is_locked_out { LoginResult::LockedOut } else { LoginResult::Rejected }
    }

    fn log_rejection(&self, name: &str, peer: IpAddr, consequence: LoginPenalty) {
        let user: String = name.chars().take(MAX_LOGGED_USER_CHARS).collect();
        // Of a user that there is a line of its own: another client's wrong password may hide it otherwise.
        let whose = if self.users.contains_key(name) { name } else { "" };
        if self.refusals.should_log(peer, format!("wrong password {whose}")) {
            tracing::warn!(%peer, user, "wrong user name or password");
        }
        let reason = if consequence.is_locked_out { "locked_out" } else { "credentials" };
        metrics::counter!("mailtrail_smtp_logins_refused_total", "reason" => reason).increment(1);
        let Some(failures) = consequence.new_lockout_failures else { return };
        let until = self.clock.now().saturating_add(self.lockout_duration);
        metrics::counter!("mailtrail_smtp_lockouts_total").increment(1);
        if consequence.is_trusted {
            // The text differs from the one that fail2ban matches: a firewall would block clients with correct logins.
            tracing::warn!(
                %peer, user, failures, %until,
                "too many failed logins from an address that others use rightly; further wrong ones are refused unseen"
            );
        } else {
            tracing::warn!(%peer, user, failures, %until, "locked out after too many failed logins");
        }
    }

    /// Returns the account if the credentials are correct; `digest` identifies both of them.
    async fn authenticate(&self, credentials: Credentials, digest: CredentialDigest) -> Option<Arc<Account>> {
        let user = self.users.get(&credentials.user);
        if let Some(user) = user
            && self.is_verified(&credentials.user, &digest)
        {
            return Some(user.account.clone());
        }
        if self.was_rejected(&digest) {
            return None;
        }
        let own = user.and_then(|user| user.password.as_ref());
        let password = own.or_else(|| self.decoy_password(&credentials.user))?;
        let right = self.verify_password(password, &credentials).await && own.is_some();
        let now = Instant::now();
        let Some(user) = user.filter(|_| right) else {
            let until = now + self.rejected_ttl;
            let mut refused = self.rejected_cache.lock().unwrap_or_else(PoisonError::into_inner);
            refused.get_or_insert_with(digest, now, || RejectedCredentials(until)).0 = until;
            return None;
        };
        let proof = VerifiedPassword { digest, verified_at: now };
        self.verified_cache.lock().unwrap_or_else(PoisonError::into_inner).insert(credentials.user, proof);
        Some(user.account.clone())
    }

    /// Returns whether these credentials were rejected lately and the users have not changed.
    fn was_rejected(&self, digest: &CredentialDigest) -> bool {
        let refused = self.rejected_cache.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(digest).is_some_and(|refused| Instant::now() < refused.0)
    }

    /// Hash that is compared for a user without a password, so that the time reveals nothing.
    fn decoy_password(&self, user: &str) -> Option<&Password> {
        let [first, second, ..] = self.keyed_digest(&[user]);
        let chosen = usize::from(u16::from_be_bytes([first, second])) % self.decoy_passwords.len().max(1);
        self.decoy_passwords.get(chosen)
    }

    async fn verify_password(&self, password: &Password, credentials: &Credentials) -> bool {
        if !password.is_slow_to_verify() {
            return password.verify(&credentials.password);
        }
        let Ok(_permit) = self.hash_permits.acquire().await else { return false };
        let (password, given) = (password.clone(), credentials.password.clone());
        tokio::task::spawn_blocking(move || password.verify(&given)).await.unwrap_or(false)
    }

    fn is_verified(&self, user: &str, digest: &CredentialDigest) -> bool {
        self.verified_digest(user, VERIFIED_CACHE_TTL).is_some_and(|proof| bool::from(proof.ct_eq(digest)))
    }

    /// The digest of the credentials with which the user logged in rightly, if that is not longer ago.
    fn verified_digest(&self, user: &str, ago: Duration) -> Option<CredentialDigest> {
        let proven = self.verified_cache.lock().unwrap_or_else(PoisonError::into_inner);
        let proof = proven.get(user).filter(|proof| proof.verified_at.elapsed() < ago)?;
        Some(proof.digest)
    }

    fn keyed_digest(&self, texts: &[&str]) -> CredentialDigest {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.digest_key).expect("HMAC takes keys of any length");
        for text in texts {
            mac.update(text.as_bytes());
            mac.update(&[0]);
        }
        mac.finalize().into_bytes().into()
    }
}

/// How long a password counts as right without being hashed again.
const VERIFIED_CACHE_TTL: Duration = Duration::from_secs(600);
/// argon2 takes 19 MiB a time with the usual settings.
const MAX_CONCURRENT_HASHES: usize = 2;
/// Characters of a user name in the log.
const MAX_LOGGED_USER_CHARS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use argon2::Argon2;
    use argon2::password_hash::PasswordHasher;
    use mailtrail_mail::{HeaderCleanup, Secret};

    fn test_user(name: &str, password: Password) -> User {
        let account = Account {
            name: name.into(),
            client_label: name.into(),
            sender_patterns: Vec::new(),
            allowed_request_headers: Vec::new(),
            header_cleanup: HeaderCleanup::default(),
        };
        let (account, certificate_identities) = (Arc::new(account), Vec::new());
        User { account, password: Some(password), certificate_identities, rate: None, quota: None }
    }

    fn authenticator_for(users: Vec<User>) -> Authenticator {
        Authenticator::new(users, &POLICY, Clock::System)
    }

    fn credentials_of(user: &str, password: &str) -> Credentials {
        Credentials { user: user.into(), password: Secret::new(password) }
    }

    #[tokio::test]
    async fn accepts_only_the_right_password() {
        let argon2id = Argon2::default().hash_password(b"right").unwrap().to_string();
        let bcrypt = bcrypt::hash("right", 4).unwrap();
        let accounts = authenticator_for(vec![
            test_user("odoo", Password::Hash(argon2id.parse().unwrap())),
            test_user("shop", Password::Hash(bcrypt.parse().unwrap())),
            test_user("legacy", Password::Plain(Secret::new("also right"))),
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
                let digest = accounts.keyed_digest(&[name, password]);
                let found = accounts.authenticate(credentials_of(name, password), digest).await;
                assert_eq!(
                    found.map(|account| account.name == name),
                    expected.then_some(true),
                    "{name} {password}"
                );
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn verified_cache_entry_expires() {
        let accounts = authenticator_for(vec![test_user("odoo", Password::Plain(Secret::new("right")))]);
        let digest = accounts.keyed_digest(&["odoo", "right"]);
        assert!(!accounts.is_verified("odoo", &digest));
        assert!(accounts.authenticate(credentials_of("odoo", "right"), digest).await.is_some());
        assert!(accounts.is_verified("odoo", &digest));
        assert!(!accounts.is_verified("odoo", &accounts.keyed_digest(&["odoo", "other"])));
        tokio::time::advance(VERIFIED_CACHE_TTL).await;
        assert!(!accounts.is_verified("odoo", &digest));
    }

    #[test]
    fn unknown_users_take_as_long_as_known_ones() {
        let bcrypt = bcrypt::hash("right", 4).unwrap();
        let accounts_of_nobody = authenticator_for(Vec::new());
        let accounts = authenticator_for(vec![
            test_user("shop", Password::Hash(bcrypt.parse().unwrap())),
            test_user("legacy", Password::Plain(Secret::new("right"))),
        ]);
        let names: Vec<_> = (0..200).map(|number| format!("nobody{number}")).collect();
        let slow = |name: &String| accounts.decoy_password(name).unwrap().is_slow_to_verify();
        assert_eq!(names.iter().map(slow).collect::<Vec<_>>(), names.iter().map(slow).collect::<Vec<_>>());
        let many = names.iter().filter(|name| slow(name)).count();
        assert!((50..150).contains(&many), "{many} of 200 take a hash, with one user of two");
        assert!(accounts_of_nobody.decoy_password("nobody").is_none());
    }

    async fn log_in(accounts: &Authenticator, name: &str, password: &str, from: IpAddr) -> &'static str {
        match accounts.log_in(credentials_of(name, password), from).await {
            LoginResult::Accepted(_) => "right",
            LoginResult::Rejected => "wrong",
            LoginResult::LockedOut => "locked out",
        }
    }

    const CLIENT_IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[tokio::test(start_paused = true)]
    async fn locked_out_user_is_rejected_with_right_password() {
        let plain = |name: &str| test_user(name, Password::Plain(Secret::new("right")));
        let accounts = authenticator_for(vec![plain("odoo"), plain("shop")]);
        let there = IpAddr::from([192, 0, 2, 2]);
        for (guess, expected) in [("1", "wrong"), ("1", "wrong"), ("2", "wrong"), ("3", "locked out")] {
            assert_eq!(log_in(&accounts, "odoo", guess, CLIENT_IP).await, expected);
        }
        assert_eq!(log_in(&accounts, "odoo", "right", CLIENT_IP).await, "locked out");
        assert_eq!(log_in(&accounts, "odoo", "right", there).await, "right");
        assert_eq!(log_in(&accounts, "shop", "right", CLIENT_IP).await, "right");
        tokio::time::advance(Duration::from_secs(600)).await;
        assert_eq!(log_in(&accounts, "odoo", "right", CLIENT_IP).await, "right");
    }

    #[tokio::test(start_paused = true)]
    async fn guesses_from_client_address_neither_lock_it_out_nor_cost_hashes() {
        let argon2id = Argon2::default().hash_password(b"right").unwrap().to_string();
        let accounts = authenticator_for(vec![test_user("odoo", Password::Hash(argon2id.parse().unwrap()))]);
        assert_eq!(log_in(&accounts, "odoo", "right", CLIENT_IP).await, "right");
        for guess in ["1", "2", "3"] {
            log_in(&accounts, "odoo", guess, CLIENT_IP).await;
        }
        // Nothing is hashed any more.
        accounts.hash_permits.close();
        for guess in 4..40 {
            assert_eq!(log_in(&accounts, "odoo", &guess.to_string(), CLIENT_IP).await, "locked out");
            assert_eq!(log_in(&accounts, &format!("name{guess}"), "x", CLIENT_IP).await, "locked out");
        }
        assert_eq!(log_in(&accounts, "odoo", "right", CLIENT_IP).await, "right");
        // A reload that does not touch the password changes nothing.
        let same = accounts
            .reconfigured(vec![test_user("odoo", accounts.users["odoo"].password.clone().unwrap())], &POLICY);
        same.hash_permits.close();
        assert_eq!(log_in(&same, "odoo", "right", CLIENT_IP).await, "right");
    }

    #[tokio::test(start_paused = true)]
    async fn accepts_new_password_while_old_one_is_retried() {
        let with = |password: &str| vec![test_user("odoo", Password::Plain(Secret::new(password)))];
        let before = Authenticator::new(with("first"), &POLICY, Clock::System);
        assert_eq!(log_in(&before, "odoo", "first", CLIENT_IP).await, "right");
        assert_eq!(log_in(&before, "odoo", "second", CLIENT_IP).await, "wrong", "it came too early");
        let after = before.reconfigured(with("second"), &POLICY);
        for _ in 0..20 {
            assert_eq!(log_in(&after, "odoo", "first", CLIENT_IP).await, "wrong");
        }
        for guess in ["1", "2", "3"] {
            log_in(&after, "odoo", guess, CLIENT_IP).await;
        }
        assert_eq!(log_in(&after, "odoo", "first", CLIENT_IP).await, "locked out");
        assert_eq!(log_in(&after, "odoo", "second", CLIENT_IP).await, "right");
    }

    #[tokio::test(start_paused = true)]
    async fn rejected_credentials_are_hashed_once() {
        let argon2id = Argon2::default().hash_password(b"right").unwrap().to_string();
        let accounts = authenticator_for(vec![test_user("odoo", Password::Hash(argon2id.parse().unwrap()))]);
        assert_eq!(log_in(&accounts, "odoo", "wrong", CLIENT_IP).await, "wrong");
        accounts.hash_permits.close();
        assert!(accounts.was_rejected(&accounts.keyed_digest(&["odoo", "wrong"])));
        assert_eq!(log_in(&accounts, "odoo", "wrong", CLIENT_IP).await, "wrong");
        tokio::time::advance(Duration::from_secs(600)).await;
        assert!(!accounts.was_rejected(&accounts.keyed_digest(&["odoo", "wrong"])));
    }

    #[tokio::test(start_paused = true)]
    async fn reconfiguration_preserves_lockouts_and_drops_verified_passwords() {
        let with = |password: &str| vec![test_user("odoo", Password::Plain(Secret::new(password)))];
        let before = Authenticator::new(with("first"), &POLICY, Clock::System);
        let after = before.reconfigured(with("second"), &POLICY);
        assert_eq!(log_in(&after, "odoo", "first", CLIENT_IP).await, "wrong");
        assert_eq!(log_in(&before, "odoo", "a", CLIENT_IP).await, "wrong");
        assert_eq!(log_in(&after, "odoo", "b", CLIENT_IP).await, "locked out");
        assert_eq!(log_in(&after, "odoo", "second", CLIENT_IP).await, "locked out");
        assert_eq!(log_in(&before, "odoo", "first", CLIENT_IP).await, "locked out");
    }

    const POLICY: LoginPolicy = LoginPolicy {
        login_failures: 3,
        login_window: Duration::from_secs(600),
        login_lockout: Duration::from_secs(600),
        rate_per_ip: None,
    };
}
