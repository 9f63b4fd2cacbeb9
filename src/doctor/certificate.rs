use crate::config::{CertificateFiles, Config, HttpTls};
use crate::doctor::check_result::{Finding, Status};
use mailtrail_mail::Timestamp;
use mailtrail_net::tls;
use mailtrail_relay::submission::ListenerTls;
use std::time::Duration;

/// The certificates of the listeners, each once.
pub(super) fn own(config: &Config, now: Timestamp) -> Vec<Finding> {
    let mail = config.listeners.iter().any(|listener| listener.tls != ListenerTls::None);
    let mail = mail.then_some(("listeners", config.certificate.as_ref()));
    let http = match &config.http_tls {
        HttpTls::Implicit(own) if config.http.is_some() => {
            Some(("http", own.as_ref().or(config.certificate.as_ref())))
        }
        HttpTls::Implicit(_) | HttpTls::None => None,
    };
    let shared = |(_, files): &(&str, Option<&CertificateFiles>)| mail.map(|(_, own)| own) == Some(*files);
    let http = http.filter(|http| !shared(http));
    mail.into_iter().chain(http).map(|(listener, files)| one(listener, files, now)).collect()
}

fn one(listener: &str, files: Option<&CertificateFiles>, now: Timestamp) -> Finding {
    let Some(files) = files else {
        return Finding::ok(CHECK, listener, "it is self-signed, and does not expire");
    };
    let subject = files.certificate.display().to_string();
    // Whatever serves must belong together, too.
    let pair = tls::load(&files.certificate, &files.private_key).and_then(tls::acceptor);
    let expiry = pair.and_then(|_| tls::expiry(&files.certificate));
    match expiry {
        Ok(expiry) => judge(&subject, expiry, now, "renew it; it is taken up without a restart"),
        Err(error) => Finding::error(Status::Fail, CHECK, subject, &error, RENEW),
    }
}

/// How a certificate stands that expires then.
pub(super) fn judge(subject: &str, expiry: Option<Timestamp>, now: Timestamp, remedy: &str) -> Finding {
    let Some(expiry) = expiry else {
        return Finding::bad(Status::Unknown, CHECK, subject, "its end cannot be read", RENEW);
    };
    let what = format!("it ends {expiry}");
    if expiry <= now {
        Finding::bad(Status::Fail, CHECK, subject, format!("it ended {expiry}"), remedy)
    } else if expiry < now.after(SOON) {
        Finding::bad(Status::Warn, CHECK, subject, what, remedy)
    } else {
        Finding::ok(CHECK, subject, what)
    }
}

const CHECK: &str = "certificate";
const RENEW: &str = "look at it with openssl x509 -text";
/// So long before its end it is spoken of.
const SOON: Duration = Duration::from_secs(14 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_spoken_of_two_weeks_before_its_end() {
        let now = Timestamp::from_seconds(1_789_387_200);
        let day = Duration::from_secs(86_400);
        for (expiry, expected) in [
            (Some(now.after(day * 14)), Status::Ok),
            (Some(now.after(day * 13)), Status::Warn),
            (Some(now), Status::Fail),
            (Some(now.before(day)), Status::Fail),
            (None, Status::Unknown),
        ] {
            assert_eq!(judge("relay.pem", expiry, now, "renew it").status, expected, "{expiry:?}");
        }
    }
}
