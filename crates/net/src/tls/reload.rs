use crate::tls::server::Server;
use mailtrail_mail::{Clock, Timestamp};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Reloads the servers' changed files and logs certificates that expire soon. Runs until it is dropped.
pub async fn watch_certificates(servers: Vec<Arc<Server>>, clock: Clock) {
    let mut reminders = ExpiryReminders::default();
    loop {
        check_certificates(&servers, &mut reminders, clock.now());
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

fn check_certificates(servers: &[Arc<Server>], reminders: &mut ExpiryReminders, now: Timestamp) {
    servers.iter().filter(|server| server.needs_reload()).for_each(|server| server.reload());
    let expiries: BTreeMap<_, _> = servers.iter().flat_map(|server| server.expiries()).collect();
    for (path, expiry) in expiries {
        let file = path.display().to_string();
        metrics::gauge!("mailtrail_tls_certificate_expiry_timestamp_seconds", "file" => file)
            .set(expiry.as_secs() as f64);
        if reminders.is_due(&path, expiry, now) {
            log_expiry(&path, expiry, now);
        }
    }
}

fn log_expiry(path: &Path, expiry: Timestamp, now: Timestamp) {
    let (certificate, days) = (path.display(), expiry.duration_since(now).as_secs() / ONE_DAY.as_secs());
    if expiry <= now {
        tracing::warn!(%certificate, %expiry, "the certificate has expired; renew it");
    } else {
        tracing::warn!(%certificate, %expiry, days, "the certificate expires soon; renew it");
    }
}

/// When each file was last spoken of.
#[derive(Default)]
struct ExpiryReminders(BTreeMap<PathBuf, Timestamp>);

impl ExpiryReminders {
    fn is_due(&mut self, path: &Path, expiry: Timestamp, now: Timestamp) -> bool {
        if now.saturating_add(REMIND_BEFORE) < expiry {
            self.0.remove(path);
            return false;
        }
        let due = self.0.get(path).is_none_or(|last| now.duration_since(*last) >= ONE_DAY);
        if due {
            self.0.insert(path.into(), now);
        }
        due
    }
}

const CHECK_INTERVAL: Duration = Duration::from_secs(60);
const ONE_DAY: Duration = Duration::from_secs(86_400);
/// Remaining validity from which on reminders are logged.
const REMIND_BEFORE: Duration = Duration::from_secs(21 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::self_signed_files;
    use crate::tls::server::ServerFiles;
    use crate::tls::tests::handshake_with;

    #[test]
    fn reminds_daily_from_three_weeks_before_expiry() {
        let (mut reminders, path) = (ExpiryReminders::default(), Path::new("relay.pem"));
        let expiry = Timestamp::from_secs(1_798_848_000);
        let mut due = |before_hours: u64| {
            reminders.is_due(path, expiry, expiry.saturating_sub(Duration::from_secs(before_hours * 3600)))
        };
        assert!(!due(21 * 24 + 1));
        let hours = (0..=21 * 24).rev().filter(|hours| due(*hours)).collect::<Vec<_>>();
        assert_eq!(hours, (0..=21).rev().map(|days| days * 24).collect::<Vec<_>>());
        let after = expiry.saturating_add(ONE_DAY);
        assert!(reminders.is_due(path, expiry, after), "daily from then on");
        assert!(
            !reminders.is_due(path, expiry.saturating_add(REMIND_BEFORE * 2), after),
            "a new one is not spoken of"
        );
        assert!(reminders.is_due(path, expiry, after), "until it expires soon");
    }

    #[tokio::test]
    async fn reloads_a_changed_pair_and_ignores_an_invalid_one() {
        let directory = tempfile::tempdir().unwrap();
        let [here, other] = ["here", "other"].map(|name| directory.path().join(name));
        let files = self_signed_files(&here, "localhost").unwrap();
        let replacement = self_signed_files(&other, "localhost").unwrap();
        let server = Arc::new(Server::open(files.clone()).unwrap());
        let (servers, mut reminders) = ([server.clone()], ExpiryReminders::default());
        let mut serves = async |files: &ServerFiles| {
            check_certificates(&servers, &mut reminders, Timestamp::from_secs(0));
            handshake_with(server.acceptor(), Some(&files.certificate), "localhost").await.is_ok()
        };
        let first = directory.path().join("first.pem");
        std::fs::copy(&files.certificate, &first).unwrap();
        let first = ServerFiles { certificate: first, ..files.clone() };
        assert!(serves(&first).await);
        std::fs::copy(&replacement.certificate, &files.certificate).unwrap();
        assert!(serves(&first).await, "its key is not there yet");
        std::fs::copy(&replacement.private_key, &files.private_key).unwrap();
        assert!(serves(&replacement).await && !serves(&first).await);
        std::fs::write(&files.private_key, "no key").unwrap();
        assert!(serves(&replacement).await);
        std::fs::remove_file(&files.certificate).unwrap();
        assert!(serves(&replacement).await);
    }
}
