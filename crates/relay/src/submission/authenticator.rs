use crate::submission::login_throttle::{Admission, Claim, Consequence, Digest, Guard, TRUSTED};
use crate::submission::password::Password;
use crate::submission::settings::{Policy, User};
use hmac::{Hmac, KeyInit, Mac};
use mailtrail_mail::Clock;
use mailtrail_net::{Fades, RefusalLog, Register, tls};
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

/// The users of all listeners.
///
/// A password hash costs tens of milliseconds by design, and Odoo logs in for every immediate mail: a password that
/// was right once is remembered in memory as a keyed digest for [`REMEMBERED`], so that one login of a user pays for
/// many. One digest a configured user is kept, no more. It is kept for longer, to tell the user from those that guess its
/// password from the same address. Credentials that were refused cost no second hash either.
///
/// An unknown user takes as long as a known one: its password is checked against a known user's, chosen by the name,
/// so that the times of unknown names are spread as those of the known ones are.
pub struct Accounts {
    users: HashMap<String, User>,
    passwords: Vec<Password>,
    by_certificate: HashMap<String, Arc<Account>>,
    guard: Guard,
    refusals: RefusalLog,
    lockout: Duration,
    clock: Clock,
    key: [u8; 32],
    proven: Mutex<HashMap<String, Proof>>,
    refused: Mutex<Register<Digest, Refused>>,
    window: Duration,
    hashing: Semaphore,
}

/// What became of a login.
#[derive(Debug)]
pub enum Login {
    /// The credentials are right.
    Right(Arc<Account>),
    /// They are not.
    Wrong,
    /// They are not, or not looked at: too many were wrong.
    LockedOut,
}

/// A password that was right, and when.
#[derive(Clone, Copy)]
struct Proof {
    digest: Digest,
    at: Instant,
}

/// Credentials that were wrong; when that is forgotten.
struct Refused(Instant);

impl Fades for Refused {
    fn fades(&self) -> Instant {
        self.0
    }
}

impl Accounts {
    /// The users as configured.
    pub fn new(users: Vec<User>, policy: &Policy, clock: Clock) -> Self {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the system has randomness");
        Self::with(users, policy, (Guard::new(policy), RefusalLog::default()), clock, key)
    }

    /// Reads from the store which users logged in rightly within [`TRUSTED`] and from where: guesses that come after a
    /// restart and before the user's next login do not lock it out.
    pub fn recall_logins(&self, store: &Store) {
        let (now, begun) = (self.clock.now(), Instant::now());
        let logins = store.logins(now.before(TRUSTED)..now).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the logins of the last day; guesses may lock their users out");
            Default::default()
        });
        for ((peer, user), last) in logins {
            self.guard.succeeded_before(peer, self.digest(&[&user]), now.since(last), begun);
        }
    }

    /// The users as they were changed. Failed logins stay in memory, and so does that a password was right if it is the
    /// same as before.
    pub fn renewed(&self, users: Vec<User>, policy: &Policy) -> Self {
        let renewed = Self::with(
            users,
            policy,
            (self.guard.renewed(policy), self.refusals.clone()),
            self.clock,
            self.key,
        );
        let password =
            |users: &HashMap<String, User>, name: &str| users.get(name).map(|user| user.password.clone());
        let mut proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner).clone();
        proven.retain(|name, _| password(&self.users, name) == password(&renewed.users, name));
        Self { proven: Mutex::new(proven), ..renewed }
    }

    fn with(
        users: Vec<User>,
        policy: &Policy,
        (guard, refusals): (Guard, RefusalLog),
        clock: Clock,
        key: [u8; 32],
    ) -> Self {
        Self {
            by_certificate: users
                .iter()
                .flat_map(|user| user.certificates.iter().map(|mark| (mark.clone(), user.account.clone())))
                .collect(),
            guard,
            refusals,
            lockout: policy.login_lockout,
            clock,
            passwords: users.iter().filter_map(|user| user.password.clone()).collect(),
            users: users.into_iter().map(|user| (user.account.name.clone(), user)).collect(),
            key,
            proven: Mutex::default(),
            refused: Mutex::default(),
            window: policy.login_window,
            hashing: Semaphore::new(HASHES_AT_ONCE),
        }
    }

    /// The account of that name, for who needs no password.
    pub fn account(&self, name: &str) -> Option<Arc<Account>> {
        self.users.get(name).map(|user| user.account.clone())
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
        let begun = Instant::now();
        let name = credentials.user.clone();
        let attempt = self.digest(&[&name, credentials.password.reveal()]);
        let claim = Claim { peer, user: self.digest(&[&name]), is_known: self.users.contains_key(&name) };
        let found = match self.guard.admission(claim, begun) {
            Admission::Checked => self.authenticate(credentials, attempt).await,
            Admission::Contested => match self.proof(&name, TRUSTED) {
                // Another password than the right one needs no hash to be wrong.
                Some(proof) => self.account(&name).filter(|_| bool::from(proof.ct_eq(&attempt))),
                None => self.authenticate(credentials, attempt).await,
            },
            Admission::Refused => None,
        };
        // Guesses that were under way when the lock fell learn nothing either.
        let admission = self.guard.admission(claim, Instant::now());
        if let Some(account) = found.filter(|_| admission != Admission::Refused) {
            self.guard.succeeded(peer, claim.user, Instant::now());
            return Login::Right(account);
        }
        let consequence = self.guard.failed(claim, attempt, Instant::now());
        self.report(&name, peer, consequence);
        // Counted from the beginning: whether a password was looked at cannot be seen from the time.
        tokio::time::sleep_until(begun + consequence.pause).await;
        if consequence.is_locked { Login::LockedOut } else { Login::Wrong }
    }

    fn report(&self, name: &str, peer: IpAddr, consequence: Consequence) {
        let user: String = name.chars().take(LOGGED).collect();
        // Of a user that there is a line of its own: another client's wrong password may hide it otherwise.
        let whose = if self.users.contains_key(name) { name } else { "" };
        if self.refusals.admits(peer, format!("wrong password {whose}")) {
            tracing::warn!(%peer, user, "wrong user name or password");
        }
        let reason = if consequence.is_locked { "locked_out" } else { "credentials" };
        metrics::counter!("mailtrail_smtp_logins_refused_total", "reason" => reason).increment(1);
        let Some(failures) = consequence.fell else { return };
        let until = self.clock.now().after(self.lockout);
        metrics::counter!("mailtrail_smtp_lockouts_total").increment(1);
        if consequence.is_trusted {
            // Other words than those that a firewall may act upon: it would shut out clients that log in rightly.
            tracing::warn!(
                %peer, user, failures, %until,
                "too many failed logins from an address that others use rightly; further wrong ones are refused unseen"
            );
        } else {
            tracing::warn!(%peer, user, failures, %until, "locked out after too many failed logins");
        }
    }

    /// The account behind the credentials, if they are right; `digest` stands for both of them.
    async fn authenticate(&self, credentials: Credentials, digest: Digest) -> Option<Arc<Account>> {
        let user = self.users.get(&credentials.user);
        if let Some(user) = user
            && self.is_proven(&credentials.user, &digest)
        {
            return Some(user.account.clone());
        }
        if self.was_refused(&digest) {
            return None;
        }
        let own = user.and_then(|user| user.password.as_ref());
        let password = own.or_else(|| self.stand_in(&credentials.user))?;
        let right = self.is_right(password, &credentials).await && own.is_some();
        let now = Instant::now();
        let Some(user) = user.filter(|_| right) else {
            let until = now + self.window;
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            refused.entry(digest, now, || Refused(until)).0 = until;
            return None;
        };
        let proof = Proof { digest, at: now };
        self.proven.lock().unwrap_or_else(PoisonError::into_inner).insert(credentials.user, proof);
        Some(user.account.clone())
    }

    /// Whether these credentials were refused lately: what they are compared with has not changed.
    fn was_refused(&self, digest: &Digest) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.recall(digest).is_some_and(|refused| Instant::now() < refused.0)
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

    fn is_proven(&self, user: &str, digest: &Digest) -> bool {
        self.proof(user, REMEMBERED).is_some_and(|proof| bool::from(proof.ct_eq(digest)))
    }

    /// The digest of the credentials with which the user logged in rightly, if that is not longer ago.
    fn proof(&self, user: &str, ago: Duration) -> Option<Digest> {
        let proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        let proof = proven.get(user).filter(|proof| proof.at.elapsed() < ago)?;
        Some(proof.digest)
    }

    fn digest(&self, texts: &[&str]) -> Digest {
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
    use argon2::Argon2;
    use argon2::password_hash::PasswordHasher;
    use mailtrail_mail::{HeaderCleanup, Secret};

    fn user(name: &str, password: Password) -> User {
        let account = Account {
            name: name.into(),
            client: name.into(),
            senders: Vec::new(),
            request_headers: Vec::new(),
            cleanup: HeaderCleanup::default(),
        };
        let (account, certificates) = (Arc::new(account), Vec::new());
        User { account, password: Some(password), certificates, rate: None, quota: None }
    }

    fn accounts(users: Vec<User>) -> Accounts {
        Accounts::new(users, &POLICY, Clock::System)
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

    #[tokio::test(start_paused = true)]
    async fn a_proof_is_forgotten_after_a_while() {
        let accounts = accounts(vec![user("odoo", Password::Plain(Secret::new("right")))]);
        let digest = accounts.digest(&["odoo", "right"]);
        assert!(!accounts.is_proven("odoo", &digest));
        assert!(accounts.authenticate(credentials("odoo", "right"), digest).await.is_some());
        assert!(accounts.is_proven("odoo", &digest));
        assert!(!accounts.is_proven("odoo", &accounts.digest(&["odoo", "other"])));
        tokio::time::advance(REMEMBERED).await;
        assert!(!accounts.is_proven("odoo", &digest));
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

    async fn log_in(accounts: &Accounts, name: &str, password: &str, from: IpAddr) -> &'static str {
        match accounts.log_in(credentials(name, password), from).await {
            Login::Right(_) => "right",
            Login::Wrong => "wrong",
            Login::LockedOut => "locked out",
        }
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[tokio::test(start_paused = true)]
    async fn a_guessed_user_is_locked_out_even_with_the_right_password() {
        let plain = |name: &str| user(name, Password::Plain(Secret::new("right")));
        let accounts = accounts(vec![plain("odoo"), plain("shop")]);
        let there = IpAddr::from([192, 0, 2, 2]);
        for (guess, expected) in [("1", "wrong"), ("1", "wrong"), ("2", "wrong"), ("3", "locked out")] {
            assert_eq!(log_in(&accounts, "odoo", guess, HERE).await, expected);
        }
        assert_eq!(log_in(&accounts, "odoo", "right", HERE).await, "locked out");
        assert_eq!(log_in(&accounts, "odoo", "right", there).await, "right");
        assert_eq!(log_in(&accounts, "shop", "right", HERE).await, "right");
        tokio::time::advance(Duration::from_secs(600)).await;
        assert_eq!(log_in(&accounts, "odoo", "right", HERE).await, "right");
    }

    #[tokio::test(start_paused = true)]
    async fn guesses_beside_a_client_do_not_lock_it_out_and_cost_no_hash() {
        let argon2id = Argon2::default().hash_password(b"right").unwrap().to_string();
        let accounts = accounts(vec![user("odoo", Password::Hash(argon2id.parse().unwrap()))]);
        assert_eq!(log_in(&accounts, "odoo", "right", HERE).await, "right");
        for guess in ["1", "2", "3"] {
            log_in(&accounts, "odoo", guess, HERE).await;
        }
        // Nothing is hashed any more.
        accounts.hashing.close();
        for guess in 4..40 {
            assert_eq!(log_in(&accounts, "odoo", &guess.to_string(), HERE).await, "locked out");
            assert_eq!(log_in(&accounts, &format!("name{guess}"), "x", HERE).await, "locked out");
        }
        assert_eq!(log_in(&accounts, "odoo", "right", HERE).await, "right");
        // A reload that does not touch the password changes nothing.
        let same =
            accounts.renewed(vec![user("odoo", accounts.users["odoo"].password.clone().unwrap())], &POLICY);
        same.hashing.close();
        assert_eq!(log_in(&same, "odoo", "right", HERE).await, "right");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_with_a_new_password_is_let_in_while_an_old_one_goes_on_trying() {
        let with = |password: &str| vec![user("odoo", Password::Plain(Secret::new(password)))];
        let before = Accounts::new(with("first"), &POLICY, Clock::System);
        assert_eq!(log_in(&before, "odoo", "first", HERE).await, "right");
        assert_eq!(log_in(&before, "odoo", "second", HERE).await, "wrong", "it came too early");
        let after = before.renewed(with("second"), &POLICY);
        for _ in 0..20 {
            assert_eq!(log_in(&after, "odoo", "first", HERE).await, "wrong");
        }
        for guess in ["1", "2", "3"] {
            log_in(&after, "odoo", guess, HERE).await;
        }
        assert_eq!(log_in(&after, "odoo", "first", HERE).await, "locked out");
        assert_eq!(log_in(&after, "odoo", "second", HERE).await, "right");
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_that_were_refused_cost_no_second_hash() {
        let argon2id = Argon2::default().hash_password(b"right").unwrap().to_string();
        let accounts = accounts(vec![user("odoo", Password::Hash(argon2id.parse().unwrap()))]);
        assert_eq!(log_in(&accounts, "odoo", "wrong", HERE).await, "wrong");
        accounts.hashing.close();
        assert!(accounts.was_refused(&accounts.digest(&["odoo", "wrong"])));
        assert_eq!(log_in(&accounts, "odoo", "wrong", HERE).await, "wrong");
        tokio::time::advance(Duration::from_secs(600)).await;
        assert!(!accounts.was_refused(&accounts.digest(&["odoo", "wrong"])));
    }

    #[tokio::test(start_paused = true)]
    async fn changed_users_keep_lockouts_and_no_proofs() {
        let with = |password: &str| vec![user("odoo", Password::Plain(Secret::new(password)))];
        let before = Accounts::new(with("first"), &POLICY, Clock::System);
        let after = before.renewed(with("second"), &POLICY);
        assert_eq!(log_in(&after, "odoo", "first", HERE).await, "wrong");
        assert_eq!(log_in(&before, "odoo", "a", HERE).await, "wrong");
        assert_eq!(log_in(&after, "odoo", "b", HERE).await, "locked out");
        assert_eq!(log_in(&after, "odoo", "second", HERE).await, "locked out");
        assert_eq!(log_in(&before, "odoo", "first", HERE).await, "locked out");
    }

    const POLICY: Policy = Policy {
        login_failures: 3,
        login_window: Duration::from_secs(600),
        login_lockout: Duration::from_secs(600),
        rate_per_ip: None,
    };
}
