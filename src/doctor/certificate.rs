use crate::config::{CertificateFiles, Config, HttpTls};
use crate::doctor::check_result::{CheckResult, CheckStatus};
use mailtrail_mail::Timestamp;
use mailtrail_net::tls;
use mailtrail_relay::submission::ListenerTls;
use std::time::Duration;

/// Checks the certificates of the listeners, each once.
pub(super) fn check_certificates(config: &Config, now: Timestamp) -> Vec<CheckResult> {
    let mail = config.listeners.iter().any(|listener| listener.tls != ListenerTls::None);
    let mail = mail.then_some(("listeners", config.certificate.as_ref()));
    let http = match &config.http_tls {
        HttpTls::Implicit(own) if config.http_address.is_some() => {
            Some(("http", own.as_ref().or(config.certificate.as_ref())))
        }
        HttpTls::Implicit(_) | HttpTls::None => None,
    };
    let shared = |(_, files): &(&str, Option<&CertificateFiles>)| mail.map(|(_, own)| own) == Some(*files);
    let http = http.filter(|http| !shared(http));
    mail.into_iter().chain(http).map(|(listener, files)| check_certificate(listener, files, now)).collect()
}

fn check_certificate(listener: &str, files: Option<&CertificateFiles>, now: Timestamp) -> CheckResult {
    let Some(files) = files else {
        return CheckResult::ok(CHECK_NAME, listener, "it is self-signed, and does not expire");
    };
    let subject = files.certificate.display().to_string();
    // Certificate and key must also belong together.
    let pair = tls::load_certified_key(&files.certificate, &files.private_key).and_then(tls::build_acceptor);
    let expiry = pair.and_then(|_| tls::file_expiry(&files.certificate));
    match expiry {
        Ok(expiry) => evaluate_expiry(&subject, expiry, now, "renew it; it is taken up without a restart"),
        Err(error) => CheckResult::from_error(CheckStatus::Fail, CHECK_NAME, subject, &error, INSPECT_REMEDY),
    }
}

/// Evaluates the expiry of a certificate.
pub(super) fn evaluate_expiry(
    subject: &str,
    expiry: Option<Timestamp>,
    now: Timestamp,
    remedy: &str,
) -> CheckResult {
    let Some(expiry) = expiry else {
        return CheckResult::problem(
            CheckStatus::Unknown,
            CHECK_NAME,
            subject,
            "its end cannot be read",
            INSPECT_REMEDY,
        );
    };
    let what = format!("it ends {expiry}");
    if expiry <= now {
        CheckResult::problem(CheckStatus::Fail, CHECK_NAME, subject, format!("it ended {expiry}"), remedy)
    } else if expiry < now.saturating_add(EXPIRY_WARNING) {
        CheckResult::problem(CheckStatus::Warn, CHECK_NAME, subject, what, remedy)
    } else {
        CheckResult::ok(CHECK_NAME, subject, what)
    }
}

const CHECK_NAME: &str = "certificate";
const INSPECT_REMEDY: &str = "look at it with openssl x509 -text";
/// Remaining validity that is reported as a warning.
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_two_weeks_before_expiry() {
        let now = Timestamp::from_secs(1_789_387_200);
        let day = Duration::from_secs(86_400);
        for (expiry, expected) in [
            (Some(now.saturating_add(day * 14)), CheckStatus::Ok),
            (Some(now.saturating_add(day * 13)), CheckStatus::Warn),
            (Some(now), CheckStatus::Fail),
            (Some(now.saturating_sub(day)), CheckStatus::Fail),
            (None, CheckStatus::Unknown),
        ] {
            assert_eq!(evaluate_expiry("relay.pem", expiry, now, "renew it").status, expected, "{expiry:?}");
        }
    }
}
