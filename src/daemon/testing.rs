//! How an operator's test mail is handed in.

use super::doors::Hall;
use super::generation::Ground;
use super::relaying::reports;
use crate::admin::{HandIn, Tester};
use crate::config::Config;
use crate::id::TrackingId;
use crate::mail::{Envelope, Mailbox};
use crate::smtp::{Account, Reply};
use crate::submission::Front;
use std::sync::Arc;

/// Takes test mail in as the first listener does, whatever that asks of clients.
pub fn tester(ground: &Ground, config: &Config, hall: &Hall) -> Tester {
    let front = config.listeners.first().map(|listener| Arc::new(hall.front(ground, config, listener)));
    let account = Arc::new(Account {
        name: "send-test".to_owned(),
        client: "mailtrail".to_owned(),
        senders: Vec::new(),
        request_headers: Vec::new(),
        repair: false,
    });
    let hand_in: HandIn = Arc::new(move |envelope, message| {
        Box::pin(hand_in(front.clone(), account.clone(), envelope, message))
    });
    let silent = config.upstreams.iter().filter(|upstream| !reports(upstream, config));
    let silent = silent.map(|upstream| upstream.transport.name.clone()).collect();
    Tester { hand_in, from: sender(config), silent }
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
