use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use mailtrail_mail::HeaderLine;
use mailtrail_store::StoredBody;
use mailtrail_trail::InboundSummary;
use std::io;

/// An inbound message as a target receives it: with added header lines that name the recipient and the message.
pub struct InboundMessage {
    /// Stored summary of the message.
    pub mail: InboundSummary,
    added_headers: Bytes,
    message: StoredBody,
}

impl InboundMessage {
    /// Adds a Message-ID to a message without one, so that a repeated delivery is recognizable.
    pub fn new(mail: InboundSummary, message: StoredBody, hostname: &str) -> Self {
        let arrival = &mail.received;
        let mut lines = vec![HeaderLine::new("Delivered-To", arrival.recipient.as_str())];
        if arrival.message_id.is_none() {
            lines.push(HeaderLine::new("Message-ID", &format!("<{}@{hostname}>", arrival.id)));
        }
        let front: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        Self { mail, added_headers: front.into(), message }
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.added_headers.len() as u64 + self.message.size()
    }

    /// All of it, from its start, read off the runtime's threads; an error of the kind [`io::ErrorKind::InvalidData`] where
    /// it is damaged.
    pub fn pieces(&self) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        stream::iter([Ok(self.added_headers.clone())]).chain(self.message.chunks())
    }

    /// Its beginning: some KiB, or more.
    pub async fn read_head(&self) -> io::Result<Vec<u8>> {
        let mut pieces = std::pin::pin!(self.pieces().take(2));
        let mut beginning = Vec::new();
        while let Some(piece) = pieces.next().await {
            beginning.extend_from_slice(&piece?);
        }
        Ok(beginning)
    }
}

/// Returns the reason if the stored message is damaged.
pub fn corruption_of(error: &io::Error) -> Option<String> {
    (error.kind() == io::ErrorKind::InvalidData).then(|| "what is kept of it is damaged".to_owned())
}
