//! mailtrail: every mail your applications send, and what became of it.
//!
//! # The two flows
//!
//! ```text
//! applications --SMTP--> submission --> [journal -> ledger] --> queue --> transport --SMTP, HTTPS--> provider
//!                                                 ^                                                     |
//!                                                 '------------------ webhook <----------HTTPS----------'
//! ```
//!
//! What stands in brackets lives in the [`store`] and survives `kill -9` and power cuts. The tasks never call each
//! other: they commit to the store and ring a bell that may be lost. [`admin`] reads the store for the command line.
//!
//! # The rows
//!
//! A module imports from lower rows only, never from its own or a higher one; its own submodules are free. This
//! table, the lowest row first, is what `tests/rows.rs` enforces.
//!
//! | row | modules | may touch |
//! |---|---|---|
//! | basics | `addresses`, `cause`, `clock`, `descriptors`, `measure`, `probe`, `rate`, `secret`, `strangers`, `wakeup` | nothing of ours |
//! | values | `id`, `mail` | basics |
//! | words | `event` | values |
//! | rules | `ledger`, `provider`, `routing`, `smtp`, `suppression` | no socket, file, runtime or database |
//! | resources | `account`, `alarm`, `http_server`, `logging`, `odoo`, `pulse`, `store`, `tls`, `transport` | IO, no policy about mail |
//! | views | `dsn`, `endpoint`, `line`, `own_mail` | resources |
//! | errands | `sync` | what several tasks have done; resources |
//! | tasks | `admin`, `audit`, `census`, `heartbeat`, `herald`, `inbound`, `monitor`, `queue`, `reconcile`, `report`, `sink`, `submission`, `webhook` | rules and resources, never each other |
//! | composition | `config`, `sandbox` | everything below |
//! | relay | `daemon`, `doctor` | everything below |
//! | command | `cli` | everything below |
//! | program | `main` | everything below |
//!
//! # Where events find their sends
//!
//! Correlation is no task with a cursor of its own. It happens when a record of the journal is applied to the ledger
//! (`store/sled/apply.rs`), as a pure function of the rows and the record. The ledger is therefore a function of the
//! journal's order alone: a replay after a crash, or a rebuild from nothing, joins the same events to the same sends
//! and counts nothing twice. An event that comes before its send is kept as an orphan, and the record that accepts
//! the send adopts it. Whatever the order in which events come, they end at the same sends and leave the same marks
//! (`tests/properties/correlation.rs`); the one exception stands at `find` in that file.
//!
//! A report that is genuine and cannot be understood is a dead letter. Reports are kept in their raw form, so a later
//! version may read them anew: `mailtrail events replay`.

pub mod account;
pub mod addresses;
pub mod admin;
pub mod alarm;
pub mod audit;
pub mod cause;
pub mod census;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod descriptors;
pub mod doctor;
pub mod dsn;
pub mod endpoint;
pub mod event;
pub mod heartbeat;
pub mod herald;
pub mod http_server;
pub mod id;
pub mod inbound;
pub mod ledger;
pub mod line;
pub mod logging;
pub mod mail;
pub mod measure;
pub mod monitor;
pub mod odoo;
pub mod own_mail;
pub mod probe;
pub mod provider;
pub mod pulse;
pub mod queue;
pub mod rate;
pub mod reconcile;
pub mod report;
pub mod routing;
pub mod sandbox;
pub mod secret;
pub mod sink;
pub mod smtp;
pub mod store;
pub mod strangers;
pub mod submission;
pub mod suppression;
pub mod sync;
pub mod tls;
pub mod transport;
pub mod wakeup;
pub mod webhook;

/// Rows and messages come and go by the thousand on several threads, which glibc's allocator answers with a fifth of
/// the processor's time and with memory that it does not give back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
