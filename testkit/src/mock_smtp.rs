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
pub enum Act {
    /// Says this.
    Say(&'static str),
    /// Says this and closes.
    Bye(&'static str),
    /// Closes without a word.
    Close,
    /// Says this, however long it is.
    Text(String),
    /// Closes with a reset: what is still on the way is lost.
    Reset,
    /// Says nothing more, and hears nothing more, and stays.
    Silence,
    /// The same, after taking the message.
    Keep,
    /// Hears a little every five seconds, up to the dot.
    Sip,
    /// Says what is friendly, a byte at a time, and goes on.
    Dribble,
    /// Says nothing more, and goes on hearing.
    HalfClose,
    /// Says one line of a reply without an end.
    LongLine,
    /// Says a reply of lines without an end.
    Endless,
    /// Says what is friendly, in a code of another class.
    WrongClass,
    /// Says what is friendly and throws away what was said behind the command.
    Forget,
    /// The same with the first half of it.
    ForgetHalf,
}

/// Where in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
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
    Between,
    Rset,
    /// The answer to QUIT.
    Quit,
}

/// What is known and told. Scripts are used up in order; without one the server is friendly.
#[derive(Default)]
pub struct Script {
    acts: Vec<(At, VecDeque<Option<Act>>)>,
    recipients: Vec<(&'static str, VecDeque<Act>)>,
    /// What is always done at a step of this sender's transactions.
    pub for_sender: Option<(&'static str, At, Act)>,
    /// The answer to EHLO without its greeting.
    pub offers: Vec<&'static str>,
    /// The answer to RCPT is positive only for recipients with an `@`, the answer to DATA always.
    pub data_regardless: bool,
    /// What is always done with a MAIL that more stands behind.
    pub behind_mail: Option<Act>,
    /// What is always done with a final dot that more stands behind.
    pub behind_dot: Option<Act>,
    /// Certificate for STARTTLS.
    pub tls: Option<TlsAcceptor>,
    /// TLS comes first.
    pub implicit: bool,
    /// What stands behind the answer to STARTTLS, in clear.
    pub injected: &'static str,
    /// So many messages in so much time, and what is said to MAIL beyond that.
    pub most: Option<(usize, Duration, &'static str)>,
    /// So many recipients of a transaction, and what is said to each beyond that at RCPT, or to all of them at DATA or
    /// after the final dot.
    pub most_recipients: Option<(At, usize, &'static str)>,
    begun: Option<(Instant, usize)>,
    /// Answers that were given while something behind the command had been heard already.
    pub ahead: usize,
    /// Final dots that more stood behind.
    pub chained: usize,
    /// Connections taken, things heard and bytes dribbled.
    pub events: usize,
    /// TLS handshakes in progress.
    pub handshakes: usize,
    log: Vec<String>,
    pub taken: Vec<Taken>,
    connections: usize,
    hanging: usize,
}

/// A message that got a positive answer to its dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub connection: usize,
    pub recipients: Vec<String>,
    pub message: Vec<u8>,
}

/// The running server.
#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    script: Arc<Mutex<Script>>,
    hung_up: Arc<Notify>,
}

impl Server {
    pub async fn start(script: Script) -> Self {
        let (server, socket) = Self::closed(script);
        server.serve(socket.listen(1024).unwrap());
        server
    }

    /// A server that refuses connections, and the socket that it would listen on.
    pub fn closed(script: Script) -> (Self, TcpSocket) {
        let socket = TcpSocket::new_v4().unwrap();
        // So that little is on the way when it stops hearing.
        socket.set_recv_buffer_size(1 << 16).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        let hung_up = Arc::default();
        (Self { address, script: Arc::new(Mutex::new(script)), hung_up }, socket)
    }

    /// Takes the connections that come, and those that wait already.
    pub fn serve(&self, listener: TcpListener) {
        let listening = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = listening.with(|script| {
                    script.events += 1;
                    script.connections += 1;
                    script.connections
                });
                tokio::spawn(Conversation::new(listening.clone(), number).hold(stream));
            }
        });
    }

    /// Looks at, or changes, the script.
    pub fn with<T>(&self, look: impl FnOnce(&mut Script) -> T) -> T {
        look(&mut self.script.lock().unwrap())
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.with(|script| script.taken.clone())
    }

    /// Every command line that was heard, with the number of its connection.
    pub fn heard(&self) -> Vec<String> {
        self.with(|script| script.log.clone())
    }

    /// Conversations in which nothing more is said.
    pub fn hanging(&self) -> usize {
        self.with(|script| script.hanging)
    }

    /// Ends these.
    pub fn hang_up(&self) {
        self.hung_up.notify_waiters();
    }

    pub fn connections(&self) -> usize {
        self.with(|script| script.connections)
    }
}

impl Script {
    /// A server with PIPELINING and SIZE.
    pub fn new() -> Self {
        Self { offers: vec!["PIPELINING", "SIZE 0", "8BITMIME"], ..Self::default() }
    }

    /// The next times at `at`; `None` is the friendly answer.
    pub fn at(mut self, at: At, acts: impl IntoIterator<Item = Option<Act>>) -> Self {
        self.add(at, acts);
        self
    }

    pub fn add(&mut self, at: At, acts: impl IntoIterator<Item = Option<Act>>) {
        match self.acts.iter_mut().find(|(known, _)| *known == at) {
            Some((_, queue)) => queue.extend(acts),
            None => self.acts.push((at, acts.into_iter().collect())),
        }
    }

    /// Whether everything at `at` was done.
    pub fn is_done(&self, at: At) -> bool {
        self.acts.iter().all(|(known, queue)| *known != at || queue.is_empty())
    }

    /// Forgets what was still to be done at `at`; how many steps that was.
    pub fn take_pending(&mut self, at: At) -> usize {
        let queue = self.acts.iter_mut().find(|(known, _)| *known == at);
        queue.map_or(0, |(_, queue)| std::mem::take(queue).len())
    }

    /// The next answers to a recipient; the last one stays.
    pub fn to(mut self, recipient: &'static str, acts: impl IntoIterator<Item = Act>) -> Self {
        self.add_for(recipient, acts);
        self
    }

    /// The same, instead of what was said before.
    pub fn add_for(&mut self, recipient: &'static str, acts: impl IntoIterator<Item = Act>) {
        self.recipients.retain(|(known, _)| *known != recipient);
        self.recipients.push((recipient, acts.into_iter().collect()));
    }

    /// What is said when this message is one too many.
    fn too_much(&mut self) -> Option<&'static str> {
        let (most, time, refusal) = self.most?;
        let (since, begun) =
            self.begun.filter(|(since, _)| since.elapsed() < time).unwrap_or((Instant::now(), 0));
        self.begun = Some((since, (begun + 1).min(most)));
        (begun == most).then_some(refusal)
    }

    fn next(&mut self, at: At, sender: &str) -> Option<Act> {
        if let Some((odd, step, act)) = &self.for_sender
            && (*odd, *step) == (sender, at)
        {
            return Some(act.clone());
        }
        self.acts.iter_mut().find(|(known, _)| *known == at)?.1.pop_front()?
    }

    fn next_for(&mut self, recipient: &str) -> Option<Act> {
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
struct Conversation {
    server: Server,
    number: usize,
    heard: Vec<u8>,
    sender: String,
    recipients: Vec<String>,
    in_transaction: bool,
}

impl Conversation {
    fn new(server: Server, number: usize) -> Self {
        let (heard, sender, recipients) = Default::default();
        Self { server, number, heard, sender, recipients, in_transaction: false }
    }

    async fn hold(mut self, stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let mut stream: Box<dyn Stream> = Box::new(stream);
        let (implicit, tls) = self.server.with(|script| (script.implicit, script.tls.clone()));
        if let Some(tls) = tls.filter(|_| implicit) {
            match self.shake_hands(tls, stream).await {
                Some(secured) => stream = secured,
                None => return,
            }
        }
        if self.answer(&mut stream, At::Banner, "220 scripted ready").await.is_none() {
            return;
        }
        while let Some(line) = self.line(&mut stream).await {
            let number = self.number;
            let ahead = usize::from(!self.heard.is_empty());
            self.server.with(|script| {
                script.ahead += ahead;
                script.log.push(format!("{number} {line}"));
            });
            let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
            if verb == "STAR" {
                match self.secure(stream).await {
                    Some(secured) => stream = secured,
                    None => return,
                }
            } else if self.obey(&mut stream, &verb, &line).await.is_none() {
                return;
            }
        }
    }

    async fn obey(&mut self, stream: &mut Box<dyn Stream>, verb: &str, line: &str) -> Option<()> {
        match verb {
            "EHLO" => {
                let offers = self.server.with(|script| script.offers.clone());
                let mut lines = vec!["scripted"];
                lines.extend(offers);
                let last = lines.len() - 1;
                let written = lines.iter().enumerate();
                let text: Vec<_> = written
                    .map(|(i, line)| format!("250{}{line}", if i == last { ' ' } else { '-' }))
                    .collect();
                self.answer(stream, At::Ehlo, &text.join("\r\n")).await.map(drop)
            }
            "HELO" => self.answer(stream, At::Helo, "250 scripted").await.map(drop),
            "AUTH" => self.answer(stream, At::Auth, "235 welcome").await.map(drop),
            "MAIL" => {
                if let Some(refusal) = self.server.with(Script::too_much) {
                    return say(stream, refusal).await;
                }
                self.sender = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                let always = self.server.with(|script| script.behind_mail.clone());
                let taken = match always.filter(|_| !self.heard.is_empty()) {
                    Some(act) => self.perform(stream, act, "250 sender ok").await?,
                    None => self.answer(stream, At::Mail, "250 sender ok").await?,
                };
                (self.in_transaction, self.recipients) = (taken, Vec::new());
                Some(())
            }
            "RCPT" => self.rcpt(stream, line).await,
            "DATA" => self.data(stream).await,
            "RSET" => {
                (self.in_transaction, self.recipients) = (false, Vec::new());
                self.answer(stream, At::Rset, "250 reset").await.map(drop)
            }
            "QUIT" => {
                self.answer(stream, At::Quit, "221 bye").await;
                None
            }
            _ => say(stream, "500 what").await,
        }
    }

    async fn rcpt(&mut self, stream: &mut Box<dyn Stream>, line: &str) -> Option<()> {
        let recipient = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        if !self.in_transaction {
            return say(stream, "503 no MAIL").await;
        }
        if let Some(refusal) = self.crowded(At::Rcpt, self.recipients.len() + 1) {
            return say(stream, refusal).await;
        }
        let own = self.server.with(|script| script.next_for(&recipient));
        let taken = match own {
            Some(act) => self.perform(stream, act, "250 recipient ok").await?,
            None => self.answer(stream, At::Rcpt, "250 recipient ok").await?,
        };
        if taken {
            self.recipients.push(recipient);
        }
        Some(())
    }

    async fn data(&mut self, stream: &mut Box<dyn Stream>) -> Option<()> {
        let regardless = self.server.with(|script| script.data_regardless);
        if !regardless && (!self.in_transaction || self.recipients.is_empty()) {
            return say(stream, "503 nobody").await;
        }
        if let Some(refusal) = self.crowded(At::Data, self.recipients.len()) {
            return say(stream, refusal).await;
        }
        if !self.answer(stream, At::Data, "354 go on").await? {
            return Some(());
        }
        let mut refused = false;
        if let Some(act) = self.next(At::Body) {
            self.more(stream).await?;
            refused = !self.perform(stream, act, "").await?;
        }
        let mut message = Vec::new();
        loop {
            let line = self.raw_line(stream).await?;
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
        if let Some(refusal) = self.crowded(At::Dot, recipients.len()) {
            return say(stream, refusal).await;
        }
        let always = self.server.with(|script| script.behind_dot.clone());
        self.server.with(|script| script.chained += usize::from(!self.heard.is_empty()));
        let act = always.filter(|_| !self.heard.is_empty());
        let act = act.or_else(|| self.next(At::Dot));
        let fine = match &act {
            None | Some(Act::Dribble | Act::Forget | Act::ForgetHalf | Act::Keep) => true,
            Some(Act::Say(text) | Act::Bye(text)) => text.starts_with("250"),
            Some(_) => false,
        };
        let taken = fine && !recipients.is_empty();
        if taken {
            let connection = self.number;
            self.server.with(|script| script.taken.push(Taken { connection, recipients, message }));
        } else if act.is_none() {
            return say(stream, "554 no valid recipients").await;
        }
        self.perform(stream, act.unwrap_or(Act::Say("250 taken")), "250 taken").await?;
        match self.next(At::Between) {
            Some(act) => self.perform(stream, act, "250 nobody asked").await.map(drop),
            None => Some(()),
        }
    }

    /// What is said at a step where so many recipients are too many.
    fn crowded(&self, at: At, recipients: usize) -> Option<&'static str> {
        let (step, most, refusal) = self.server.with(|script| script.most_recipients)?;
        (step == at && recipients > most).then_some(refusal)
    }

    /// What the script says for this step.
    fn next(&self, at: At) -> Option<Act> {
        self.server.with(|script| script.next(at, &self.sender))
    }

    /// Answers as the script says, or in the friendly way; whether that was positive.
    async fn answer(&mut self, stream: &mut Box<dyn Stream>, at: At, friendly: &str) -> Option<bool> {
        match self.next(at) {
            Some(act) => self.perform(stream, act, friendly).await,
            None => say(stream, friendly).await.map(|()| true),
        }
    }

    /// Whether the answer was positive; `None` when the conversation is over.
    async fn perform(&mut self, stream: &mut Box<dyn Stream>, act: Act, friendly: &str) -> Option<bool> {
        let text = match act {
            Act::Say(text) => text.to_owned(),
            Act::Text(text) => text,
            Act::Forget => {
                self.heard.clear();
                friendly.to_owned()
            }
            Act::ForgetHalf => {
                self.heard.drain(..self.heard.len() / 2);
                friendly.to_owned()
            }
            Act::WrongClass if friendly.starts_with('3') => "250 2.0.0 fine".to_owned(),
            Act::WrongClass => "354 go on".to_owned(),
            Act::Dribble => {
                for byte in format!("{friendly}\r\n").into_bytes() {
                    tokio::time::sleep(BETWEEN_BYTES).await;
                    self.server.with(|script| script.events += 1);
                    stream.write_all(&[byte]).await.ok()?;
                    stream.flush().await.ok()?;
                }
                return Some(true);
            }
            Act::Bye(text) => {
                say(stream, text).await;
                return None;
            }
            Act::Close => return None,
            Act::Reset => {
                stream.socket().set_zero_linger().unwrap();
                return None;
            }
            Act::Sip => {
                while !self.heard.ends_with(b"\r\n.\r\n") {
                    tokio::time::sleep(BETWEEN_SIPS).await;
                    self.more(stream).await?;
                }
                return Some(true);
            }
            Act::Silence | Act::Keep => {
                self.server.with(|script| script.hanging += 1);
                self.server.hung_up.notified().await;
                return None;
            }
            Act::HalfClose => {
                stream.shutdown().await.ok()?;
                while self.more(stream).await.is_some() {}
                return None;
            }
            Act::LongLine => {
                stream.write_all(b"250 ").await.ok()?;
                return repeat(stream, "and so on ").await;
            }
            Act::Endless => return repeat(stream, "250-and so on\r\n").await,
        };
        say(stream, &text).await?;
        Some(text.starts_with(['2', '3']))
    }

    async fn secure(&mut self, mut stream: Box<dyn Stream>) -> Option<Box<dyn Stream>> {
        let (tls, injected) = self.server.with(|script| (script.tls.clone(), script.injected));
        let Some(tls) = tls else {
            say(&mut stream, "502 no").await?;
            return Some(stream);
        };
        if !self.answer(&mut stream, At::StartTls, &format!("220 go\r\n{injected}")).await? {
            return Some(stream);
        }
        self.heard.clear();
        if let Some(act) = self.next(At::Handshake) {
            self.perform(&mut stream, act, "").await?;
        }
        self.shake_hands(tls, stream).await
    }

    async fn shake_hands(&self, tls: TlsAcceptor, stream: Box<dyn Stream>) -> Option<Box<dyn Stream>> {
        self.server.with(|script| script.handshakes += 1);
        let secured = tls.accept(stream).await;
        self.server.with(|script| script.handshakes -= 1);
        Some(Box::new(secured.ok()?))
    }

    async fn line(&mut self, stream: &mut Box<dyn Stream>) -> Option<String> {
        let line = self.raw_line(stream).await?;
        Some(String::from_utf8_lossy(line.strip_suffix(b"\r\n")?).into_owned())
    }

    async fn raw_line(&mut self, stream: &mut Box<dyn Stream>) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.heard.windows(2).position(|pair| pair == b"\r\n") {
                return Some(self.heard.drain(..end + 2).collect());
            }
            self.more(stream).await?;
        }
    }

    async fn more(&mut self, stream: &mut Box<dyn Stream>) -> Option<()> {
        // What was said in one go is heard in one go.
        self.heard.reserve_exact(1 << 16);
        let read = stream.read_buf(&mut self.heard).await.ok()?;
        self.server.with(|script| script.events += 1);
        (read > 0).then_some(())
    }
}

async fn say(stream: &mut Box<dyn Stream>, text: &str) -> Option<()> {
    stream.write_all(format!("{text}\r\n").as_bytes()).await.ok()?;
    stream.flush().await.ok()
}

/// As often as the other side takes it.
async fn repeat(stream: &mut Box<dyn Stream>, text: &str) -> Option<bool> {
    let text = text.repeat(500);
    while stream.write_all(text.as_bytes()).await.is_ok() {}
    None
}

const BETWEEN_SIPS: Duration = Duration::from_secs(5);
/// How fast a dribble is.
const BETWEEN_BYTES: Duration = Duration::from_millis(500);
