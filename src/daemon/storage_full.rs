//! A start that something prevents for now: no room on the disk, no descriptor. It is tried again until it succeeds;
//! meanwhile the SMTP listeners refuse clients with 421. No session is possible: there is no store to keep mail in.

use crate::config::Config;
use crate::daemon::StartError;
use crate::daemon::sockets::{BoundSocket, Sockets};
use mailtrail_relay::submission;
use std::time::Duration;
use tokio::task::JoinSet;

/// The sockets of a start, and the listeners that refuse clients while it is prevented.
pub struct Refusing<'a> {
    config: &'a Config,
    sockets: Sockets,
    /// Ends with this value.
    listeners: JoinSet<()>,
    tries: u32,
}

impl<'a> Refusing<'a> {
    /// With the sockets that are open already; nothing is refused yet.
    pub fn new(config: &'a Config, sockets: Sockets) -> Self {
        Self { config, sockets, listeners: JoinSet::new(), tries: 0 }
    }

    /// Waits until the start is to be tried again after `error`; fails with it where that cannot help.
    pub async fn wait(&mut self, error: StartError) -> Result<(), StartError> {
        if !error.passes_by_itself() {
            return Err(error);
        }
        if self.tries.is_multiple_of(LOGGED_EVERY) {
            tracing::error!(%error, "the relay cannot start now and refuses mail; it is tried again");
        }
        if self.tries == 0 {
            self.listen()?;
        }
        self.tries += 1;
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }

    /// Ends the refusing; clients that connect meanwhile wait for the relay.
    pub fn into_sockets(self) -> Sockets {
        self.sockets
    }

    fn listen(&mut self) -> Result<(), StartError> {
        let mut taken = Sockets::for_startup();
        for listener in &self.config.listeners {
            let place = taken.listen_tcp(&mut self.sockets, "the SMTP listener", listener.address)?;
            if let Some(BoundSocket { socket, .. }) = place {
                self.listeners.spawn(submission::refuse_clients(socket));
            }
        }
        self.sockets.add_all(taken);
        Ok(())
    }
}

const PAUSE: Duration = Duration::from_millis(100);
/// Tries from one log line to the next: a minute of them.
const LOGGED_EVERY: u32 = 600;
