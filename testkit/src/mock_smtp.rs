//! Scripted SMTP server. It shares no code with the relay.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Reaction of the server at one step.
#[derive(Clone, Debug)]
pub enum SmtpAction {
    /// Sends this reply line.
    Reply(&'static str),
    /// Sends this reply line and closes.
    ReplyAndClose(&'static str),
    /// Closes without a reply.
    Close,
    /// Sends this text, of any length.
    ReplyText(String),
    /// Resets the connection; bytes in flight are lost.
    Reset,
    /// Neither reads nor writes any more, and keeps the connection open.
    Hang,
    /// Like [`Self::Hang`], after accepting the message.
    AcceptAndHang,
    /// Reads a little every five seconds, up to the final dot.
    ReadSlowly,
    /// Sends the default reply byte by byte and continues.
    ReplySlowly,
    /// Shuts down its sending side and continues to read.
    HalfClose,
    /// Sends one reply line without an end.
    EndlessLine,
    /// Sends reply lines without an end.
    EndlessReply,
    /// Sends a positive reply of the wrong class.
    WrongClass,
    /// Sends the default reply and discards the pipelined bytes.
    DropPipelined,
    /// Sends the default reply and discards the first half of the pipelined bytes.
    DropHalfPipelined,
}

/// Step of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpStep {
    Banner,
    Ehlo,
    Helo,
    /// The reply to STARTTLS, before the handshake.
    StartTls,
    /// After the reply to STARTTLS.
    Handshake,
    Auth,
    Mail,
    Rcpt,
    Data,
    /// After some bytes of the message, before its dot.
    Body,
    /// After the final dot.
    Dot,
    /// After the reply to a final dot, unsolicited.
    AfterReply,
    Rset,
    Quit,
}

/// Scripted actions, limits and recorded traffic. Actions of a step are used up in order; afterwards the server sends its
/// default replies, which accept everything.
#[derive(Default)]
pub struct SmtpScript {
    actions: Vec<(SmtpStep, VecDeque<Option<SmtpAction>>)>,
    recipients: Vec<(&'static str, VecDeque<SmtpAction>)>,
    /// Action at one step of every transaction of this sender.
    pub for_sender: Option<(&'static str, SmtpStep, SmtpAction)>,
    /// Lines of the EHLO reply after the first.
    pub capabilities: Vec<&'static str>,
    /// Accepts DATA although no recipient was accepted.
    pub accepts_data_without_recipients: bool,
    /// Action at every MAIL that is followed by pipelined commands.
    pub pipelined_after_mail: Option<SmtpAction>,
    /// Action at every final dot that is followed by pipelined commands.
    pub pipelined_after_dot: Option<SmtpAction>,
    /// Certificate for STARTTLS.
    pub tls: Option<TlsAcceptor>,
    /// TLS from the first byte.
    pub implicit_tls: bool,
    /// Plaintext after the reply to STARTTLS.
    pub injected_plaintext: &'static str,
    /// Messages per period, and the reply to MAIL beyond that.
    pub message_limit: Option<(usize, Duration, &'static str)>,
    /// Recipients of a transaction and the reply beyond that: at RCPT to each excess recipient, at DATA or after the final
    /// dot to all.
    pub recipient_limit: Option<(SmtpStep, usize, &'static str)>,
    limit_window: Option<(Instant, usize)>,
    /// Replies that were sent after more pipelined bytes had arrived.
    pub early_replies: usize,
    /// Final dots that were followed by pipelined commands.
    pub pipelined_transactions: usize,
    /// Number of accepted connections, reads and slowly sent bytes.
    pub events: usize,
    /// TLS handshakes in progress.
    pub handshakes: usize,
    commands: Vec<String>,
    pub accepted: Vec<AcceptedMail>,
    connections: usize,
    hung_sessions: usize,
}

/// Message whose final dot got a positive reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedMail {
    pub connection: usize,
    pub recipients: Vec<String>,
    pub message: Vec<u8>,
}

/// Running server.
#[derive(Clone)]
pub struct MockSmtpServer {
    pub address: SocketAddr,
    script: Arc<Mutex<SmtpScript>>,
    released: Arc<Notify>,
}

impl MockSmtpServer {
    pub async fn start(script: SmtpScript) -> Self {
        let (server, socket) = Self::refusing(script);
        server.serve(socket.listen(1024).unwrap());
        server
    }

    /// Returns a server that refuses connections, and the socket for [`Self::serve`].
    pub fn refusing(script: SmtpScript) -> (Self, TcpSocket) {
        let socket = TcpSocket::new_v4().unwrap();
        // Few bytes are in flight when the server stops to read.
        socket.set_recv_buffer_size(1 << 16).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        let released = Arc::default();
        (Self { address, script: Arc::new(Mutex::new(script)), released }, socket)
    }

    /// Accepts connections, also those in the backlog.
    pub fn serve(&self, listener: TcpListener) {
        let listening = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = listening.with_script(|script| {
                    script.events += 1;
                    script.connections += 1;
                    script.connections
                });
                tokio::spawn(MockSession::new(listening.clone(), number).run(stream));
            }
        });
    }

    /// Reads or changes the script.
    pub fn with_script<T>(&self, look: impl FnOnce(&mut SmtpScript) -> T) -> T {
        look(&mut self.script.lock().unwrap())
    }

    pub fn accepted(&self) -> Vec<AcceptedMail> {
        self.with_script(|script| script.accepted.clone())
    }

    /// Returns all received command lines, each after the number of its connection.
    pub fn commands(&self) -> Vec<String> {
        self.with_script(|script| script.commands.clone())
    }

    /// Returns the number of hung sessions.
    pub fn hung_sessions(&self) -> usize {
        self.with_script(|script| script.hung_sessions)
    }

    /// Closes all hung sessions.
    pub fn close_hung_sessions(&self) {
        self.released.notify_waiters();
    }

    pub fn connections(&self) -> usize {
        self.with_script(|script| script.connections)
    }
}

impl SmtpScript {
    /// Script of a server with PIPELINING, SIZE and 8BITMIME.
    pub fn new() -> Self {
        Self { capabilities: vec!["PIPELINING", "SIZE 0", "8BITMIME"], ..Self::default() }
    }

    /// Adds actions for a step; `None` is the default reply.
    pub fn on(mut self, at: SmtpStep, acts: impl IntoIterator<Item = Option<SmtpAction>>) -> Self {
        self.add_actions(at, acts);
        self
    }

    pub fn add_actions(&mut self, at: SmtpStep, acts: impl IntoIterator<Item = Option<SmtpAction>>) {
        match self.actions.iter_mut().find(|(known, _)| *known == at) {
            Some((_, queue)) => queue.extend(acts),
            None => self.actions.push((at, acts.into_iter().collect())),
        }
    }

    /// Returns whether all actions of a step were used.
    pub fn is_done(&self, at: SmtpStep) -> bool {
        self.actions.iter().all(|(known, queue)| *known != at || queue.is_empty())
    }

    /// Removes the unused actions of a step and returns their number.
    pub fn take_pending(&mut self, at: SmtpStep) -> usize {
        let queue = self.actions.iter_mut().find(|(known, _)| *known == at);
        queue.map_or(0, |(_, queue)| std::mem::take(queue).len())
    }

    /// Sets the actions for a recipient; the last one repeats.
    pub fn on_recipient(
        mut self,
        recipient: &'static str,
        acts: impl IntoIterator<Item = SmtpAction>,
    ) -> Self {
        self.replace_recipient_actions(recipient, acts);
        self
    }

    /// Replaces the actions for a recipient.
    pub fn replace_recipient_actions(
        &mut self,
        recipient: &'static str,
        acts: impl IntoIterator<Item = SmtpAction>,
    ) {
        self.recipients.retain(|(known, _)| *known != recipient);
        self.recipients.push((recipient, acts.into_iter().collect()));
    }

    /// Returns the reply if this message exceeds the limit.
    fn limit_reply(&mut self) -> Option<&'static str> {
        let (most, time, refusal) = self.message_limit?;
        let (since, begun) =
            self.limit_window.filter(|(since, _)| since.elapsed() < time).unwrap_or((Instant::now(), 0));
        self.limit_window = Some((since, (begun + 1).min(most)));
        (begun == most).then_some(refusal)
    }

    fn next_action(&mut self, at: SmtpStep, sender: &str) -> Option<SmtpAction> {
        if let Some((odd, step, act)) = &self.for_sender
            && (*odd, *step) == (sender, at)
        {
            return Some(act.clone());
        }
        self.actions.iter_mut().find(|(known, _)| *known == at)?.1.pop_front()?
    }

    fn next_recipient_action(&mut self, recipient: &str) -> Option<SmtpAction> {
        let (_, acts) = self.recipients.iter_mut().find(|(known, _)| *known == recipient)?;
        if acts.len() > 1 { acts.pop_front() } else { acts.front().cloned() }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// Returns the TCP socket below.
    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Stream for TlsStream<Box<dyn Stream>> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0.socket()
    }
}

/// Session of one connection. `None` as a result ends it.
struct MockSession {
    server: MockSmtpServer,
    number: usize,
    unread: Vec<u8>,
    sender: String,
    recipients: Vec<String>,
    in_transaction: bool,
}

impl MockSession {
    fn new(server: MockSmtpServer, number: usize) -> Self {
        let (unread, sender, recipients) = Default::default();
        Self { server, number, unread, sender, recipients, in_transaction: false }
    }

    async fn run(mut self, stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let mut stream: Box<dyn Stream> = Box::new(stream);
        let (implicit, tls) = self.server.with_script(|script| (script.implicit_tls, script.tls.clone()));
        if let Some(tls) = tls.filter(|_| implicit) {
            match self.accept_tls(tls, stream).await {
                Some(secured) => stream = secured,
                None => return,
            }
        }
        if self.answer(&mut stream, SmtpStep::Banner, "220 scripted ready").await.is_none() {
            return;
        }
        while let Some(line) = self.read_line(&mut stream).await {
            let number = self.number;
            let ahead = usize::from(!self.unread.is_empty());
            self.server.with_script(|script| {
                script.early_replies += ahead;
                script.commands.push(format!("{number} {line}"));
            });
            let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
            if verb == "STAR" {
                match self.start_tls(stream).await {
                    Some(secured) => stream = secured,
                    None => return,
                }
            } else if self.execute(&mut stream, &verb, &line).await.is_none() {
                return;
            }
        }
    }

    async fn execute(&mut self, stream: &mut Box<dyn Stream>, verb: &str, line: &str) -> Option<()> {
        match verb {
            "EHLO" => {
                let offers = self.server.with_script(|script| script.capabilities.clone());
                let mut lines = vec!["scripted"];
                lines.extend(offers);
                let last = lines.len() - 1;
                let written = lines.iter().enumerate();
                let text: Vec<_> = written
                    .map(|(i, line)| format!("250{}{line}", if i == last { ' ' } else { '-' }))
                    .collect();
                self.answer(stream, SmtpStep::Ehlo, &text.join("\r\n")).await.map(drop)
            }
            "HELO" => self.answer(stream, SmtpStep::Helo, "250 scripted").await.map(drop),
            "AUTH" => self.answer(stream, SmtpStep::Auth, "235 welcome").await.map(drop),
            "MAIL" => {
                if let Some(refusal) = self.server.with_script(SmtpScript::limit_reply) {
                    return write_reply(stream, refusal).await;
                }
                self.sender = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                let always = self.server.with_script(|script| script.pipelined_after_mail.clone());
                let taken = match always.filter(|_| !self.unread.is_empty()) {
                    Some(act) => self.perform(stream, act, "250 sender ok").await?,
                    None => self.answer(stream, SmtpStep::Mail, "250 sender ok").await?,
                };
                (self.in_transaction, self.recipients) = (taken, Vec::new());
                Some(())
            }
            "RCPT" => self.rcpt(stream, line).await,
            "DATA" => self.data(stream).await,
            "RSET" => {
                (self.in_transaction, self.recipients) = (false, Vec::new());
                self.answer(stream, SmtpStep::Rset, "250 reset").await.map(drop)
            }
            "QUIT" => {
                self.answer(stream, SmtpStep::Quit, "221 bye").await;
                None
            }
            _ => write_reply(stream, "500 what").await,
        }
    }

    async fn rcpt(&mut self, stream: &mut Box<dyn Stream>, line: &str) -> Option<()> {
        let recipient = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        if !self.in_transaction {
            return write_reply(stream, "503 no MAIL").await;
        }
        if let Some(refusal) = self.recipient_limit_reply(SmtpStep::Rcpt, self.recipients.len() + 1) {
            return write_reply(stream, refusal).await;
        }
        let own = self.server.with_script(|script| script.next_recipient_action(&recipient));
        let taken = match own {
            Some(act) => self.perform(stream, act, "250 recipient ok").await?,
            None => self.answer(stream, SmtpStep::Rcpt, "250 recipient ok").await?,
        };
        if taken {
            self.recipients.push(recipient);
        }
        Some(())
    }

    async fn data(&mut self, stream: &mut Box<dyn Stream>) -> Option<()> {
        let regardless = self.server.with_script(|script| script.accepts_data_without_recipients);
        if !regardless && (!self.in_transaction || self.recipients.is_empty()) {
            return write_reply(stream, "503 nobody").await;
        }
        if let Some(refusal) = self.recipient_limit_reply(SmtpStep::Data, self.recipients.len()) {
            return write_reply(stream, refusal).await;
        }
        if !self.answer(stream, SmtpStep::Data, "354 go on").await? {
            return Some(());
        }
        let mut refused = false;
        if let Some(act) = self.next(SmtpStep::Body) {
            self.read_more(stream).await?;
            refused = !self.perform(stream, act, "").await?;
        }
        let mut message = Vec::new();
        loop {
            let line = self.read_raw_line(stream).await?;
            match line.strip_prefix(b".") {
                Some(b"\r\n") => break,
                Some(rest) => message.extend_from_slice(rest),
                None => message.extend_from_slice(&line),
            }
        }
        let recipients = std::mem::take(&mut self.recipients);
        self.in_transaction = false;
        if refused {
            return Some(());
        }
        if let Some(refusal) = self.recipient_limit_reply(SmtpStep::Dot, recipients.len()) {
            return write_reply(stream, refusal).await;
        }
        let always = self.server.with_script(|script| script.pipelined_after_dot.clone());
        self.server
            .with_script(|script| script.pipelined_transactions += usize::from(!self.unread.is_empty()));
        let act = always.filter(|_| !self.unread.is_empty());
        let act = act.or_else(|| self.next(SmtpStep::Dot));
        let fine = match &act {
            None
            | Some(
                SmtpAction::ReplySlowly
                | SmtpAction::DropPipelined
                | SmtpAction::DropHalfPipelined
                | SmtpAction::AcceptAndHang,
            ) => true,
            Some(SmtpAction::Reply(text) | SmtpAction::ReplyAndClose(text)) => text.starts_with("250"),
            Some(_) => false,
        };
        let taken = fine && !recipients.is_empty();
        if taken {
            let connection = self.number;
            self.server
                .with_script(|script| script.accepted.push(AcceptedMail { connection, recipients, message }));
        } else if act.is_none() {
            return write_reply(stream, "554 no valid recipients").await;
        }
        self.perform(stream, act.unwrap_or(SmtpAction::Reply("250 taken")), "250 taken").await?;
        match self.next(SmtpStep::AfterReply) {
            Some(act) => self.perform(stream, act, "250 nobody asked").await.map(drop),
            None => Some(()),
        }
    }

    /// Returns the reply if this number of recipients exceeds the limit at a step.
    fn recipient_limit_reply(&self, at: SmtpStep, recipients: usize) -> Option<&'static str> {
        let (step, most, refusal) = self.server.with_script(|script| script.recipient_limit)?;
        (step == at && recipients > most).then_some(refusal)
    }

    /// Returns the scripted action of a step.
    fn next(&self, at: SmtpStep) -> Option<SmtpAction> {
        self.server.with_script(|script| script.next_action(at, &self.sender))
    }

    /// Sends the scripted or the default reply; true if it was positive.
    async fn answer(&mut self, stream: &mut Box<dyn Stream>, at: SmtpStep, friendly: &str) -> Option<bool> {
        match self.next(at) {
            Some(act) => self.perform(stream, act, friendly).await,
            None => write_reply(stream, friendly).await.map(|()| true),
        }
    }

    /// Performs an action; true if the reply was positive.
    async fn perform(
        &mut self,
        stream: &mut Box<dyn Stream>,
        act: SmtpAction,
        friendly: &str,
    ) -> Option<bool> {
        let text = match act {
            SmtpAction::Reply(text) => text.to_owned(),
            SmtpAction::ReplyText(text) => text,
            SmtpAction::DropPipelined => {
                self.unread.clear();
                friendly.to_owned()
            }
            SmtpAction::DropHalfPipelined => {
                self.unread.drain(..self.unread.len() / 2);
                friendly.to_owned()
            }
            SmtpAction::WrongClass if friendly.starts_with('3') => "250 2.0.0 fine".to_owned(),
            SmtpAction::WrongClass => "354 go on".to_owned(),
            SmtpAction::ReplySlowly => {
                for byte in format!("{friendly}\r\n").into_bytes() {
                    tokio::time::sleep(SLOW_REPLY_INTERVAL).await;
                    self.server.with_script(|script| script.events += 1);
                    stream.write_all(&[byte]).await.ok()?;
                    stream.flush().await.ok()?;
                }
                return Some(true);
            }
            SmtpAction::ReplyAndClose(text) => {
                write_reply(stream, text).await;
                return None;
            }
            SmtpAction::Close => return None,
            SmtpAction::Reset => {
                stream.socket().set_zero_linger().unwrap();
                return None;
            }
            SmtpAction::ReadSlowly => {
                while !self.unread.ends_with(b"\r\n.\r\n") {
                    tokio::time::sleep(SLOW_READ_INTERVAL).await;
                    self.read_more(stream).await?;
                }
                return Some(true);
            }
            SmtpAction::Hang | SmtpAction::AcceptAndHang => {
                self.server.with_script(|script| script.hung_sessions += 1);
                self.server.released.notified().await;
                return None;
            }
            SmtpAction::HalfClose => {
                stream.shutdown().await.ok()?;
                while self.read_more(stream).await.is_some() {}
                return None;
            }
            SmtpAction::EndlessLine => {
                stream.write_all(b"250 ").await.ok()?;
                return write_until_closed(stream, "and so on ").await;
            }
            SmtpAction::EndlessReply => return write_until_closed(stream, "250-and so on\r\n").await,
        };
        write_reply(stream, &text).await?;
        Some(text.starts_with(['2', '3']))
    }

    async fn start_tls(&mut self, mut stream: Box<dyn Stream>) -> Option<Box<dyn Stream>> {
        let (tls, injected) =
            self.server.with_script(|script| (script.tls.clone(), script.injected_plaintext));
        let Some(tls) = tls else {
            write_reply(&mut stream, "502 no").await?;
            return Some(stream);
        };
        if !self.answer(&mut stream, SmtpStep::StartTls, &format!("220 go\r\n{injected}")).await? {
            return Some(stream);
        }
        self.unread.clear();
        if let Some(act) = self.next(SmtpStep::Handshake) {
            self.perform(&mut stream, act, "").await?;
        }
        self.accept_tls(tls, stream).await
    }

    async fn accept_tls(&self, tls: TlsAcceptor, stream: Box<dyn Stream>) -> Option<Box<dyn Stream>> {
        self.server.with_script(|script| script.handshakes += 1);
        let secured = tls.accept(stream).await;
        self.server.with_script(|script| script.handshakes -= 1);
        Some(Box::new(secured.ok()?))
    }

    async fn read_line(&mut self, stream: &mut Box<dyn Stream>) -> Option<String> {
        let line = self.read_raw_line(stream).await?;
        Some(String::from_utf8_lossy(line.strip_suffix(b"\r\n")?).into_owned())
    }

    async fn read_raw_line(&mut self, stream: &mut Box<dyn Stream>) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|pair| pair == b"\r\n") {
                return Some(self.unread.drain(..end + 2).collect());
            }
            self.read_more(stream).await?;
        }
    }

    async fn read_more(&mut self, stream: &mut Box<dyn Stream>) -> Option<()> {
        // One write of the client is one read here.
        self.unread.reserve_exact(1 << 16);
        let read = stream.read_buf(&mut self.unread).await.ok()?;
        self.server.with_script(|script| script.events += 1);
        (read > 0).then_some(())
    }
}

async fn write_reply(stream: &mut Box<dyn Stream>, text: &str) -> Option<()> {
    stream.write_all(format!("{text}\r\n").as_bytes()).await.ok()?;
    stream.flush().await.ok()
}

/// Writes the text until the peer closes.
async fn write_until_closed(stream: &mut Box<dyn Stream>, text: &str) -> Option<bool> {
    let text = text.repeat(500);
    while stream.write_all(text.as_bytes()).await.is_ok() {}
    None
}

const SLOW_READ_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two bytes of a slow reply.
const SLOW_REPLY_INTERVAL: Duration = Duration::from_millis(500);
