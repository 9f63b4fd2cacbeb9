//! Submission of mail by mailtrail itself: test mail and heartbeats.

use crate::config::Config;
use crate::daemon::context::DaemonContext;
use crate::daemon::listeners::SubmissionSetup;
use crate::daemon::queue::has_event_source;
use mailtrail_mail::{Envelope, HeaderCleanup, Mailbox, TrackingId};
use mailtrail_relay::SubmitFn;
use mailtrail_relay::admin::TestMailer;
use mailtrail_relay::submission::SubmissionService;
use mailtrail_smtp::{Account, Reply};
use std::sync::Arc;

/// Returns the mailer for `send-test`.
pub fn test_mailer(ground: &DaemonContext, config: &Config, submission: &SubmissionSetup) -> TestMailer {
    let silent = config.upstreams.iter().filter(|upstream| !has_event_source(upstream, config));
    let without_events = silent.map(|upstream| upstream.transport.name.clone()).collect();
    TestMailer {
        submit: internal_submit_fn(ground, config, submission, "send-test"),
        default_sender: default_sender(config),
        without_events,
    }
}

/// Returns a function that submits mail as the first listener does, without its login and TLS requirements. Routes and
/// trails get `user` as the name of the user.
pub fn internal_submit_fn(
    ground: &DaemonContext,
    config: &Config,
    submission: &SubmissionSetup,
    user: &str,
) -> SubmitFn {
    let front = config
        .listeners
        .first()
        .map(|listener| Arc::new(submission.submission_service(ground, config, listener)));
    let account = Arc::new(Account {
        name: user.to_owned(),
        client_label: "mailtrail".to_owned(),
        sender_patterns: Vec::new(),
        allowed_request_headers: Vec::new(),
        header_cleanup: HeaderCleanup::NONE,
    });
    Arc::new(move |envelope, message| Box::pin(submit(front.clone(), account.clone(), envelope, message)))
}

async fn submit(
    front: Option<Arc<SubmissionService>>,
    account: Arc<Account>,
    envelope: Envelope,
    message: Vec<u8>,
) -> Result<TrackingId, String> {
    let Some(front) = front else { return Err("no [[listener]] is configured".to_owned()) };
    match front.submit_internal(&account, envelope, &message).await {
        Reply::Queued(id) => Ok(id),
        refusal => {
            let mut words = Vec::new();
            refusal.write_to(&mut words);
            Err(String::from_utf8_lossy(&words).trim().to_owned())
        }
    }
}

/// Returns the sender of test mail: that of heartbeats, or `mailtrail` at the first upstream's domain.
fn default_sender(config: &Config) -> Option<Mailbox> {
    let heartbeat = config.heartbeat.as_ref().map(|heartbeat| heartbeat.sender.clone());
    let domain = || config.upstreams.iter().find_map(|upstream| upstream.transport.domain.as_deref());
    let own = || format!("mailtrail@{}", domain().unwrap_or(&config.hostname)).parse().ok();
    heartbeat.or_else(own)
}
