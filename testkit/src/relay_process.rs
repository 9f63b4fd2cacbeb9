//! A relay in a process of its own: the real program, to be killed or looked at from outside.

use crate::relay::configuration;
use crate::smtp_sink::Sink;
use command_fds::{CommandFdExt, FdMapping};
use mailtrail_mail::Clock;
use mailtrail_store::Store;
use serde_json::Value;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// What a command said.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Each line of it.
    pub fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The real program, its files, its ports.
pub struct Process {
    directory: TempDir,
    ports: [u16; 3],
    /// What it is called by.
    program: PathBuf,
    environment: Vec<(String, String)>,
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
        let program = crate::mailtrail_program();
        let process = Self { directory, ports, program, environment: Vec::new(), child: None };
        process.configure(&text(process.data().to_str().unwrap(), ports));
        process
    }

    /// Under another name.
    pub fn called(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// With another variable in its environment.
    pub fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The text of its usual configuration.
    pub fn configuration(&self, sink: u16, limits: &str) -> String {
        configuration(self.data().to_str().unwrap(), self.ports, sink, limits)
    }

    /// Writes another configuration; nobody is told.
    pub fn configure(&self, text: &str) {
        std::fs::write(self.directory.path().join("mailtrail.toml"), text).unwrap();
    }

    /// Starts it; returns when clients can connect.
    pub async fn start(&mut self) {
        self.start_by(&mut Command::new(&self.program)).await;
    }

    /// Starts it; false where it refuses to start because its store is damaged, and says so.
    pub async fn starts_or_refuses(&mut self, what: &str) -> bool {
        let path = self.directory.path();
        let log = File::options().create(true).append(true).open(path.join("log")).unwrap();
        let mut child = self.command(&["serve"]).stderr(log).spawn().unwrap();
        let starts = self.starts();
        let look = || match child.try_wait().unwrap() {
            Some(status) => Some(status.code()),
            None => (self.starts() > starts).then_some(Some(0)),
        };
        let ended = crate::eventually(what, look).await;
        let log = self.log();
        assert!(!log.contains("panicked at") || ended == Some(0), "{what}: {log}");
        match ended {
            Some(0) => self.child = Some(child),
            Some(4) => assert!(log.contains("segment") || log.contains("ledger"), "{what}: {log}"),
            other => panic!("{what}: it ended with {other:?}: {log}"),
        }
        ended == Some(0)
    }

    /// Starts it with these words behind `serve`.
    pub async fn start_with(&mut self, words: &[&str]) {
        self.launch(&mut Command::new(&self.program), words).await;
    }

    /// Starts it with a standard error that is not looked at; returns when clients can connect.
    pub async fn start_telling(&mut self, whom: impl Into<Stdio>) {
        self.child = Some(self.command(&["serve"]).stderr(whom).spawn().unwrap());
        let address = self.address(1);
        crate::eventually("the relay is ready", || TcpStream::connect(address).ok()).await;
    }

    /// Starts it as systemd does, with sockets that are open already.
    pub async fn start_on(&mut self, sockets: &[&TcpListener]) {
        // The protocol names the process, which is not known before.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""]).arg(&self.program);
        command.env("LISTEN_FDS", sockets.len().to_string());
        let mappings = sockets.iter().zip(3..);
        let mappings = mappings
            .map(|(socket, child_fd)| FdMapping { parent_fd: socket.try_clone().unwrap().into(), child_fd });
        self.start_by(command.fd_mappings(mappings.collect()).unwrap()).await;
    }

    /// Starts it with so many descriptors at most.
    pub async fn start_with_files(&mut self, files: u64) {
        self.start_limited(&format!("ulimit -n {files}")).await;
    }

    /// Starts it with so many bytes of memory of its own at most, stacks of its threads included.
    pub async fn start_with_memory(&mut self, bytes: u64) {
        self.start_limited(&format!("ulimit -d {}", bytes >> 10)).await;
    }

    async fn start_limited(&mut self, limit: &str) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("{limit}; exec \"$0\" \"$@\"")]);
        self.start_by(command.arg(&self.program)).await;
    }

    /// Starts it within the user and mount namespaces of that process.
    pub async fn start_within(&mut self, holder: u32) {
        let starts = self.starts();
        self.begin_within(holder);
        self.started(starts + 1).await;
    }

    /// The same; returns before it is ready.
    pub fn begin_within(&mut self, holder: u32) {
        let mut command = Command::new("nsenter");
        command.args(["--preserve-credentials", "--user", "--mount", "--target", &holder.to_string()]);
        command.arg(&self.program);
        self.begin(&mut command, &[]);
    }

    /// Whether it was started, and not ended again.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Whether it ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    async fn start_by(&mut self, command: &mut Command) {
        self.launch(command, &[]).await;
    }

    async fn launch(&mut self, command: &mut Command, words: &[&str]) {
        let starts = self.starts();
        self.begin(command, words);
        self.started(starts + 1).await;
    }

    fn begin(&mut self, command: &mut Command, words: &[&str]) {
        let path = self.directory.path();
        let log = File::options().create(true).append(true).open(path.join("log")).unwrap();
        command.arg("--config").arg(path.join("mailtrail.toml")).arg("serve").args(words);
        command.envs(self.environment.iter().cloned());
        self.child = Some(command.stderr(log).spawn().unwrap());
    }

    /// How often it said so far that it is ready.
    pub fn starts(&self) -> usize {
        self.log().matches(" ready ").count()
    }

    /// Waits until it has said so often that it is ready.
    pub async fn started(&mut self, times: usize) {
        let log = self.directory.path().join("log");
        let child = self.child.as_mut().unwrap();
        let up = || {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            if let Some(status) = child.try_wait().unwrap() {
                panic!("it ended by itself: {status}\n{log}");
            }
            (log.matches(" ready ").count() >= times).then_some(())
        };
        crate::eventually("the relay is ready", up).await;
    }

    /// Starts it and waits for its end.
    pub async fn run(&self) -> Output {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.directory.path().join("mailtrail.toml")).arg("serve");
        crate::run(&mut command).await.unwrap()
    }

    /// Runs another command under its configuration.
    pub async fn ask(&self, arguments: &[&str]) -> Said {
        self.ask_with(arguments, "").await
    }

    /// The same, with something to read.
    pub async fn ask_with(&self, arguments: &[&str], stdin: &str) -> Said {
        let output = crate::run(self.command(arguments).stdin(crate::input(stdin.as_bytes()))).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Such a command, to be run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(crate::mailtrail_program());
        command.arg("--config").arg(self.directory.path().join("mailtrail.toml")).args(arguments);
        command
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Waits until it has logged that.
    pub async fn says(&self, words: &str) {
        let look = || self.log().contains(words).then_some(());
        crate::eventually(&format!("{words:?} in the log"), look).await;
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

    /// SIGUSR2 to our own child.
    pub async fn restart(&self) {
        self.signal("-USR2").await;
    }

    async fn signal(&self, signal: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        let told = crate::run(Command::new("kill").args([signal, &id])).await;
        assert!(told.is_some_and(|output| output.status.success()));
    }

    /// SIGTERM to our own child; returns when it has ended.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("-TERM").await;
        self.ended().await
    }

    /// Tells it to end.
    pub async fn tell_to_stop(&self) {
        self.signal("-TERM").await;
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        crate::eventually_within(A_STOP, "it ends", || child.try_wait().unwrap()).await
    }

    /// Lets it run until nothing waits any more; returns its store.
    pub async fn settle(&mut self) -> Store {
        for _ in 0..ROUNDS {
            assert!(self.terminate().await.success());
            let (store, report) = Store::open_read_only(&self.data(), Clock::System).unwrap();
            assert_eq!(
                (&report.rebuild_reason, report.corrupt_ranges.len()),
                (&None, 0),
                "an orderly end leaves no damage"
            );
            if store.queued_ids(1).unwrap().is_empty() {
                return store;
            }
            drop(store);
            self.start().await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("something waits for ever");
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
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

/// A port outside the range that outgoing connections take theirs from: nobody takes it while the relay is dead. None
/// is given twice: who got one may not listen there yet.
pub fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicUsize> = LazyLock::new(|| AtomicUsize::new(fastrand::usize(..12_000)));
    let next = || 20_000 + u16::try_from(NEXT.fetch_add(1, Ordering::Relaxed) % 12_000).unwrap();
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(next).take(1000).find(free).expect("a free port")
}

/// No stop takes so long: it is over within 30 s.
const A_STOP: Duration = Duration::from_secs(60);
/// How often it may be started again until nothing waits.
const ROUNDS: usize = 20;
