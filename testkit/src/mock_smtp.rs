//! An SMTP server that does as it is told. It shares no code with the relay.

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

/// What the server does next where a command waits for an answer.
#[derive(Clone, Debug)]
pub enum SmtpAction {
    /// Says this.
    Reply(&'static str),
    /// Says this and closes.
    ReplyAndClose(&'static str),
    /// Closes without a word.
    Close,
    /// Says this, however long it is.
    ReplyText(String),
    /// Closes with a reset: what is still on the way is lost.
    Reset,
    /// Says nothing more, and hears nothing more, and stays.
    Hang,
    /// The same, after taking the message.
    AcceptAndHang,
    /// Hears a little every five seconds, up to the dot.
    ReadSlowly,
    /// Says what is friendly, a byte at a time, and goes on.
    ReplySlowly,
    /// Says nothing more, and goes on hearing.
    HalfClose,
    /// Says one line of a reply without an end.
    EndlessLine,
    /// Says a reply of lines without an end.
    EndlessReply,
    /// Says what is friendly, in a code of another class.
    WrongClass,
    /// Says what is friendly and throws away what was said behind the command.
    DropPipelined,
    /// The same with the first half of it.
    DropHalfPipelined,
}

/// Where in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpStep {
    Banner,
    Ehlo,
    /// The answer to HELO.
    Helo,
    /// The answer to STARTTLS.
    StartTls,
    /// Behind that answer.
    Handshake,
    Auth,
    Mail,
    Rcpt,
    Data,
    /// After some bytes of the message, before its dot.
    Body,
    /// After the final dot.
    Dot,
    /// Behind the answer to a final dot, unasked.
    AfterReply,
    Rset,
    /// The answer to QUIT.
    Quit,
}

/// What is known and told. Scripts are used up in order; without one the server is friendly.
#[derive(Default)]
pub struct SmtpScript {
    actions: Vec<(SmtpStep, VecDeque<Option<SmtpAction>>)>,
    recipients: Vec<(&'static str, VecDeque<SmtpAction>)>,
    /// What is always done at a step of this sender's transactions.
    pub for_sender: Option<(&'static str, SmtpStep, SmtpAction)>,
    /// The answer to EHLO without its greeting.
    pub capabilities: Vec<&'static str>,
    /// The answer to RCPT is positive only for recipients with an `@`, the answer to DATA always.
    pub accepts_data_without_recipients: bool,
    /// What is always done with a MAIL that more stands behind.
    pub pipelined_after_mail: Option<SmtpAction>,
    /// What is always done with a final dot that more stands behind.
    pub pipelined_after_dot: Option<SmtpAction>,
    /// Certificate for STARTTLS.
    pub tls: Option<TlsAcceptor>,
    /// TLS comes first.
    pub implicit_tls: bool,
    /// What stands behind the answer to STARTTLS, in clear.
    pub injected_plaintext: &'static str,
    /// So many messages in so much time, and what is said to MAIL beyond that.
    pub message_limit: Option<(usize, Duration, &'static str)>,
    /// So many recipients of a transaction, and what is said to each beyond that at RCPT, or to all of them at DATA or
    /// after the final dot.
    pub recipient_limit: Option<(SmtpStep, usize, &'static str)>,
    limit_window: Option<(Instant, usize)>,
    /// Answers that were given while something behind the command had been heard already.
    pub early_replies: usize,
    /// Final dots that more stood behind.
    pub pipelined_transactions: usize,
    /// Connections taken, things heard and bytes dribbled.
    pub events: usize,
    /// TLS handshakes in progress.
    pub handshakes: usize,
    commands: Vec<String>,
    pub accepted: Vec<AcceptedMail>,
    connections: usize,
    hung_sessions: usize,
}

/// A message that got a positive answer to its dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedMail {
    pub connection: usize,
    pub recipients: Vec<String>,
    pub message: Vec<u8>,
}

/// The running server.
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

    /// A server that refuses connections, and the socket that it would listen on.
    pub fn refusing(script: SmtpScript) -> (Self, TcpSocket) {
        let socket = TcpSocket::new_v4().unwrap();
        // So that little is on the way when it stops hearing.
        socket.set_recv_buffer_size(1 << 16).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        let released = Arc::default();
        (Self { address, script: Arc::new(Mutex::new(script)), released }, socket)
    }

    /// Takes the connections that come, and those that wait already.
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

    /// Looks at, or changes, the script.
    pub fn with_script<T>(&self, look: impl FnOnce(&mut SmtpScript) -> T) -> T {
        look(&mut self.script.lock().unwrap())
    }

    pub fn accepted(&self) -> Vec<AcceptedMail> {
        self.with_script(|script| script.accepted.clone())
    }

    /// Every command line that was heard, with the number of its connection.
    pub fn commands(&self) -> Vec<String> {
        self.with_script(|script| script.commands.clone())
    }

    /// Conversations in which nothing more is said.
    pub fn hung_sessions(&self) -> usize {
        self.with_script(|script| script.hung_sessions)
    }

    /// Ends these.
    pub fn close_hung_sessions(&self) {
        self.released.notify_waiters();
    }

    pub fn connections(&self) -> usize {
        self.with_script(|script| script.connections)
    }
}

impl SmtpScript {
    /// A server with PIPELINING and SIZE.
    pub fn new() -> Self {
        Self { capabilities: vec!["PIPELINING", "SIZE 0", "8BITMIME"], ..Self::default() }
    }

    /// The next times at `at`; `None` is the friendly answer.
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

    /// Whether everything at `at` was done.
    pub fn is_done(&self, at: SmtpStep) -> bool {
        self.actions.iter().all(|(known, queue)| *known != at || queue.is_empty())
    }

    /// Forgets what was still to be done at `at`; how many steps that was.
    pub fn take_pending(&mut self, at: SmtpStep) -> usize {
        let queue = self.actions.iter_mut().find(|(known, _)| *known == at);
        queue.map_or(0, |(_, queue)| std::mem::take(queue).len())
    }

    /// The next answers to a recipient; the last one stays.
    pub fn on_recipient(
        mut self,
        recipient: &'static str,
        acts: impl IntoIterator<Item = SmtpAction>,
    ) -> Self {
        self.replace_recipient_actions(recipient, acts);
        self
    }

    /// The same, instead of what was said before.
    pub fn replace_recipient_actions(
        &mut self,
        recipient: &'static str,
        acts: impl IntoIterator<Item = SmtpAction>,
    ) {
        self.recipients.retain(|(known, _)| *known != recipient);
        self.recipients.push((recipient, acts.into_iter().collect()));
    }

    /// What is said when this message is one too many.
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
    /// The socket below.
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

/// One connection; `None` anywhere is its end.
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

    /// What is said at a step where so many recipients are too many.
    fn recipient_limit_reply(&self, at: SmtpStep, recipients: usize) -> Option<&'static str> {
        let (step, most, refusal) = self.server.with_script(|script| script.recipient_limit)?;
        (step == at && recipients > most).then_some(refusal)
    }

    /// What the script says for this step.
    fn next(&self, at: SmtpStep) -> Option<SmtpAction> {
        self.server.with_script(|script| script.next_action(at, &self.sender))
    }

    /// Answers as the script says, or in the friendly way; whether that was positive.
    async fn answer(&mut self, stream: &mut Box<dyn Stream>, at: SmtpStep, friendly: &str) -> Option<bool> {
        match self.next(at) {
            Some(act) => self.perform(stream, act, friendly).await,
            None => write_reply(stream, friendly).await.map(|()| true),
        }
    }

    /// Whether the answer was positive; `None` when the conversation is over.
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
        // What was said in one go is heard in one go.
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

/// As often as the other side takes it.
async fn write_until_closed(stream: &mut Box<dyn Stream>, text: &str) -> Option<bool> {
    let text = text.repeat(500);
    while stream.write_all(text.as_bytes()).await.is_ok() {}
    None
}

const SLOW_READ_INTERVAL: Duration = Duration::from_secs(5);
/// How fast a dribble is.
const SLOW_REPLY_INTERVAL: Duration = Duration::from_millis(500);
