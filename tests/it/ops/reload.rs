//! SIGHUP: another configuration for the process that runs.

use mailtrail::config;
use mailtrail::daemon::Daemon;
use mailtrail_mail::Clock;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use testkit::relay::USER;
use testkit::relay_process::{RelayProcess, free_port};
use testkit::smtp_client::SmtpClient;
use testkit::smtp_sink::SmtpSink;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

const SAMPLE_MESSAGE: &str = "Subject: hi\r\n\r\nhi\r\n";

async fn submit_message(client: &mut SmtpClient) -> std::io::Result<String> {
    client.submit("a@example.com", &["b@example.net"], SAMPLE_MESSAGE).await
}

#[tokio::test]
async fn applies_changed_user_to_new_connections_only() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    process.start().await;
    let trust = mailtrail_net::tls::build_connector(Some(&process.data_dir().join("tls/relay.pem"))).unwrap();
    let guarded = process.address(0);
    assert!(SmtpClient::log_in_as("second", guarded, &trust).await.is_err());
    let mut idle = SmtpClient::log_in(guarded, &trust).await.unwrap();
    let text = process.configuration(sink.port(), "");
    process.write_configuration(&text.replace(&format!("name = \"{USER}\""), "name = \"second\""));
    process.send_sighup().await;
    process.wait_for_log("configuration and certificates reloaded changed=\"user\"").await;
    let mut second = SmtpClient::log_in_as("second", guarded, &trust).await.unwrap();
    sink.wait_for_message(&submit_message(&mut second).await.unwrap()).await;
    sink.wait_for_message(&submit_message(&mut idle).await.unwrap()).await;
    assert!(SmtpClient::log_in(guarded, &trust).await.is_err());
    assert!(process.terminate().await.success());
}

#[tokio::test]
async fn rejects_invalid_config_and_keeps_running() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    process.start().await;
    let trust = mailtrail_net::tls::build_connector(Some(&process.data_dir().join("tls/relay.pem"))).unwrap();
    let text = process.configuration(sink.port(), "");
    let text = text.replace(&format!("name = \"{USER}\""), "name = \"second\"\nrate = \"many\"");
    process.write_configuration(&text.replace("hostname", "hostnam"));
    process.send_sighup().await;
    process.wait_for_log("invalid configuration; not changed").await;
    let log = process.log();
    assert!(log.contains("server.hostnam") && log.contains("user[0].rate"), "all faults: {log}");
    let mut client = SmtpClient::log_in(process.address(0), &trust).await.unwrap();
    sink.wait_for_message(&submit_message(&mut client).await.unwrap()).await;
    // A valid configuration that cannot be applied here.
    let (taken, text) = (std::net::TcpListener::bind("127.0.0.1:0").unwrap(), process.configuration(1, ""));
    let place = taken.local_addr().unwrap();
    process.write_configuration(&format!(
        "{text}\n[[listener]]\naddress = \"{place}\"\ntls = \"none\"\nauth = \"none\"\n"
    ));
    process.send_sighup().await;
    process.wait_for_log("cannot apply the configuration; not changed").await;
    assert!(process.log().contains(&format!("cannot listen on {place}")), "{}", process.log());
    sink.wait_for_message(&submit_message(&mut client).await.unwrap()).await;
    drop(client);
    assert!(process.terminate().await.success());
}

#[tokio::test]
async fn sends_queued_mail_to_changed_upstream() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    process.write_configuration(&process.configuration(free_port(), ""));
    process.start().await;
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    let before = submit_message(&mut client).await.unwrap();
    process.wait_for_log("the upstream cannot be used").await;
    process.write_configuration(&process.configuration(sink.port(), ""));
    process.send_sighup().await;
    sink.wait_for_message(&before).await;
    sink.wait_for_message(&submit_message(&mut client).await.unwrap()).await;
    drop(client);
    assert!(process.terminate().await.success());
}

#[tokio::test]
async fn hanging_upstream_does_not_block_its_replacement() {
    let (hangs, sink) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), SmtpSink::start().await);
    let mut process = RelayProcess::new(&sink);
    process.write_configuration(&process.configuration(hangs.local_addr().unwrap().port(), ""));
    process.start().await;
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    let id = submit_message(&mut client).await.unwrap();
    let (mut held, _) = hangs.accept().await.unwrap();
    process.write_configuration(&process.configuration(sink.port(), ""));
    process.send_sighup().await;
    process.wait_for_log("configuration and certificates reloaded").await;
    let behind = submit_message(&mut client).await.unwrap();
    assert_eq!(held.read(&mut [0; 64]).await.unwrap(), 0, "its attempt is over");
    sink.wait_for_message(&id).await;
    sink.wait_for_message(&behind).await;
    assert_eq!(sink.count(), 2);
    drop(client);
    assert!(process.terminate().await.success());
}

#[tokio::test]
async fn adds_and_removes_listeners_and_keeps_others() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    process.start().await;
    let mut stays = SmtpClient::connect(process.address(1)).await.unwrap();
    let more: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    assert!(TcpStream::connect(more).await.is_err());
    let text = process.configuration(sink.port(), "");
    process.write_configuration(&format!(
        "{text}\n[[listener]]\naddress = \"{more}\"\ntls = \"none\"\nauth = \"none\"\n"
    ));
    process.send_sighup().await;
    process.wait_for_log(&format!("listening place=\"{more}\"")).await;
    let mut removed = SmtpClient::connect(more).await.unwrap();
    process.write_configuration(&text.replace("data_dir = \"", "data_dir = \"/nowhere"));
    process.send_sighup().await;
    process.wait_for_log(&format!("listener closed place=\"{more}\"")).await;
    testkit::eventually("nobody listens there", || std::net::TcpStream::connect(more).err()).await;
    process.wait_for_log("key changes only with a restart key=\"server.data_dir\"").await;
    for client in [&mut stays, &mut removed, &mut SmtpClient::connect(process.address(1)).await.unwrap()] {
        sink.wait_for_message(&submit_message(client).await.unwrap()).await;
    }
    assert!(process.terminate().await.success());
}

#[tokio::test]
async fn accepts_webhooks_for_changed_upstreams() {
    let directory = tempfile::tempdir().unwrap();
    let read = |name: &str, http: SocketAddr| {
        let text = format!(
            r#"
[server]
hostname = "relay.example.com"
data_dir = "data"
[[listener]]
address = "127.0.0.1:0"
tls = "none"
auth = "none"
[[upstream]]
name = "{name}"
provider = "mailgun"
host = "127.0.0.1"
tls = "none"
port = 1
username = "a"
password = "b"
webhook_signing_key = "c"
[http]
address = "{http}"
"#
        );
        config::parse(&text, &directory.path().join("mailtrail.toml"), &BTreeMap::new()).unwrap()
    };
    let mut http: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let mut daemon = Daemon::start(&read("first", http), Clock::System, None).await.unwrap();
    let smtp = daemon.smtp_addresses().to_vec();
    let client = http_client();
    let ask = async |http: SocketAddr| {
        let mut answers = Vec::new();
        for name in ["first", "second"] {
            let request = client.post(format!("http://{http}/webhooks/{name}")).body("{}");
            answers.push(request.send().await.unwrap().status().as_u16());
        }
        answers
    };
    assert_eq!(ask(http).await, [406, 404]);
    let changes = daemon.reload(read("second", http)).unwrap();
    assert_eq!(
        (changes.changed_sections, changes.opened, changes.closed),
        (vec!["upstream"], vec![], vec![])
    );
    assert_eq!(ask(http).await, [404, 406]);
    let before = std::mem::replace(&mut http, ([127, 0, 0, 1], free_port()).into());
    let changes = daemon.reload(read("first", http)).unwrap();
    assert_eq!(changes.changed_sections, ["upstream", "http"]);
    assert_eq!((changes.opened, changes.closed), (vec![http.to_string()], vec![before.to_string()]));
    assert_eq!(ask(http).await, [406, 404]);
    assert_eq!(daemon.smtp_addresses(), smtp);
    daemon.stop().await;
}

fn http_client() -> reqwest::Client {
    let tls = mailtrail_net::tls::build_client_config(None).unwrap();
    // A connection that is kept alive ends with the configuration it began with.
    reqwest::Client::builder().tls_backend_preconfigured(tls).pool_max_idle_per_host(0).build().unwrap()
}
