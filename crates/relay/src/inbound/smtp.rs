use crate::inbound::Verdict;
use crate::inbound::message::{Letter, damage};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use mailtrail_mail::{BodyType, Envelope};
use mailtrail_net::transport::{Connection, ContentFault, Dialect, Pipelining, Security, circuit_breaker};
use mailtrail_net::{Addresses, tls, transport};
use mailtrail_smtp::{Decoder, Response};
use mailtrail_trail::provider::Provider;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

/// A mail server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmtpSettings {
    /// What it speaks.
    pub dialect: Dialect,
    /// Host; its certificate must carry this name.
    pub host: String,
    /// TCP port. Default 25; LMTP: 24.
    pub port: u16,
    /// How the connection is protected. Default STARTTLS.
    pub security: Security,
    /// An extra trust anchor (PEM) beside the well-known ones.
    pub ca_file: Option<PathBuf>,
    /// Login, where it asks for one.
    pub login: Option<transport::Login>,
}

pub struct SmtpTarget {
    settings: transport::Settings,
    dialect: Dialect,
    hostname: String,
    addresses: Addresses,
}

impl SmtpTarget {
    pub fn new(settings: SmtpSettings, hostname: String) -> Self {
        let SmtpSettings { dialect, host, port, security, ca_file, login } = settings;
        let settings = transport::Settings {
            name: host.clone(),
            provider: Provider::Plain,
            domain: None,
            host,
            port,
            security,
            ca_file,
            login,
            api: None,
            connections: 1,
            pipelining: Pipelining::Off,
            idle_timeout: Duration::ZERO,
            connection_age: Duration::ZERO,
            messages_per_connection: 1,
            rate: None,
            plan: None,
            breaker: circuit_breaker::Settings::default(),
            timeouts: Default::default(),
        };
        Self { settings, dialect, hostname, addresses: Addresses::default() }
    }

    /// A connection for each mail: what it says of one is about no other.
    pub async fn deliver(&self, letter: &Letter) -> Verdict {
        let tls = match tls::connector(self.settings.ca_file.as_deref()) {
            Ok(tls) => tls,
            Err(error) => return Verdict::Away(error.to_string()),
        };
        let (addresses, settings) = (&self.addresses, &self.settings);
        let opened = Connection::open_as(self.dialect, addresses, settings, &tls, &self.hostname).await;
        let mut connection = match opened {
            Ok(connection) => connection,
            Err(fault) => return Verdict::Away(fault.to_string()),
        };
        let verdict = converse(&mut connection, letter).await;
        connection.quit().await;
        verdict
    }
}

async fn converse(connection: &mut Connection, letter: &Letter) -> Verdict {
    let arrival = &letter.mail.arrival;
    let addresses = || arrival.sender.iter().chain([&arrival.recipient]);
    let envelope = Envelope {
        sender: arrival.sender.clone(),
        recipients: vec![arrival.recipient.clone()],
        body: BodyType::EightBitMime,
        smtputf8: addresses().any(|address| !address.is_ascii()),
        ..Envelope::default()
    };
    let replies = match connection.envelope(&envelope, letter.size()).await {
        Ok(replies) => replies,
        Err(fault) => return Verdict::Away(fault.to_string()),
    };
    if !replies.go_ahead() {
        let said = std::iter::once(&replies.mail).chain(&replies.recipients).chain(&replies.data);
        let refusal = said.into_iter().find(|reply| reply.is_negative());
        return match (refusal, replies.broken) {
            (Some(refusal), _) => refused(refusal),
            (None, Some(fault)) => Verdict::Away(fault.to_string()),
            (None, None) => Verdict::Away("it took the envelope and wants no message".to_owned()),
        };
    }
    let sent = match connection.body(whole_lines(letter.pieces())).await {
        Ok(()) => connection.end_of_data(None).await,
        Err(fault) => Err(fault),
    };
    match sent {
        Ok(reply) if reply.is_positive() => Verdict::Taken(reply.to_string()),
        Ok(reply) | Err(ContentFault::Refused(reply)) => refused(&reply),
        Err(ContentFault::Unreadable(error)) => {
            damage(&error).map_or_else(|| Verdict::Later(error.to_string()), Verdict::Refused)
        }
        Err(ContentFault::Before(fault) | ContentFault::After(fault)) => Verdict::Away(fault.to_string()),
    }
}

fn refused(reply: &Response) -> Verdict {
    match reply.code {
        421 => Verdict::Away(reply.to_string()),
        400..500 => Verdict::Later(reply.to_string()),
        _ => Verdict::Refused(reply.to_string()),
    }
}

/// With CRLF line ends, as SMTP has them, and one at the end.
fn whole_lines(
    pieces: impl Stream<Item = io::Result<Bytes>> + Send,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    struct State<S> {
        pieces: Pin<Box<S>>,
        decoder: Decoder,
        ended: bool,
    }
    let state = State { pieces: Box::pin(pieces), decoder: Decoder::of_chunks(u64::MAX), ended: false };
    stream::unfold(state, |mut state| async move {
        if state.ended {
            return None;
        }
        let mut out = Vec::new();
        let piece = match state.pieces.next().await {
            Some(Ok(piece)) => {
                state.decoder.feed(&piece, &mut out);
                Ok(out.into())
            }
            Some(Err(error)) => Err(error),
            None => {
                state.ended = true;
                state.decoder.finish(&mut out);
                Ok(out.into())
            }
        };
        Some((piece, state))
    })
}
