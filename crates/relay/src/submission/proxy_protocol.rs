//! The PROXY protocol, versions 1 and 2: a proxy sends the address of its client.

use proxy_header::{Error, ParseConfig, ProxyHeader};
use std::io;
use std::net::SocketAddr;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Reads the header, and no byte more. Returns `None` for a connection of the proxy itself, such as a health check, or
/// with an unknown client.
pub async fn read_client_address(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut header = Vec::new();
    while header.len() < MAX_HEADER_BYTES {
        header.push(stream.read_u8().await?);
        match ProxyHeader::parse(&header, ParseConfig { include_tlvs: false, ..ParseConfig::default() }) {
            Ok((header, _)) => return Ok(header.proxied_address().map(|address| address.source)),
            Err(Error::BufferTooShort) => {}
            Err(error) => return Err(invalid_data(&format!("not a PROXY header: {error:?}"))),
        }
    }
    Err(invalid_data("the PROXY header is longer than any"))
}

fn invalid_data(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Bytes of a header with all that a proxy may add to it.
const MAX_HEADER_BYTES: usize = 4096;
