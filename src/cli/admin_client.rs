//! Who answers questions: the daemon over its socket or, while it is stopped, the store itself.

use crate::cli::{Context, Trouble, config_source};
use mailtrail_mail::{Clock, Mailbox};
use mailtrail_net::tls;
use mailtrail_relay::admin;
use mailtrail_relay::admin::{
    Act, BackupOrder, BreakerOrder, BreakerView, CareStep, EraseOrder, EventFilter, EventView, ExportLine,
    Found, HintView, InboundFilter, InboundView, KeptEvent, KeptMail, LogAnswer, LogFilter, Order, QueueLine,
    RebuildOrder, RefusedView, ReleaseOrder, Released, ReplayAnswer, ReplayOrder, ReplaySink, Shape,
    SinkView, StatsLine, StatsQuestion, SuppressionAct, SuppressionFilter, SuppressionOrder, SuppressionPage,
    SyncLine, SyncOrder, TestAnswer, TestOrder,
};
use mailtrail_store::{OpenError, OpenReport, Retention, Store};
use mailtrail_trail::suppression::Settings;
use reqwest::Response;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whoever answers.
pub enum Desk {
    /// The daemon.
    Daemon(reqwest::Client),
    /// The store, read here.
    Store(Store),
}

/// What the daemon says while it does something.
pub struct Lines<T> {
    response: Response,
    /// Not yet a whole line.
    heard: Vec<u8>,
    line: PhantomData<T>,
}

impl<T: DeserializeOwned> Lines<T> {
    /// The next line; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<T>, Trouble> {
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                let read = serde_json::from_slice(&line).map(Some);
                return read.map_err(|error| Trouble::Failed(format!("the daemon's answer is odd: {error}")));
            }
            match self.response.chunk().await.map_err(unreachable)? {
                Some(piece) => self.heard.extend_from_slice(&piece),
                None => return Ok(None),
            }
        }
    }
}

impl Desk {
    /// Finds out who answers.
    pub async fn open(context: &Context) -> Result<Self, Trouble> {
        Self::open_and_report(context).await.map(|(desk, _)| desk)
    }

    /// The same; says why the ledger was made anew, if that was to be done to answer here.
    pub async fn open_and_report(context: &Context) -> Result<(Self, Option<String>), Trouble> {
        let (data_dir, socket) = config_source::whereabouts(context)?;
        if tokio::net::UnixStream::connect(&socket).await.is_ok() {
            return Ok((Self::daemon(&socket)?, None));
        }
        let (store, report) = opened(&data_dir, &socket)?;
        Ok((Self::Store(store), report.rebuilt))
    }

    /// The same; a store that is read here may be changed.
    pub async fn open_to_change(context: &Context) -> Result<Self, Trouble> {
        let (data_dir, socket) = config_source::whereabouts(context)?;
        if tokio::net::UnixStream::connect(&socket).await.is_ok() {
            return Self::daemon(&socket);
        }
        refuse_another(&data_dir)?;
        // Opening it to be written would make one.
        drop(opened(&data_dir, &socket)?);
        let store = Store::open(&data_dir, Clock::System).map_err(|error| unusable(&error, &socket))?;
        Ok(Self::Store(store.0))
    }

    /// Finds sends.
    pub async fn find(&self, what: &str, limit: usize) -> Result<Found, Trouble> {
        match self {
            Self::Daemon(client) => {
                ask(client.get(url("trace")).query(&[("what", what), ("limit", &limit.to_string())])).await
            }
            Self::Store(store) => admin::find(store, what, limit).map_err(|error| damaged(&error)),
        }
    }

    /// The sends that wait.
    pub async fn queue(&self, limit: usize) -> Result<Vec<QueueLine>, Trouble> {
        match self {
            Self::Daemon(client) => ask(client.get(url("queue")).query(&[("limit", limit)])).await,
            Self::Store(store) => admin::queue(store, limit).map_err(|error| damaged(&error)),
        }
    }

    /// Lines of the log.
    pub async fn log(&self, filter: &LogFilter) -> Result<LogAnswer, Trouble> {
        match self {
            Self::Daemon(client) => ask(client.get(url("log")).query(filter)).await,
            Self::Store(store) => admin::log(store, filter, &[]).map_err(|error| damaged(&error)),
        }
    }

    /// Figures.
    pub async fn stats(&self, question: &StatsQuestion) -> Result<Vec<StatsLine>, Trouble> {
        match self {
            Self::Daemon(client) => ask(client.get(url("stats")).query(question)).await,
            Self::Store(store) => admin::stats(store, question).map_err(|error| damaged(&error)),
        }
    }

    /// Reports of providers; the daemon knows the retention itself.
    pub async fn events(
        &self,
        filter: &EventFilter,
        retention: impl FnOnce() -> Option<Retention>,
    ) -> Result<Vec<EventView>, Trouble> {
        match self {
            Self::Daemon(client) => ask(client.get(url("events")).query(filter)).await,
            Self::Store(store) => admin::reports(store, filter, retention()).map_err(|error| damaged(&error)),
        }
    }

    /// Events that found no send.
    pub async fn orphans(
        &self,
        filter: &EventFilter,
        retention: impl FnOnce() -> Option<Retention>,
    ) -> Result<Vec<EventView>, Trouble> {
        match self {
            Self::Daemon(client) => ask(client.get(url("events/orphans")).query(filter)).await,
            Self::Store(store) => admin::orphans(store, filter, retention()).map_err(|error| damaged(&error)),
        }
    }

    /// Reports that cannot be understood.
    pub async fn dead(
        &self,
        filter: &EventFilter,
        retention: impl FnOnce() -> Option<Retention>,
    ) -> Result<Vec<EventView>, Trouble> {
        match self {
            Self::Daemon(client) => ask(client.get(url("events/dead")).query(filter)).await,
            Self::Store(store) => admin::dead(store, filter, retention()).map_err(|error| damaged(&error)),
        }
    }

    /// One report with its raw form.
    pub async fn event(&self, id: &str) -> Result<Option<KeptEvent>, Trouble> {
        match self {
            Self::Daemon(client) => ask(client.get(url(&format!("events/{id}")))).await,
            Self::Store(store) => admin::report(store, id, None).map_err(|error| damaged(&error)),
        }
    }

    /// Reads reports anew.
    pub async fn replay(&self, order: &ReplayOrder) -> Result<ReplayAnswer, Trouble> {
        ask(self.running()?.post(url("events/replay")).json(order)).await
    }

    /// Mail from outside.
    pub async fn inbound(&self, filter: &InboundFilter) -> Result<Vec<InboundView>, Trouble> {
        match self {
            Self::Daemon(client) => ask(client.get(url("inbound")).query(filter)).await,
            Self::Store(store) => admin::inbound(store, filter).map_err(|error| damaged(&error)),
        }
    }

    /// One mail from outside with its message.
    pub async fn inbound_mail(&self, id: &str) -> Result<Option<KeptMail>, Trouble> {
        match self {
            Self::Daemon(client) => ask(client.get(url(&format!("inbound/{id}")))).await,
            Self::Store(store) => admin::inbound_mail(store, id).map_err(|error| damaged(&error)),
        }
    }

    /// Delivers mail from outside that was kept back.
    pub async fn release(&self, order: &ReleaseOrder) -> Result<Vec<Released>, Trouble> {
        ask(self.running()?.post(url("inbound/replay")).json(order)).await
    }

    /// A page of the suppression list; `settings` say what it means where no daemon does.
    pub async fn suppressions(
        &self,
        filter: &SuppressionFilter,
        settings: &Settings,
    ) -> Result<SuppressionPage, Trouble> {
        match self {
            Self::Daemon(client) => ask(client.get(url("suppressions")).query(filter)).await,
            Self::Store(store) => admin::suppressions(store, settings, filter, Clock::System.now())
                .map_err(|error| damaged(&error)),
        }
    }

    /// Changes the suppression list.
    pub async fn suppress(&self, order: &SuppressionOrder) -> Result<Vec<SuppressionAct>, Trouble> {
        ask(self.running()?.post(url("suppressions")).json(order)).await
    }

    /// How far the sinks got.
    pub async fn sinks(&self) -> Result<Vec<SinkView>, Trouble> {
        ask(self.running()?.get(url("sinks"))).await
    }

    /// What a sink refused.
    pub async fn refused(&self, sink: &str) -> Result<Vec<RefusedView>, Trouble> {
        ask(self.running()?.get(of_sink(sink, "refused")?)).await
    }

    /// Has a sink told again.
    pub async fn replay_sink(&self, sink: &str, order: &ReplaySink) -> Result<(), Trouble> {
        ask(self.running()?.post(of_sink(sink, "replay")?).json(order)).await
    }

    /// What others who know an address say about it.
    pub async fn hints(&self, address: &str) -> Result<Vec<HintView>, Trouble> {
        match self {
            Self::Daemon(client) => ask(client.get(url("hints")).query(&[("address", address)])).await,
            Self::Store(store) => admin::hints(store, address).map_err(|error| damaged(&error)),
        }
    }

    /// Brings the suppression list and the providers' together.
    pub async fn sync(&self, order: &SyncOrder) -> Result<Lines<SyncLine>, Trouble> {
        follow(self.running()?.post(url("suppressions/sync")).json(order)).await
    }

    /// Has the daemon read all of its store.
    pub async fn verify_store(&self) -> Result<Lines<CareStep>, Trouble> {
        follow(self.running()?.get(url("store/verify"))).await
    }

    /// Has it make its ledger anew.
    pub async fn rebuild_store(&self, order: &RebuildOrder) -> Result<Lines<CareStep>, Trouble> {
        follow(self.running()?.post(url("store/rebuild")).json(order)).await
    }

    /// Has it copy its store.
    pub async fn back_up_store(&self, order: &BackupOrder) -> Result<Lines<CareStep>, Trouble> {
        follow(self.running()?.post(url("store/backup")).json(order)).await
    }

    /// All that is known about an address; `settings` say what stands on the suppression list where no daemon does.
    pub async fn export(&self, address: &Mailbox, settings: &Settings) -> Result<Vec<ExportLine>, Trouble> {
        match self {
            Self::Daemon(client) => {
                ask(client.get(url("export")).query(&[("address", address.as_str())])).await
            }
            Self::Store(store) => {
                let now = Clock::System.now();
                tokio::task::block_in_place(|| admin::export(store, address, settings, now))
                    .map_err(|error| damaged(&error))
            }
        }
    }

    /// Has the daemon erase an address.
    pub async fn erase(&self, order: &EraseOrder) -> Result<Lines<CareStep>, Trouble> {
        follow(self.running()?.post(url("erase")).json(order)).await
    }

    /// Changes what becomes of waiting mail.
    pub async fn order(&self, order: &Order) -> Result<Vec<Act>, Trouble> {
        ask(self.running()?.post(url("queue")).json(order)).await
    }

    /// Has it send a mail of the operator's.
    pub async fn send_test(&self, order: &TestOrder) -> Result<TestAnswer, Trouble> {
        ask(self.running()?.post(url("test")).json(order)).await
    }

    /// How old the waiting mail is.
    pub async fn shape(&self) -> Result<Vec<Shape>, Trouble> {
        ask(self.running()?.get(url("queue/shape"))).await
    }

    /// The upstreams' breakers.
    pub async fn breakers(&self) -> Result<Vec<BreakerView>, Trouble> {
        ask(self.running()?.get(url("breakers"))).await
    }

    /// Opens or closes one.
    pub async fn switch(&self, upstream: &str, order: &BreakerOrder) -> Result<Vec<BreakerView>, Trouble> {
        let mut url = reqwest::Url::parse(&url("breakers/")).map_err(|error| damaged(&error))?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push(upstream);
        }
        ask(self.running()?.post(url).json(order)).await
    }

    /// What only a running daemon can do.
    fn running(&self) -> Result<&reqwest::Client, Trouble> {
        match self {
            Self::Daemon(client) => Ok(client),
            Self::Store(_) => {
                Err(Trouble::Unreachable("no daemon runs; start `mailtrail serve` first".into()))
            }
        }
    }

    fn daemon(socket: &Path) -> Result<Self, Trouble> {
        let failed = |error: &dyn std::fmt::Display| Trouble::Failed(error.to_string());
        let tls = tls::client_config(None).map_err(|error| failed(&error))?;
        let client = reqwest::Client::builder().unix_socket(socket).tls_backend_preconfigured(tls).build();
        client.map(Self::Daemon).map_err(|error| failed(&error))
    }
}

fn opened(data_dir: &Path, socket: &Path) -> Result<(Store, OpenReport), Trouble> {
    Store::open_for_reading(data_dir, Clock::System).map_err(|error| unusable(&error, socket))
}

/// Who changes a store here, as the daemon names whoever asks it.
pub fn operator() -> String {
    format!("uid {}", rustix::process::getuid().as_raw())
}

/// What root writes to a store of another user's that one cannot read, so it would not start any more.
pub fn refuse_another(data_dir: &Path) -> Result<(), Trouble> {
    let Ok(owner) = std::fs::metadata(data_dir) else { return Ok(()) };
    let (uid, gid) = (owner.uid(), owner.gid());
    if !rustix::process::geteuid().is_root() || uid == 0 {
        return Ok(());
    }
    Err(Trouble::Failed(format!(
        "{} is another user's, who could not read what root writes there: while the relay is stopped, run this as that \
         user, setpriv --reuid {uid} --regid {gid} --clear-groups mailtrail …",
        data_dir.display()
    )))
}

fn unusable(error: &OpenError, socket: &Path) -> Trouble {
    match error {
        OpenError::Projection { .. } | OpenError::Newer(_) | OpenError::Unreadable { .. } => {
            Trouble::Damaged(error.to_string())
        }
        error => Trouble::Unreachable(format!(
            "no daemon answers on {}, and the store cannot be read: {error}",
            socket.display()
        )),
    }
}

fn url(question: &str) -> String {
    format!("http://localhost/api/v1/{question}")
}

fn of_sink(sink: &str, what: &str) -> Result<reqwest::Url, Trouble> {
    let mut url = reqwest::Url::parse(&url("sinks/")).map_err(|error| damaged(&error))?;
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend([sink, what]);
    }
    Ok(url)
}

async fn follow<T>(request: reqwest::RequestBuilder) -> Result<Lines<T>, Trouble> {
    Ok(Lines { response: answered(request).await?, heard: Vec::new(), line: PhantomData })
}

async fn ask<T: DeserializeOwned>(request: reqwest::RequestBuilder) -> Result<T, Trouble> {
    answered(request).await?.json().await.map_err(unreachable)
}

async fn answered(request: reqwest::RequestBuilder) -> Result<Response, Trouble> {
    let response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    if !status.is_success() {
        let text = response.text().await.unwrap_or_default();
        return Err(if status.is_client_error() { Trouble::Usage(text) } else { Trouble::Damaged(text) });
    }
    Ok(response)
}

fn unreachable(error: reqwest::Error) -> Trouble {
    Trouble::Unreachable(format!("the daemon does not answer: {}", error.without_url()))
}

fn damaged(error: &dyn std::fmt::Display) -> Trouble {
    Trouble::Damaged(error.to_string())
}
