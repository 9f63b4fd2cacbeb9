//! Settings of an Odoo sink, and its server action.

use mailtrail_net::odoo;
use mailtrail_net::odoo::{OdooInstance, ServerAction};

/// Settings of an Odoo sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OdooSettings {
    /// URL and credentials.
    pub login: odoo::OdooConnection,
    /// Odoo instance whose mail is reported.
    pub instance: OdooInstance,
    /// Reporting mode.
    pub mode: OdooMode,
    /// Id of the server action; `None`: it is found by its name.
    pub action_id: Option<u64>,
    /// Reported statuses.
    pub status_options: OdooStatusOptions,
    /// Our host name, for DSNs.
    pub hostname: String,
}

/// Mode of reporting to Odoo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OdooMode {
    /// Server action.
    Action,
    /// DSNs through the mail gateway, for failures only.
    Dsn,
}

/// Server action that shows events.
pub const EVENTS_ACTION: ServerAction = ServerAction {
    key: "events",
    name: "mailtrail: what became of the mail",
    code: include_str!("action.py"),
    version: 2,
};

/// Statuses shown in Odoo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OdooStatusOptions {
    /// Relayed mail is `pending`, which Odoo displays as "Sent".
    pub relayed: bool,
    /// Delivered mail is `sent`, which Odoo displays as "Delivered".
    pub delivered: bool,
    /// Permanently refused mail is `bounce`, and is counted as one.
    pub bounced: bool,
    /// Expired or unsent mail is `exception`.
    pub failed: bool,
    /// A mailing's trace is set to opened.
    pub opened: bool,
    /// A mailing's trace is set to clicked.
    pub clicked: bool,
    /// Complaining recipients are blacklisted.
    pub complained: bool,
    /// Handling of unsubscribed recipients.
    pub unsubscribed: Option<UnsubscribeAction>,
    /// Failures, complaints and unsubscriptions add a note to the record.
    pub note: bool,
}

/// Handling of unsubscribed recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsubscribeAction {
    /// Opt-out from the mailing's lists; for mail to no list, as `Blacklist`.
    OptOut,
    /// Exclusion from all mailings.
    Blacklist,
}

impl Default for OdooStatusOptions {
    /// Returns all options except notes.
    fn default() -> Self {
        Self {
            relayed: true,
            delivered: true,
            bounced: true,
            failed: true,
            opened: true,
            clicked: true,
            complained: true,
            unsubscribed: Some(UnsubscribeAction::OptOut),
            note: false,
        }
    }
}

impl UnsubscribeAction {
    /// Returns the word used in the configuration and in the action.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OptOut => "opt-out",
            Self::Blacklist => "blacklist",
        }
    }
}
