//! How mail of our own is handed in: an operator's test mail, and heartbeats.

use crate::config::Config;
use crate::daemon::generation::Ground;
use crate::daemon::listeners::Hall;
use crate::daemon::queue::reports;
use mailtrail_mail::{Envelope, HeaderCleanup, Mailbox, TrackingId};
use mailtrail_relay::HandIn;
use mailtrail_relay::admin::Tester;
use mailtrail_relay::submission::Front;
use mailtrail_smtp::{Account, Reply};
use std::sync::Arc;

/// What an operator's test mail is made with.
pub fn tester(ground: &Ground, config: &Config, hall: &Hall) -> Tester {
    let silent = config.upstreams.iter().filter(|upstream| !reports(upstream, config));
    let silent = silent.map(|upstream| upstream.transport.name.clone()).collect();
    Tester { hand_in: own_mail(ground, config, hall, "send-test"), from: sender(config), silent }
}

/// Takes our own mail in as the first listener does, whatever that asks of clients. Routes and trails know it by `user`.
pub fn own_mail(ground: &Ground, config: &Config, hall: &Hall, user: &str) -> HandIn {
    let front = config.listeners.first().map(|listener| Arc::new(hall.front(ground, config, listener)));
    let account = Arc::new(Account {
        name: user.to_owned(),
        client: "mailtrail".to_owned(),
        senders: Vec::new(),
        request_headers: Vec::new(),
        cleanup: HeaderCleanup::NONE,
    });
    Arc::new(move |envelope, message| Box::pin(hand_in(front.clone(), account.clone(), envelope, message)))
}

async fn hand_in(
    front: Option<Arc<Front>>,
    account: Arc<Account>,
    envelope: Envelope,
    message: Vec<u8>,
) -> Result<TrackingId, String> {
    let Some(front) = front else { return Err("no [[listener]] is configured".to_owned()) };
    match front.hand_in(&account, envelope, &message).await {
        Reply::Queued(id) => Ok(id),
        refusal => {
            let mut words = Vec::new();
            refusal.write(&mut words);
            Err(String::from_utf8_lossy(&words).trim().to_owned())
        }
    }
}

/// From whom test mail is: as heartbeats, or from the domain that mail is sent for first.
fn sender(config: &Config) -> Option<Mailbox> {
    let heartbeat = config.heartbeat.as_ref().map(|heartbeat| heartbeat.from.clone());
    let domain = || config.upstreams.iter().find_map(|upstream| upstream.transport.domain.as_deref());
    let own = || format!("mailtrail@{}", domain().unwrap_or(&config.hostname)).parse().ok();
    heartbeat.or_else(own)
}
