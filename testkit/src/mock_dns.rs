//! DNS server over UDP (RFC 1035) with a few records. It shares no code with the relay.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Records: name without the last dot, `TXT` or `MX`, text or host.
pub type DnsRecords = Vec<(String, &'static str, String)>;

pub struct MockDnsServer {
    pub address: SocketAddr,
    records: Arc<Mutex<DnsRecords>>,
    task: JoinHandle<()>,
}

impl MockDnsServer {
    pub async fn start(records: DnsRecords) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let records = Arc::new(Mutex::new(records));
        let known = records.clone();
        let task = tokio::spawn(async move {
            let mut query = [0; 1500];
            loop {
                let (length, peer) = socket.recv_from(&mut query).await.unwrap();
                let answer = answer(&query[..length], &known.lock().unwrap());
                socket.send_to(&answer, peer).await.unwrap();
            }
        });
        Self { address, records, task }
    }

    /// Replaces the records.
    pub fn set_records(&self, records: DnsRecords) {
        *self.records.lock().unwrap() = records;
    }
}

impl Drop for MockDnsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(query: &[u8], records: &DnsRecords) -> Vec<u8> {
    let (name, end) = name(&query[12..]);
    let question = &query[12..12 + end + 4];
    let kind = u16::from_be_bytes([question[end], question[end + 1]]);
    let of_name: Vec<_> = records.iter().filter(|(known, ..)| known.eq_ignore_ascii_case(&name)).collect();
    let data: Vec<_> = of_name
        .iter()
        .filter_map(|(_, word, value)| match (*word, kind) {
            ("TXT", 16) => Some(text(value)),
            ("MX", 15) => Some([&[0, 10][..], &labels(value)].concat()),
            _ => None,
        })
        .collect();
    // An answer, recursion wanted and to be had; NXDOMAIN where there is no such name.
    let code = if of_name.is_empty() { 3 } else { 0 };
    let mut answer =
        [&query[..2], &[0x81, 0x80 | code, 0, 1, 0, data.len() as u8, 0, 0, 0, 0], question].concat();
    for data in data {
        // The name is the question's, and the record lives for a minute.
        answer.extend([0xc0, 12, question[end], question[end + 1], 0, 1, 0, 0, 0, 60]);
        answer.extend((data.len() as u16).to_be_bytes());
        answer.extend(data);
    }
    answer
}

/// A name, and how many bytes it takes.
fn name(bytes: &[u8]) -> (String, usize) {
    let (mut labels, mut at) = (Vec::new(), 0);
    while bytes[at] > 0 {
        let next = at + 1 + usize::from(bytes[at]);
        labels.push(std::str::from_utf8(&bytes[at + 1..next]).unwrap());
        at = next;
    }
    (labels.join("."), at + 1)
}

fn labels(name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(text);
    labels.chain([0]).collect()
}

/// Pieces with their lengths in front.
fn text(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(255).flat_map(|piece| [&[piece.len() as u8][..], piece].concat()).collect()
}
