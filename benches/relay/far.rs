//! A long path: a proxy that delays every byte by half a round trip, and carries as many at once as come.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Stands between a relay and its upstream; dropping it ends it.
pub struct LatencyProxy {
    /// Where the relay connects.
    pub address: SocketAddr,
    _serving: JoinSet<()>,
}

impl LatencyProxy {
    /// A path to `upstream` on a free port.
    pub async fn open(upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut paths = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                // A path that breaks closes both ends: the relay sees what it would see.
                paths.spawn(async move { forward_connection(near, upstream).await });
                while paths.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, _serving: serving })
    }
}

async fn forward_connection(near: TcpStream, upstream: SocketAddr) -> io::Result<()> {
    // The relay took itself for connected at once: this is the handshake's round trip.
    tokio::time::sleep(ROUND_TRIP).await;
    let far = TcpStream::connect(upstream).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::try_join!(delay_direction(near_in, far_out), delay_direction(far_in, near_out)).map(drop)
}

async fn delay_direction(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
    let (sender, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(MAX_CHUNKS_IN_FLIGHT);
    let read = async move {
        loop {
            let mut piece = Vec::with_capacity(CHUNK_BYTES);
            if from.read_buf(&mut piece).await? == 0 {
                return Ok(());
            }
            if sender.send((Instant::now() + ROUND_TRIP / 2, piece)).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = under_way.recv().await {
            tokio::time::sleep_until(due).await;
            to.write_all(&piece).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(drop)
}

const ROUND_TRIP: Duration = Duration::from_millis(100);
const CHUNK_BYTES: usize = 16 << 10;
/// Under way in one direction: far more than any row sends within half a round trip.
const MAX_CHUNKS_IN_FLIGHT: usize = 4096;
