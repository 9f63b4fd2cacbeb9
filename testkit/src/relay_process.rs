//! Relay in a process of its own: the real program, which a test can kill and inspect.

use crate::relay::configuration;
use crate::smtp_sink::SmtpSink;
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

/// Result of a command.
pub struct CommandOutput {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl CommandOutput {
    /// Parses each line of the standard output.
    pub fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Process of the program, with its files and ports.
pub struct RelayProcess {
    directory: TempDir,
    ports: [u16; 3],
    /// Path that starts it.
    program: PathBuf,
    environment: Vec<(String, String)>,
    child: Option<Child>,
}

impl RelayProcess {
    /// Prepares a relay with default limits; it is not started.
    pub fn new(sink: &SmtpSink) -> Self {
        Self::with_limits(sink, "")
    }

    /// Prepares a relay with these `[limits]`.
    pub fn with_limits(sink: &SmtpSink, limits: &str) -> Self {
        Self::with_upstream_port(sink.port(), limits)
    }

    /// Prepares a relay with an upstream at this port.
    pub fn with_upstream_port(port: u16, limits: &str) -> Self {
        Self::with_configuration(|data_dir, ports| configuration(data_dir, ports, port, limits))
    }

    /// Prepares a relay with a configuration from the data directory and three ports. The second port accepts mail without
    /// TLS.
    pub fn with_configuration(text: impl FnOnce(&str, [u16; 3]) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ports = [(); 3].map(|()| free_port());
        let program = crate::mailtrail_program();
        let process = Self { directory, ports, program, environment: Vec::new(), child: None };
        process.write_configuration(&text(process.data_dir().to_str().unwrap(), ports));
        process
    }

    /// Sets the path that starts it.
    pub fn with_program(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// Adds a variable to its environment.
    pub fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Returns the text of the default configuration.
    pub fn configuration(&self, sink: u16, limits: &str) -> String {
        configuration(self.data_dir().to_str().unwrap(), self.ports, sink, limits)
    }

    /// Writes the configuration file without a reload.
    pub fn write_configuration(&self, text: &str) {
        std::fs::write(self.directory.path().join("mailtrail.toml"), text).unwrap();
    }

    /// Starts it and waits until it is ready.
    pub async fn start(&mut self) {
        self.start_command(&mut Command::new(&self.program)).await;
    }

    /// Starts it; false if it refuses to start with an error about a damaged store.
    pub async fn start_or_refuse(&mut self, what: &str) -> bool {
        let path = self.directory.path();
        let log = File::options().create(true).append(true).open(path.join("log")).unwrap();
        let mut child = self.command(&["serve"]).stderr(log).spawn().unwrap();
        let starts = self.ready_count();
        let look = || match child.try_wait().unwrap() {
            Some(status) => Some(status.code()),
            None => (self.ready_count() > starts).then_some(Some(0)),
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

    /// Starts it with these arguments after `serve`.
    pub async fn start_with_arguments(&mut self, words: &[&str]) {
        self.launch(&mut Command::new(&self.program), words).await;
    }

    /// Starts it with this standard error and waits until clients can connect.
    pub async fn start_with_stderr(&mut self, whom: impl Into<Stdio>) {
        self.child = Some(self.command(&["serve"]).stderr(whom).spawn().unwrap());
        let address = self.address(1);
        crate::eventually("the relay is ready", || TcpStream::connect(address).ok()).await;
    }

    /// Starts it with open sockets, by the protocol of systemd.
    pub async fn start_with_sockets(&mut self, sockets: &[&TcpListener]) {
        // `LISTEN_PID` is the id of the process, which only the shell has.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""]).arg(&self.program);
        command.env("LISTEN_FDS", sockets.len().to_string());
        let mappings = sockets.iter().zip(3..);
        let mappings = mappings
            .map(|(socket, child_fd)| FdMapping { parent_fd: socket.try_clone().unwrap().into(), child_fd });
        self.start_command(command.fd_mappings(mappings.collect()).unwrap()).await;
    }

    /// Starts it with a limit of open files.
    pub async fn start_with_descriptor_limit(&mut self, files: u64) {
        self.start_limited(&format!("ulimit -n {files}")).await;
    }

    /// Starts it with a limit of private memory in bytes, which includes the stacks of its threads.
    pub async fn start_with_memory_limit(&mut self, bytes: u64) {
        self.start_limited(&format!("ulimit -d {}", bytes >> 10)).await;
    }

    async fn start_limited(&mut self, limit: &str) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("{limit}; exec \"$0\" \"$@\"")]);
        self.start_command(command.arg(&self.program)).await;
    }

    /// Starts it in the user and mount namespaces of a process and waits until it is ready.
    pub async fn start_in_namespace(&mut self, holder: u32) {
        let starts = self.ready_count();
        self.spawn_in_namespace(holder);
        self.wait_until_ready(starts + 1).await;
    }

    /// Starts it in the user and mount namespaces of a process.
    pub fn spawn_in_namespace(&mut self, holder: u32) {
        let mut command = Command::new("nsenter");
        command.args(["--preserve-credentials", "--user", "--mount", "--target", &holder.to_string()]);
        command.arg(&self.program);
        self.spawn(&mut command, &[]);
    }

    /// Returns whether it was started and not stopped by the test.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Returns whether the process has exited.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    async fn start_command(&mut self, command: &mut Command) {
        self.launch(command, &[]).await;
    }

    async fn launch(&mut self, command: &mut Command, words: &[&str]) {
        let starts = self.ready_count();
        self.spawn(command, words);
        self.wait_until_ready(starts + 1).await;
    }

    fn spawn(&mut self, command: &mut Command, words: &[&str]) {
        let path = self.directory.path();
        let log = File::options().create(true).append(true).open(path.join("log")).unwrap();
        command.arg("--config").arg(path.join("mailtrail.toml")).arg("serve").args(words);
        command.envs(self.environment.iter().cloned());
        self.child = Some(command.stderr(log).spawn().unwrap());
    }

    /// Returns the number of `ready` lines in its log.
    pub fn ready_count(&self) -> usize {
        self.log().matches(" ready ").count()
    }

    /// Waits for this number of `ready` lines in its log.
    pub async fn wait_until_ready(&mut self, times: usize) {
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

    /// Runs it until it exits.
    pub async fn run(&self) -> Output {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.directory.path().join("mailtrail.toml")).arg("serve");
        crate::run_if_installed(&mut command).await.unwrap()
    }

    /// Runs a command with its configuration.
    pub async fn run_command(&self, arguments: &[&str]) -> CommandOutput {
        self.run_command_with_input(arguments, "").await
    }

    /// Runs a command with its configuration and this standard input.
    pub async fn run_command_with_input(&self, arguments: &[&str], stdin: &str) -> CommandOutput {
        let output =
            crate::run_if_installed(self.command(arguments).stdin(crate::stdin_file(stdin.as_bytes())))
                .await
                .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        CommandOutput {
            code: output.status.code().unwrap(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Returns a command with its configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(crate::mailtrail_program());
        command.arg("--config").arg(self.directory.path().join("mailtrail.toml")).args(arguments);
        command
    }

    /// Returns its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Waits until the log contains this text.
    pub async fn wait_for_log(&self, words: &str) {
        let look = || self.log().contains(words).then_some(());
        crate::eventually(&format!("{words:?} in the log"), look).await;
    }

    /// Kills the process with SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends SIGHUP: reload.
    pub async fn send_sighup(&self) {
        self.signal("-HUP").await;
    }

    /// Sends SIGUSR2: upgrade.
    pub async fn send_sigusr2(&self) {
        self.signal("-USR2").await;
    }

    async fn signal(&self, signal: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        let notified = crate::run_if_installed(Command::new("kill").args([signal, &id])).await;
        assert!(notified.is_some_and(|output| output.status.success()));
    }

    /// Sends SIGTERM and waits for the exit.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("-TERM").await;
        self.wait_for_exit().await
    }

    /// Sends SIGTERM.
    pub async fn send_sigterm(&self) {
        self.signal("-TERM").await;
    }

    /// Waits for the exit.
    pub async fn wait_for_exit(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        crate::eventually_within(STOP_TIMEOUT, "it ends", || child.try_wait().unwrap()).await
    }

    /// Restarts it until the queue is empty; returns its store, read-only.
    pub async fn drain(&mut self) -> Store {
        for _ in 0..MAX_RESTARTS {
            assert!(self.terminate().await.success());
            let (store, report) = Store::open_read_only(&self.data_dir(), Clock::System).unwrap();
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

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Returns the directory of its files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Returns the peak of its resident memory in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.as_ref().unwrap().id()));
        let status = status.unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"));
        peak.unwrap().trim().parse::<u64>().unwrap() << 10
    }

    /// Returns the address of one of its three ports.
    pub fn address(&self, listener: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[listener]))
    }
}

impl Drop for RelayProcess {
    /// Kills the process, so that a failed test leaves none.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Returns a free port outside the ephemeral range, so that no outgoing connection takes it while the relay is down. No
/// port is returned twice, because its caller may not listen yet.
pub fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicUsize> = LazyLock::new(|| AtomicUsize::new(fastrand::usize(..12_000)));
    let next = || 20_000 + u16::try_from(NEXT.fetch_add(1, Ordering::Relaxed) % 12_000).unwrap();
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(next).take(1000).find(free).expect("a free port")
}

/// Longest wait for an exit. The program limits a stop to 30 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum number of restarts until the queue is empty.
const MAX_RESTARTS: usize = 20;
