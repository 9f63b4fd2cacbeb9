//! Scripted HTTP server. It shares no code with the relay.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Reaction of the server to a request.
pub enum HttpAction {
    /// Sends this status and body.
    Respond(u16, String),
    /// Sends these bytes and closes.
    RespondRaw(String),
    /// Closes without a response.
    Close,
    /// Sends nothing and keeps the connection open.
    Hang,
    /// Sends a response and closes without announcing it.
    RespondAndClose(u16, String),
}

/// Received request.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// The first line.
    pub line: String,
    /// The other lines of the head.
    pub head: Vec<String>,
    /// The body; complete unless the server closed early.
    pub body: Vec<u8>,
}

impl HttpRequest {
    /// Returns the value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.iter().filter_map(|line| line.split_once(": "));
        fields.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    /// Returns the parts of a form: name, file name, content.
    pub fn parts(&self) -> Vec<(String, Option<String>, Vec<u8>)> {
        let kind = self.header("content-type").unwrap();
        let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap();
        let end = self.body.strip_suffix(format!("\r\n--{boundary}--\r\n").as_bytes()).expect("a whole form");
        let mut rest = end.strip_prefix(format!("--{boundary}\r\n").as_bytes()).unwrap();
        let border = format!("\r\n--{boundary}\r\n").into_bytes();
        let mut parts = Vec::new();
        loop {
            let next = position(rest, &border);
            parts.push(parse_part(&rest[..next.unwrap_or(rest.len())]));
            match next {
                Some(next) => rest = &rest[next + border.len()..],
                None => return parts,
            }
        }
    }

    /// Returns the values of all parts with this name.
    pub fn values(&self, name: &str) -> Vec<String> {
        let parts = self.parts().into_iter().filter(|(known, ..)| known == name);
        parts.map(|(.., value)| String::from_utf8(value).unwrap()).collect()
    }

    /// Returns the message, the last part of the form.
    pub fn message(&self) -> Vec<u8> {
        let mut parts = self.parts();
        let (name, file, content) = parts.pop().unwrap();
        assert!(name == "message" && file.is_some(), "{name} {file:?}");
        content
    }
}

fn parse_part(bytes: &[u8]) -> (String, Option<String>, Vec<u8>) {
    let end = position(bytes, b"\r\n\r\n").unwrap();
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let quoted =
        |start: &str| head.split_once(start).map(|(_, rest)| rest.split('"').next().unwrap().to_owned());
    (quoted(" name=\"").unwrap(), quoted("filename=\""), bytes[end + 4..].to_vec())
}

fn position(bytes: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, what)
}

/// Running server.
#[derive(Clone)]
pub struct MockHttpServer {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<HttpRequest>>>,
    connections: Arc<Mutex<usize>>,
}

/// Chooses the action for the n-th request, counted from 1. The first call has only the start of the body; an action there
/// leaves the rest unread. The second call has the whole body.
type RequestHandler = Arc<dyn Fn(usize, &HttpRequest, bool) -> Option<HttpAction> + Send + Sync>;

impl MockHttpServer {
    /// Starts a server that reacts to whole requests.
    pub async fn start(script: impl Fn(usize, &HttpRequest) -> HttpAction + Send + Sync + 'static) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), script).await
    }

    /// Starts a server at an address.
    pub async fn start_at(
        address: SocketAddr,
        script: impl Fn(usize, &HttpRequest) -> HttpAction + Send + Sync + 'static,
    ) -> Self {
        let script = move |number, request: &HttpRequest, whole: bool| whole.then(|| script(number, request));
        Self::listen(TcpListener::bind(address).await.unwrap(), None, Arc::new(script))
    }

    /// Starts a server with TLS.
    pub async fn start_tls(
        tls: TlsAcceptor,
        script: impl Fn(usize, &HttpRequest) -> HttpAction + Send + Sync + 'static,
    ) -> Self {
        let script = move |number, request: &HttpRequest, whole: bool| whole.then(|| script(number, request));
        Self::listen(TcpListener::bind("127.0.0.1:0").await.unwrap(), Some(tls), Arc::new(script))
    }

    /// Starts a server that may react before the whole body has arrived.
    pub async fn start_early(
        script: impl Fn(usize, &HttpRequest, bool) -> Option<HttpAction> + Send + Sync + 'static,
    ) -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").await.unwrap(), None, Arc::new(script))
    }

    fn listen(listener: TcpListener, tls: Option<TlsAcceptor>, script: RequestHandler) -> Self {
        let address = listener.local_addr().unwrap();
        let server = Self { address, requests: Arc::default(), connections: Arc::default() };
        let listening = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *listening.connections.lock().unwrap() += 1;
                let (server, script, tls) = (listening.clone(), script.clone(), tls.clone());
                tokio::spawn(async move {
                    stream.set_nodelay(true).unwrap();
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                server.serve(stream, script).await;
                            }
                        }
                        None => {
                            server.serve(stream, script).await;
                        }
                    }
                });
            }
        });
        server
    }

    /// Returns the requests so far.
    pub fn requests(&self) -> Vec<HttpRequest> {
        self.requests.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }

    async fn serve(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        script: RequestHandler,
    ) -> Option<()> {
        let mut received = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = position(&received, b"\r\n\r\n") {
                    break end;
                }
                read_more(&mut stream, &mut received).await?;
            };
            let head = String::from_utf8(received[..end].to_vec()).unwrap();
            let mut lines = head.split("\r\n").map(str::to_owned);
            let mut request = HttpRequest {
                line: lines.next().unwrap(),
                head: lines.collect(),
                body: received.split_off(end + 4),
            };
            received.clear();
            let length: usize = request.header("content-length").map_or(0, |length| length.parse().unwrap());
            let number = self.count() + 1;
            let mut act = None;
            if length > 0 {
                while request.body.is_empty() {
                    read_more(&mut stream, &mut request.body).await?;
                }
                act = script(number, &request, false);
            }
            if act.is_none() {
                while request.body.len() < length {
                    read_more(&mut stream, &mut request.body).await?;
                }
                act = script(number, &request, true);
            }
            self.requests.lock().unwrap().push(request);
            match act? {
                HttpAction::Respond(status, body) => {
                    write_text(&mut stream, &format_response(status, &body)).await?
                }
                HttpAction::RespondAndClose(status, body) => {
                    return write_text(&mut stream, &format_response(status, &body)).await;
                }
                HttpAction::RespondRaw(bytes) => return write_text(&mut stream, &bytes).await,
                HttpAction::Close => return None,
                HttpAction::Hang => std::future::pending().await,
            }
        }
    }
}

fn format_response(status: u16, body: &str) -> String {
    // A first line of the body may be a header.
    let (extra, body) =
        body.strip_prefix("+ ").and_then(|body| body.split_once('\n')).unwrap_or(("X-A: b", body));
    format!("HTTP/1.1 {status} Said\r\n{extra}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

async fn read_more(stream: &mut (impl AsyncRead + Unpin), received: &mut Vec<u8>) -> Option<()> {
    let read = stream.read_buf(received).await.ok()?;
    (read > 0).then_some(())
}

async fn write_text(stream: &mut (impl AsyncWrite + Unpin), text: &str) -> Option<()> {
    stream.write_all(text.as_bytes()).await.ok()?;
    stream.flush().await.ok()
}
