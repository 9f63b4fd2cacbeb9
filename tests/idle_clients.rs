//! A process of its own, because it raises the limit of descriptors for a thousand idle clients.

use rustix::process::{Resource, getrlimit, setrlimit};
use testkit::relay_process::RelayProcess;
use testkit::smtp_client::SmtpClient;
use testkit::smtp_sink::SmtpSink;

/// In this process and in the relay's.
const IDLE_CLIENTS: usize = 1000;
/// Bytes of memory that they may cost together.
const MAX_MEMORY_COST: u64 = 50 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_idle_clients_use_little_memory_and_block_no_other_client() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::with_limits(&sink, "connections = 1100\nconnections_per_ip = 1100");
    process.start().await;
    let before = process.peak_memory();
    let connects = (0..IDLE_CLIENTS).map(|_| SmtpClient::connect(process.address(1)));
    let idle: Vec<_> =
        futures_util::future::join_all(connects).await.into_iter().map(|client| client.unwrap()).collect();
    let cost = process.peak_memory() - before;
    println!("{IDLE_CLIENTS} idle clients: {} MiB", cost >> 20);
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    let id = client.submit("a@example.com", &["b@example.net"], "A: b\r\n\r\nhi\r\n").await.unwrap();
    sink.wait_for_message(&id).await;
    assert!(cost < MAX_MEMORY_COST, "{cost} bytes");
    drop(idle);
}
