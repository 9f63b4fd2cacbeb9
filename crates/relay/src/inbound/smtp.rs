use crate::inbound::message::{InboundMessage, corruption_of};
use crate::inbound::response::TargetResponse;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use mailtrail_mail::{BodyType, Envelope};
use mailtrail_net::transport::{Connection, DataError, Pipelining, Protocol, Security, circuit_breaker};
use mailtrail_net::{HostAddresses, tls, transport};
use mailtrail_smtp::{Decoder, Response};
use mailtrail_trail::provider::Provider;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

/// Settings of a mail server as a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmtpSettings {
    /// SMTP or LMTP.
    pub protocol: Protocol,
    /// Host; its certificate must carry this name.
    pub host: String,
    /// TCP port. Default 25; LMTP: 24.
    pub port: u16,
    /// How the connection is protected. Default STARTTLS.
    pub security: Security,
    /// Additional CA certificates (PEM).
    pub ca_file: Option<PathBuf>,
    /// Login, if the server requires one.
    pub login: Option<transport::Login>,
}

pub struct SmtpTarget {
    settings: transport::Settings,
    protocol: Protocol,
    hostname: String,
    addresses: HostAddresses,
}

impl SmtpTarget {
    pub fn new(settings: SmtpSettings, hostname: String) -> Self {
        let SmtpSettings { protocol, host, port, security, ca_file, login } = settings;
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
            quota_limit: None,
            breaker: circuit_breaker::BreakerSettings::default(),
            timeouts: Default::default(),
        };
        Self { settings, protocol, hostname, addresses: HostAddresses::default() }
    }

    /// Delivers over a connection of its own, so that no reply can belong to another message.
    pub async fn deliver(&self, letter: &InboundMessage) -> TargetResponse {
        let tls = match tls::build_connector(self.settings.ca_file.as_deref()) {
            Ok(tls) => tls,
            Err(error) => return TargetResponse::Unavailable(error.to_string()),
        };
        let (addresses, settings) = (&self.addresses, &self.settings);
        let opened = Connection::open_with(self.protocol, addresses, settings, &tls, &self.hostname).await;
        let mut connection = match opened {
            Ok(connection) => connection,
            Err(fault) => return TargetResponse::Unavailable(fault.to_string()),
        };
        let verdict = deliver_over(&mut connection, letter).await;
        connection.quit().await;
        verdict
    }
}

async fn deliver_over(connection: &mut Connection, letter: &InboundMessage) -> TargetResponse {
    let arrival = &letter.mail.received;
    let addresses = || arrival.sender.iter().chain([&arrival.recipient]);
    let envelope = Envelope {
        sender: arrival.sender.clone(),
        recipients: vec![arrival.recipient.clone()],
        body: BodyType::EightBitMime,
        smtputf8: addresses().any(|address| !address.is_ascii()),
        ..Envelope::default()
    };
    let replies = match connection.send_envelope(&envelope, letter.size()).await {
        Ok(replies) => replies,
        Err(fault) => return TargetResponse::Unavailable(fault.to_string()),
    };
    if !replies.may_send_data() {
        let said = std::iter::once(&replies.mail).chain(&replies.recipients).chain(&replies.data);
        let refusal = said.into_iter().find(|reply| reply.is_negative());
        return match (refusal, replies.error) {
            (Some(refusal), _) => classify_refusal(refusal),
            (None, Some(fault)) => TargetResponse::Unavailable(fault.to_string()),
            (None, None) => {
                TargetResponse::Unavailable("it took the envelope and wants no message".to_owned())
            }
        };
    }
    let sent = match connection.send_body(normalize_crlf(letter.pieces())).await {
        Ok(()) => connection.finish_data(None).await,
        Err(fault) => Err(fault),
    };
    match sent {
        Ok(reply) if reply.is_positive() => TargetResponse::Accepted(reply.to_string()),
        Ok(reply) | Err(DataError::Rejected(reply)) => classify_refusal(&reply),
        Err(DataError::BodyUnreadable(error)) => corruption_of(&error)
            .map_or_else(|| TargetResponse::Deferred(error.to_string()), TargetResponse::Rejected),
        Err(DataError::BeforeEnd(fault) | DataError::AfterEnd(fault)) => {
            TargetResponse::Unavailable(fault.to_string())
        }
    }
}

fn classify_refusal(reply: &Response) -> TargetResponse {
    match reply.code {
        421 => TargetResponse::Unavailable(reply.to_string()),
        400..500 => TargetResponse::Deferred(reply.to_string()),
        _ => TargetResponse::Rejected(reply.to_string()),
    }
}

/// With CRLF line ends, as SMTP has them, and one at the end.
fn normalize_crlf(
    pieces: impl Stream<Item = io::Result<Bytes>> + Send,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    struct CrlfState<S> {
        pieces: Pin<Box<S>>,
        decoder: Decoder,
        is_finished: bool,
    }
    let state =
        CrlfState { pieces: Box::pin(pieces), decoder: Decoder::for_bdat(u64::MAX), is_finished: false };
    stream::unfold(state, |mut state| async move {
        if state.is_finished {
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
                state.is_finished = true;
                state.decoder.finish(&mut out);
                Ok(out.into())
            }
        };
        Some((piece, state))
    })
}
