//! Bringing our suppression list and the providers' together: the answer tells what is done while it is done, one JSON
//! object a line.

use crate::admin::audit_log;
use crate::admin::error::{Refusal, refuse};
use crate::admin::state::{Operator, Panel};
use crate::suppression_sync::{Act, Order, Step};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use tokio::sync::mpsc;

/// Whose lists are brought together with ours.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SyncOrder {
    /// That upstream's; absent: those of all whose account is known.
    pub upstream: Option<String>,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// What is happening, and for which upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SyncLine {
    /// The upstream.
    pub upstream: String,
    /// What.
    #[serde(flatten)]
    pub step: SyncStep,
}

/// What is happening.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum SyncStep {
    /// The provider's lists are being read.
    Read {
        /// Entries so far.
        entries: u64,
    },
    /// Entries of the provider's cannot be read. They are passed over, and nothing is ended.
    Unread {
        /// How many.
        unread: u64,
        /// The first of them, and why.
        first: String,
    },
    /// The provider takes no more requests for a while.
    Waiting {
        /// For so long.
        seconds: u64,
    },
    /// Something is done about an address or, with `dry_run`, would be.
    Act {
        /// The address, in lower case.
        address: String,
        /// `hard-bounce`, `complaint` or `unsubscribe`.
        reason: String,
        /// `taken-in` and `ended` on our list, `added-there` and `removed-there` on the provider's.
        act: String,
        /// Why the provider does not want it, where that is so.
        why: Option<String>,
    },
    /// Both lists are as they are to be.
    Done,
    /// It broke off.
    Failed {
        /// Why.
        error: String,
    },
}

/// Begins it; the answer ends when it has.
pub(super) async fn sync(
    State(panel): State<Panel>,
    ConnectInfo(Operator(operator)): ConnectInfo<Operator>,
    Json(order): Json<SyncOrder>,
) -> Response {
    let upstreams = match upstreams(&panel, order.upstream) {
        Ok(upstreams) => upstreams,
        Err(refusal) => return refuse(&refusal),
    };
    let order = Order { operator, reason: audit_log::noted(&order.reason), dry_run: order.dry_run };
    let (lines, heard) = mpsc::channel(LINES);
    // It is carried out to its end, also when whoever asked has gone.
    tokio::spawn(async move {
        for upstream in upstreams {
            sync_one(&panel, upstream, &order, &lines).await;
        }
    });
    let next = async |mut heard: mpsc::Receiver<SyncLine>| {
        let mut line = serde_json::to_string(&heard.recv().await?).unwrap_or_default();
        line.push('\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), heard))
    };
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream::unfold(heard, next))).into_response()
}

fn upstreams(panel: &Panel, wanted: Option<String>) -> Result<Vec<String>, Refusal> {
    match wanted {
        Some(name) if !panel.upstreams.iter().any(|health| health.name() == name) => {
            Err(Refusal::NoUpstream(name))
        }
        Some(name) => Ok(vec![name]),
        None => match panel.sync.upstreams() {
            none if none.is_empty() => Err(Refusal::Senseless(
                "no upstream's provider can be asked for its lists: that needs the account's api_key (and domain, for Mailgun)",
            )),
            all => Ok(all),
        },
    }
}

async fn sync_one(panel: &Panel, upstream: String, order: &Order, lines: &mpsc::Sender<SyncLine>) {
    let (steps, mut heard) = mpsc::channel::<Step>(LINES);
    let tell = async |step| {
        // Whoever asked may have gone.
        let _ = lines.send(SyncLine { upstream: upstream.clone(), step }).await;
    };
    let told = async {
        while let Some(step) = heard.recv().await {
            tell(step.into()).await;
        }
    };
    let synced = async {
        let synced = panel.sync.sync(&upstream, order, &steps).await;
        drop(steps);
        synced
    };
    let end = match tokio::join!(synced, told).0 {
        Ok(()) => SyncStep::Done,
        Err(trouble) => SyncStep::Failed { error: trouble.to_string() },
    };
    tell(end).await;
}

impl From<Step> for SyncStep {
    fn from(step: Step) -> Self {
        match step {
            Step::Read(entries) => Self::Read { entries },
            Step::Unread(unread, first) => Self::Unread { unread, first },
            Step::Waiting(wait) => Self::Waiting { seconds: wait.as_secs() },
            Step::Done(Act { address, reason, deed, refused }) => {
                let (reason, act) = (reason.word().to_owned(), deed.word().to_owned());
                Self::Act { address, reason, act, why: refused }
            }
        }
    }
}

/// Lines that may wait for whoever asked.
const LINES: usize = 256;
