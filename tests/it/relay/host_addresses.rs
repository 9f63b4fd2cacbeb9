//! A host with two addresses, one of which is dead: mail and events go out by the other one, which is remembered.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use testkit::mock_http;
use testkit::mock_http::HttpAction;
use testkit::mount_namespace::MountNamespace;
use testkit::relay_process::RelayProcess;
use testkit::smtp_client::SmtpClient;
use testkit::smtp_sink::{SinkOptions, SmtpSink};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uses_other_address_of_host_while_one_is_dead() {
    let Some(names) = two_addresses() else { return };
    for drops in [false, true] {
        // Whichever the system prefers: one of them is dead and comes first.
        for dead in [0, 1] {
            reach(&names, ADDRESSES[dead], ADDRESSES[1 - dead], drops).await;
        }
    }
}

async fn reach(names: &MountNamespace, dead: IpAddr, alive: IpAddr, drops: bool) {
    let what = format!("{dead} is dead and drops: {drops}");
    let at = SocketAddr::from((alive, 0));
    let smtp = SmtpSink::at(at, SinkOptions::default()).await;
    let taken = || {
        HttpAction::RespondAndClose(
            200,
            r#"{"id": "<a@example.com>", "message": "Queued. Thank you."}"#.into(),
        )
    };
    let api = mock_http::MockHttpServer::start_at(at, move |_, _| taken()).await;
    let events =
        mock_http::MockHttpServer::start_at(at, |_, _| HttpAction::RespondAndClose(200, String::new())).await;
    let ports = [smtp.port(), api.address.port(), events.address.port()];
    let (mut closed, mut revived) = (Vec::new(), Vec::new());
    for port in ports {
        let address = SocketAddr::from((dead, port));
        closed.push(if drops { Some(full(address).await) } else { None });
    }
    let mut process =
        RelayProcess::with_configuration(|data_dir, listeners| configuration(data_dir, listeners[1], ports));
    process.start_in_namespace(names.id()).await;
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    let mut sent = 0;
    for round in 0..2 {
        for sender in ["smtp@example.com", "api@example.com"] {
            client.submit(sender, &["a@example.net"], "Subject: a\r\n\r\ntext\r\n").await.unwrap();
            sent += 1;
        }
        let arrived = || {
            let mails = smtp.messages().len() + api.count();
            (mails == sent && events.count() == sent).then_some(())
        };
        testkit::eventually(&format!("{what}, round {round}: mail and events"), arrived).await;
        closed.clear();
        if round == 0 {
            for port in ports {
                revived.push(TcpListener::bind((dead, port)).await.unwrap());
            }
        }
    }
    // The address that worked was remembered.
    for listener in revived {
        let own = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (_, first) = listener.accept().await.unwrap();
        assert_eq!(first, own.local_addr().unwrap(), "{what}: a connection to the other address");
    }
    drop(client);
    assert!(process.terminate().await.success());
}

/// Returns a listener that drops connections because its queue is full, while the returned values live.
async fn full(address: SocketAddr) -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(address).unwrap();
    let (listener, mut held) = (socket.listen(1).unwrap(), Vec::new());
    while let Ok(Ok(stream)) = timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
        held.push(stream);
        assert!(held.len() < 10, "the queue is never full");
    }
    (listener, held)
}

/// A namespace in which `localhost` has both addresses; nothing where this machine allows none.
fn two_addresses() -> Option<MountNamespace> {
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("hosts");
    let lines = ADDRESSES.map(|address| format!("{address} localhost\n"));
    std::fs::write(&hosts, lines.concat()).unwrap();
    let namespace = MountNamespace::new("mount --bind \"$0\" /etc/hosts", &[hosts.as_os_str()]);
    if namespace.is_none() {
        eprintln!("no file can be mounted here; a host with two addresses is not tried");
    }
    namespace
}

/// Mail of one sender goes over SMTP and that of another over HTTP, each message on a connection of its own.
fn configuration(data_dir: &str, entry: u16, [smtp, api, events]: [u16; 3]) -> String {
    format!(
        r#"
[server]
hostname = "relay.example.com"
data_dir = "{data_dir}"
[[listener]]
address = "127.0.0.1:{entry}"
tls = "none"
auth = "none"
[[upstream]]
name = "smtp"
provider = "plain"
host = "localhost"
port = {smtp}
tls = "none"
messages_per_connection = 1
[[upstream]]
name = "api"
provider = "mailgun"
transport = "api"
domain = "mg.example.com"
api_key = "key-1"
api_base_url = "http://localhost:{api}"
[[route]]
name = "api"
upstreams = ["api"]
senders = ["api@*"]
[[route]]
name = "smtp"
upstreams = ["smtp"]
senders = ["smtp@*"]
[[sink]]
name = "events"
kind = "http"
url = "http://localhost:{events}/"
secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
allow_private = true
events = ["relayed"]
"#
    )
}

const ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 7)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1))];
