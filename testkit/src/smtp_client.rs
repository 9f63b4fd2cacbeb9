//! SMTP client for one command at a time.

use crate::relay::{PASSWORD, USER};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Connection of a client.
pub struct SmtpClient {
    stream: BufReader<Box<dyn ByteStream>>,
}

/// Code and last line of a reply.
pub type ReplyLine = (u16, String);

impl SmtpClient {
    /// Connects and sends EHLO.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::from_stream(TcpStream::connect(address).await?).await
    }

    /// Sends EHLO on a connection.
    pub async fn from_stream(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let mut client = Self { stream: BufReader::new(Box::new(stream)) };
        expect_code(220, client.read_reply().await?)?;
        expect_code(250, client.command("EHLO [127.0.0.1]").await?)?;
        Ok(client)
    }

    /// Connects as a proxy, sends these lines, the PROXY header first, and then EHLO.
    pub async fn connect_through_proxy(address: SocketAddr, introduction: &[&str]) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let mut client = Self { stream: BufReader::new(Box::new(stream)) };
        for line in introduction {
            expect_code(220, client.command(line).await?)?;
        }
        client.command("EHLO [127.0.0.1]").await?;
        Ok(client)
    }

    /// Connects, starts TLS and authenticates.
    pub async fn log_in(address: SocketAddr, trust: &TlsConnector) -> io::Result<Self> {
        Self::log_in_as(USER, address, trust).await
    }

    /// Connects, starts TLS and authenticates as a user with the default password.
    pub async fn log_in_as(user: &str, address: SocketAddr, trust: &TlsConnector) -> io::Result<Self> {
        let mut client = Self::connect(address).await?.start_tls(trust).await?;
        let token = BASE64_STANDARD.encode(format!("\0{user}\0{PASSWORD}"));
        expect_code(235, client.command(&format!("AUTH PLAIN {token}")).await?)?;
        Ok(client)
    }

    /// Connects with TLS from the first byte and sends EHLO.
    pub async fn connect_tls(address: SocketAddr, trust: &TlsConnector) -> io::Result<Self> {
        let name = ServerName::try_from("localhost").unwrap();
        let secured = trust.connect(name, TcpStream::connect(address).await?).await?;
        let mut client = Self { stream: BufReader::new(Box::new(secured)) };
        client.read_reply().await?;
        client.command("EHLO [127.0.0.1]").await?;
        Ok(client)
    }

    /// Starts TLS and sends EHLO again.
    pub async fn start_tls(mut self, trust: &TlsConnector) -> io::Result<Self> {
        expect_code(220, self.command("STARTTLS").await?)?;
        let name = ServerName::try_from("localhost").unwrap();
        let secured = trust.connect(name, self.stream.into_inner()).await?;
        let mut client = Self { stream: BufReader::new(Box::new(secured)) };
        client.command("EHLO [127.0.0.1]").await?;
        Ok(client)
    }

    /// Submits a message and returns its tracking id. `message` has no stuffed dots and ends with CRLF.
    pub async fn submit(&mut self, from: &str, to: &[&str], message: &str) -> io::Result<String> {
        expect_code(250, self.command(&format!("MAIL FROM:<{from}>")).await?)?;
        for recipient in to {
            expect_code(250, self.command(&format!("RCPT TO:<{recipient}>")).await?)?;
        }
        expect_code(354, self.command("DATA").await?)?;
        let text = expect_code(250, self.command(&format!("{message}.")).await?)?;
        let id = text.rsplit(' ').next().unwrap_or_default();
        Ok(id.to_owned())
    }

    /// Sends a line and reads the reply.
    pub async fn command(&mut self, line: &str) -> io::Result<ReplyLine> {
        self.send(&format!("{line}\r\n")).await?;
        self.read_reply().await
    }

    /// Sends text without reading a reply.
    pub async fn send(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(text.as_bytes()).await?;
        self.stream.flush().await
    }

    /// Reads a reply.
    pub async fn read_reply(&mut self) -> io::Result<ReplyLine> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if line.as_bytes().get(3) != Some(&b'-') {
                let code = line.get(..3).and_then(|code| code.parse().ok());
                return code.map(|code| (code, line.to_owned())).ok_or(io::ErrorKind::InvalidData.into());
            }
        }
    }
}

/// Returns the text of a reply, or an error if its code differs.
pub fn expect_code(code: u16, answer: ReplyLine) -> io::Result<String> {
    if answer.0 == code { Ok(answer.1) } else { Err(io::Error::other(answer.1)) }
}
