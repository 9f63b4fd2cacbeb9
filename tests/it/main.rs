//! Integration tests of the program: whole relays over real sockets, in this process or in one of their own.
//!
//! All tests share this process and run in parallel. A test that needs a process of its own is a program beside this
//! folder, with the reason in its first line. Harnesses and mock servers are in `testkit`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

/// The structure of the code.
mod code {
    mod module_cycles;
}

/// Mail that clients submit: SMTP, TLS, authentication, limits.
mod submission {
    mod client_programs;
    mod dialogues;
    mod large_messages;
    mod listeners;
    mod odoo_mail;
    mod properties;
    mod quotas;
    mod sendmail;
    mod tls;
}

/// Mail that goes to upstreams, and what they and their APIs answer.
mod relay {
    mod delivery;
    mod dsn;
    mod host_addresses;
    mod mailgun_api;
    mod provider_api;
    mod routing;
    mod suppression;
    mod suppression_sync;
    mod unusual_replies;
    mod upstream_faults;
    mod upstream_tls;
}

/// Events of providers, received or polled.
mod webhooks {
    mod activecampaign;
    mod brevo;
    mod brevo_sandbox;
    mod brevo_statistics;
    mod listener;
    mod mailgun;
    mod reconcile;
    mod sources;
    mod tls;
}

/// Inbound mail, received over HTTP and delivered to its target.
mod inbound {
    mod delivery;
    mod retry;
}

/// Event sinks.
mod sinks {
    mod http;
    mod odoo;
}

/// The admin API, the web page and the metrics.
mod admin {
    mod metrics;
    mod openapi;
    mod web_page;
}

/// Commands and configuration.
mod cli {
    mod config;
    mod doctor;
    mod events;
    mod json_lines;
    mod lookups;
    mod personal_data;
    mod queue;
    mod send_test;
    mod setup;
    mod store;
    mod terminal;
}

/// Operation: start, reload, restart, crash, alarms, shortages, packaging.
mod ops {
    mod alarms;
    mod damage;
    mod full_disk;
    mod journald;
    mod kill;
    mod package;
    mod reload;
    mod resources;
    mod restart;
    mod systemd;
    mod upgrade;
}
