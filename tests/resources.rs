//! What a machine may be short of: descriptors, a port. The relay stays up, and goes on by itself when there is enough
//! again. Full disks are in `tests/full_disk.rs`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "resources/log.rs"]
mod log;
mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use support::client::{Client, expect};
use support::process::{Process, free_port};
use support::sink::Sink;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// Connections that ask nothing hold descriptors, on each listener that takes them without a login.
#[tokio::test]
async fn idle_connections_end_neither_the_relay_nor_its_service() {
    let sink = Sink::start().await;
    let mut process = Process::with(&sink, "connections = 60");
    let [page, http] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let text = process.configuration(sink.port(), "connections = 60");
    process.configure(&format!(
        "{text}\n[admin]\naddress = \"{page}\"\n[http]\naddress = \"{http}\"\nconnections = 30\n"
    ));
    process.start_with_files(FILES).await;
    let mut client = Client::connect(process.address(1)).await.unwrap();
    send(&mut client).await.unwrap();
    let socket = process.data().join("admin.sock");
    let mut idle = Vec::new();
    for _ in 0..FILES {
        idle.push(Idle::Tcp(TcpStream::connect(page).await.unwrap()));
        idle.push(Idle::Tcp(TcpStream::connect(http).await.unwrap()));
        // The kernel's queue of a unix socket is short, and a full one does not take more.
        idle.extend(connect_unix(&socket).await.map(Idle::Unix));
    }
    // Longer than a checkpoint of the ledger is away.
    for _ in 0..40 {
        timeout(LONG, send(&mut client)).await.expect("mail is taken").unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut other =
        timeout(LONG, Client::connect(process.address(1))).await.expect("another is taken").unwrap();
    let id = send(&mut other).await.unwrap();
    timeout(LONG, sink.arrival(&id)).await.expect("it is relayed");
    assert!(!process.has_ended(), "{}", process.log());
    drop((idle, client, other));
    let said = process.ask(&["queue", "list"]).await;
    assert!(said.code <= 1, "{}", said.err);
    assert!(process.terminate().await.success());
}

/// A connection that is held open.
#[expect(dead_code, reason = "held, not used")]
enum Idle {
    Tcp(TcpStream),
    Unix(UnixStream),
}

async fn connect_unix(path: &PathBuf) -> Option<UnixStream> {
    timeout(Duration::from_millis(5), UnixStream::connect(path)).await.ok()?.ok()
}

/// Sends a mail; its id.
async fn send(client: &mut Client) -> std::io::Result<String> {
    expect(250, client.ask("MAIL FROM:<a@example.com>").await?)?;
    expect(250, client.ask("RCPT TO:<b@example.net>").await?)?;
    expect(354, client.ask("DATA").await?)?;
    let text = expect(250, client.ask("Subject: hi\r\n\r\nhi\r\n.").await?)?;
    Ok(text.rsplit(' ').next().unwrap().to_owned())
}

/// Descriptors that the relay may have, fewer than the idle connections.
const FILES: u64 = 256;
const LONG: Duration = Duration::from_secs(20);
