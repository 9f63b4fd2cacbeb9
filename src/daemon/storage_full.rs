//! Retries a start that is temporarily impossible because disk space or descriptors are exhausted. In the meantime the
//! SMTP listeners refuse clients with 421: without a store there is no session.

use crate::config::Config;
use crate::daemon::sockets::{BoundSocket, Sockets};
use crate::daemon::start_error::StartError;
use mailtrail_relay::submission;
use std::time::Duration;
use tokio::task::JoinSet;

/// Sockets of a start, and the listeners that refuse clients until it succeeds.
pub struct Refusing<'a> {
    config: &'a Config,
    sockets: Sockets,
    /// Tasks that end when this value is dropped.
    listeners: JoinSet<()>,
    tries: u32,
}

impl<'a> Refusing<'a> {
    /// Starts with the sockets that are open already; refuses nothing yet.
    pub fn new(config: &'a Config, sockets: Sockets) -> Self {
        Self { config, sockets, listeners: JoinSet::new(), tries: 0 }
    }

    /// Waits until the start may be retried after `error`. Returns the error if a retry cannot help.
    pub async fn wait(&mut self, error: StartError) -> Result<(), StartError> {
        if !error.passes_by_itself() {
            return Err(error);
        }
        if self.tries.is_multiple_of(LOGGED_EVERY) {
            tracing::error!(%error, "cannot start yet; refusing mail and retrying");
        }
        if self.tries == 0 {
            self.listen()?;
        }
        self.tries += 1;
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }

    /// Stops refusing; clients that connect from now on wait for the relay.
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
/// Failed tries per log line: one line per minute.
const LOGGED_EVERY: u32 = 600;
