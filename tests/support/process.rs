//! A relay in a process of its own: the real program, to be killed or looked at from outside.

use super::relay::configuration;
use super::sink::Sink;
use mailtrail::clock::Clock;
use mailtrail::store::Store;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;
use tempfile::TempDir;

/// The real program, its files, its ports.
pub struct Process {
    directory: TempDir,
    ports: [u16; 3],
    child: Option<Child>,
}

impl Process {
    /// With the usual limits; it does not run yet.
    pub fn new(sink: &Sink) -> Self {
        Self::with(sink, "")
    }

    /// With these `[limits]`.
    pub fn with(sink: &Sink, limits: &str) -> Self {
        Self::toward(sink.port(), limits)
    }

    /// With another server behind it.
    pub fn toward(port: u16, limits: &str) -> Self {
        Self::configured(|data_dir, ports| configuration(data_dir, ports, port, limits))
    }

    /// With a configuration of its own, made of the data directory and three ports; the second takes mail in clear.
    pub fn configured(text: impl FnOnce(&str, [u16; 3]) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ports = [(); 3].map(|()| free_port());
        let text = text(directory.path().join("data").to_str().unwrap(), ports);
        std::fs::write(directory.path().join("mailtrail.toml"), text).unwrap();
        Self { directory, ports, child: None }
    }

    /// Starts it; returns when clients can connect.
    pub async fn start(&mut self) {
        let path = self.directory.path();
        let log = File::options().create(true).append(true).open(path.join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailtrail"));
        command.arg("--config").arg(path.join("mailtrail.toml")).arg("serve");
        let child = self.child.insert(command.stderr(log).spawn().unwrap());
        let log = || std::fs::read_to_string(path.join("log")).unwrap();
        let up = || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("it ended by itself: {status}\n{}", log());
            }
            TcpStream::connect(("127.0.0.1", self.ports[1])).ok()
        };
        super::eventually("the relay listens", up).await;
    }

    /// SIGKILL to our own child.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGHUP to our own child.
    pub async fn hang_up(&self) {
        self.signal("-HUP").await;
    }

    async fn signal(&self, signal: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        let told = super::run(Command::new("kill").args([signal, &id])).await;
        assert!(told.is_some_and(|output| output.status.success()));
    }

    /// SIGTERM to our own child.
    async fn terminate(&mut self) -> ExitStatus {
        self.signal("-TERM").await;
        let mut child = self.child.take().unwrap();
        super::eventually("it stops when told to", || child.try_wait().unwrap()).await
    }

    /// Lets it run until nothing waits any more; returns its store.
    pub async fn settle(&mut self) -> Store {
        for _ in 0..ROUNDS {
            assert!(self.terminate().await.success());
            let (store, report) = Store::open_for_reading(&self.data(), Clock::System).unwrap();
            assert_eq!(
                (&report.rebuilt, report.damaged.len()),
                (&None, 0),
                "an orderly end leaves no damage"
            );
            if store.queued(1).unwrap().is_empty() {
                return store;
            }
            drop(store);
            self.start().await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("something waits for ever");
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Bytes of memory that it held at most since its start.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.as_ref().unwrap().id()));
        let status = status.unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"));
        peak.unwrap().trim().parse::<u64>().unwrap() << 10
    }

    /// Of one of its three doors.
    pub fn address(&self, door: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[door]))
    }
}

impl Drop for Process {
    /// A failed test leaves no process behind.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port outside the range that outgoing connections take theirs from: nobody takes it while the relay is dead.
fn free_port() -> u16 {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| fastrand::u16(20_000..32_000)).take(1000).find(free).expect("a free port")
}

/// How often it may be started again until nothing waits.
const ROUNDS: usize = 20;
