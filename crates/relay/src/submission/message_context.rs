//! The message and session that a header cleanup applies to.

use crate::submission::rounds::RelayHistory;
use mailtrail_mail::{HeaderCleanup, Timestamp, TrackingId};
use mailtrail_smtp::Account;
use mailtrail_trail::Routing;
use mailtrail_trail::provider::Provider;
use std::net::IpAddr;

/// Facts about a message besides its bytes.
pub struct MessageContext<'a> {
    /// The send's new id.
    pub id: TrackingId,
    /// When the message was complete.
    pub now: Timestamp,
    /// Host name of the relay.
    pub hostname: &'a str,
    /// Where the client is.
    pub peer: IpAddr,
    /// The name it gave.
    pub client_name: &'a str,
    /// How the mail came (RFC 3848).
    pub protocol: &'static str,
    /// The user, if logged in.
    pub account: Option<&'a Account>,
    /// Changes to its header.
    pub cleanup: &'a HeaderCleanup,
    /// The providers that the mail may go to.
    pub providers: &'a [Provider],
    /// Which mail goes where.
    pub routing: &'a Routing,
    /// Whether senders get reports.
    pub dsn_enabled: bool,
    /// Whether the duplicate check is on.
    pub needs_fingerprint: bool,
    /// Its earlier rounds through this relay.
    pub relay_history: &'a RelayHistory,
}

/// Bytes reserved in front of a message while it is received, so that our header lines need no second buffer.
pub const HEADER_HEADROOM: usize = 2048;
