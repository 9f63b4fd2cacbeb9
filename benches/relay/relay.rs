//! What is measured, each in a folder and with processes of its own.

use crate::load::{LOGIN, RELAY_NAME};
use crate::process::ProcessTree;
use crate::webhooks;
use mailtrail_net::tls;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

/// Which relay.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum RelayKind {
    /// This project's.
    Mailtrail,
    /// The one that is installed, in an instance of its own.
    Postfix,
    /// No relay: webhooks, as an application of one's own takes them, with Python and PostgreSQL.
    Python,
}

/// What a relay has to live with.
#[derive(Clone, Copy)]
pub struct Environment {
    /// Sessions at once.
    pub sessions: usize,
    /// Connections to the upstream at once.
    pub connections: usize,
    /// Every sync takes 5 ms longer.
    pub slow_sync: bool,
}

/// A relay that runs. Dropping it ends it and removes its folder.
pub struct Relay {
    kind: RelayKind,
    child: Child,
    directory: TempDir,
    smtp_address: SocketAddr,
    smtps_address: SocketAddr,
    http_listener: SocketAddr,
}

impl RelayKind {
    /// Its name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mailtrail => "mailtrail",
            Self::Postfix => "postfix",
            Self::Python => "python",
        }
    }
}

impl Relay {
    /// Starts a fresh relay that sends everything to `upstream`.
    pub fn start(kind: RelayKind, upstream: SocketAddr, surroundings: Environment) -> io::Result<Self> {
        // On the disk of the build: /tmp may be memory, and syncs to it would cost nothing.
        let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))?;
        tls::load_self_signed(&directory.path().join("tls"), RELAY_NAME).map_err(io::Error::other)?;
        let [smtp_address, secure, http_listener] = free_addresses()?;
        let (mut command, smtps_address) = match kind {
            RelayKind::Mailtrail => {
                let doors = [smtp_address, secure, http_listener];
                (mailtrail_command(directory.path(), doors, upstream, surroundings.connections)?, secure)
            }
            RelayKind::Postfix => {
                (postfix_command(directory.path(), smtp_address, upstream, surroundings)?, smtp_address)
            }
            RelayKind::Python => (python_command(directory.path(), http_listener)?, secure),
        };
        if surroundings.slow_sync {
            command.env("LD_PRELOAD", build_slow_sync_library(directory.path())?);
        }
        let log = File::create(directory.path().join("output.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Its own group: what is typed at the terminal, and what Postfix's master ends with itself, is not ours.
        let child = command.process_group(0).spawn()?;
        let mut relay = Self { kind, child, directory, smtp_address, smtps_address, http_listener };
        relay.wait_for_port()?;
        Ok(relay)
    }

    /// Where clients connect.
    pub fn address(&self, secure: bool) -> SocketAddr {
        if secure { self.smtps_address } else { self.smtp_address }
    }

    /// Where providers report.
    pub fn http_address(&self) -> SocketAddr {
        self.http_listener
    }

    /// Its processes.
    pub fn process_tree(&self) -> ProcessTree {
        ProcessTree::new(self.child.id())
    }

    /// What trusts its certificate; every session is a full handshake.
    pub fn tls_connector(&self) -> io::Result<TlsConnector> {
        let certificate = self.directory.path().join("tls/relay.pem");
        let mut config = tls::build_client_config(Some(&certificate)).map_err(io::Error::other)?;
        config.resumption = rustls::client::Resumption::disabled();
        Ok(TlsConnector::from(std::sync::Arc::new(config)))
    }

    /// The end of what it wrote, for when it does not do what it should.
    pub fn stderr_tail(&self) -> String {
        let text = fs::read_to_string(self.directory.path().join("output.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(MAX_STDERR_LINES)..].join("\n")
    }

    fn wait_for_port(&mut self) -> io::Result<()> {
        let until = Instant::now() + START_TIMEOUT;
        let door = if self.kind == RelayKind::Python { self.http_listener } else { self.smtp_address };
        while TcpStream::connect(door).is_err() {
            if Instant::now() > until || self.child.try_wait()?.is_some() {
                return Err(io::Error::other(format!("the relay does not start:\n{}", self.stderr_tail())));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = match self.kind {
            // Its master is the child of a script, and a leader of its own.
            RelayKind::Postfix => Command::new("postfix")
                .arg("-c")
                .arg(self.directory.path().join("postfix"))
                .arg("stop")
                .output(),
            RelayKind::Mailtrail | RelayKind::Python => {
                Command::new("sh").args(["-c", "kill -TERM \"$0\"", &self.child.id().to_string()]).output()
            }
        };
        let until = Instant::now() + STOP_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(POLL_INTERVAL);
        }
        // Both fail when it has ended already, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mailtrail_command(
    folder: &Path,
    [plain, secure, http]: [SocketAddr; 3],
    upstream: SocketAddr,
    connections: usize,
) -> io::Result<Command> {
    let (reporter, key) = (webhooks::UPSTREAM_NAME, webhooks::SIGNING_KEY);
    let (host, port, (user, password)) = (upstream.ip(), upstream.port(), LOGIN);
    let config = format!(
        r#"
[server]
hostname = "{RELAY_NAME}"
data_dir = "data"
[tls]
certificate = "tls/relay.pem"
private_key = "tls/relay.key"
[limits]
connections = 10000
connections_per_ip = 10000
[[listener]]
address = "{plain}"
tls = "none"
auth = "none"
[[listener]]
address = "{secure}"
[[user]]
name = "{user}"
password = "{password}"
[[upstream]]
name = "sink"
provider = "plain"
host = "{host}"
port = {port}
tls = "none"
connections = {connections}
[[upstream]]
name = "{reporter}"
provider = "mailgun"
domain = "example.com"
username = "nobody"
password = "none"
webhook_signing_key = "{key}"
[http]
address = "{http}"
"#
    );
    let file = folder.join("mailtrail.toml");
    fs::write(&file, config)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailtrail"));
    command.arg("--config").arg(file).arg("serve");
    Ok(command)
}

/// An application and its database. Its packages are installed below the build's folder, once.
fn python_command(folder: &Path, http: SocketAddr) -> io::Result<Command> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let python = place.join("bin/python");
    if !python.exists() {
        run_checked(Command::new("python3").args(["-m", "venv"]).arg(&place))?;
    }
    let mut pip = Command::new(&python);
    run_checked(
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PYTHON_PACKAGES),
    )?;
    fs::write(folder.join("receiver.py"), include_str!("receiver.py"))?;
    let mut command = Command::new(python);
    command.current_dir(folder).arg("receiver.py").arg(folder);
    command.args([&http.port().to_string(), webhooks::SIGNING_KEY]);
    Ok(command)
}

/// A private instance below `folder`; nothing of the system's own Postfix is touched. Needs root, as Postfix does.
fn postfix_command(
    folder: &Path,
    address: SocketAddr,
    upstream: SocketAddr,
    surroundings: Environment,
) -> io::Result<Command> {
    let Environment { sessions, connections, .. } = surroundings;
    // Postfix's processes run as another user and must reach their folders.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    let settings = folder.join("postfix");
    let accounts = settings.join("sasl");
    for folder in [&folder.join("queue"), &folder.join("state"), &settings, &accounts] {
        fs::create_dir(folder)?;
    }
    fs::write(settings.join("main.cf"), postfix_main_cf(folder, upstream, connections))?;
    let processes = sessions + SPARE_PROCESSES;
    let services = format!(
        "{address} inet n - n - {processes} smtpd\nsmtp unix - - n - {connections} smtp\n{POSTFIX_SERVICES}"
    );
    fs::write(settings.join("master.cf"), services)?;
    let sasl = format!(
        "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {}\nmech_list: PLAIN\n",
        accounts.join("sasldb2").display()
    );
    fs::write(accounts.join("smtpd.conf"), sasl)?;
    let (user, password) = LOGIN;
    let (name, realm) = user.split_once('@').unwrap_or((user, RELAY_NAME));
    let quoted = "printf %s \"$0\" | saslpasswd2 -p -c -f \"$1\" -u \"$2\" \"$3\"";
    let accounts = accounts.join("sasldb2");
    run_checked(Command::new("sh").args(["-c", quoted, password]).arg(&accounts).args([realm, name]))?;
    run_checked(Command::new("chown").arg("postfix").arg(&accounts).arg(folder.join("state")))?;
    let mut command = Command::new("postfix");
    command.arg("-c").arg(settings).arg("start-fg");
    Ok(command)
}

/// Its defaults, without the brakes and look-ups that protect a server on the internet.
fn postfix_main_cf(folder: &Path, upstream: SocketAddr, connections: usize) -> String {
    let (folder, host, port) = (folder.display(), upstream.ip(), upstream.port());
    format!(
        "compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/state
maillog_file = {folder}/output.log
maillog_file_prefixes = {folder}
syslog_name = postfix-bench
myhostname = {RELAY_NAME}
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
local_recipient_maps =
relayhost = [{host}]:{port}
disable_dns_lookups = yes
smtpd_recipient_restrictions = permit_mynetworks, permit_sasl_authenticated, reject
smtpd_client_connection_count_limit = 0
smtpd_client_event_limit_exceptions = static:all
in_flow_delay = 0
default_process_limit = 200
initial_destination_concurrency = {connections}
default_destination_concurrency_limit = {connections}
smtp_connection_cache_destinations = [{host}]:{port}
smtp_tls_security_level = none
smtpd_tls_security_level = may
smtpd_tls_cert_file = {folder}/tls/relay.pem
smtpd_tls_key_file = {folder}/tls/relay.key
smtpd_sasl_auth_enable = yes
smtpd_sasl_path = smtpd
cyrus_sasl_config_path = {folder}/postfix/sasl
import_environment = MAIL_CONFIG MAIL_DEBUG MAIL_LOGTAG TZ LANG=C LD_PRELOAD
"
    )
}

/// The library that makes syncs slow.
fn build_slow_sync_library(folder: &Path) -> io::Result<PathBuf> {
    let (source, library) = (folder.join("slow_sync.c"), folder.join("slow_sync.so"));
    fs::write(&source, include_str!("slow_sync.c"))?;
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
    run_checked(&mut compiler)
        .map_err(|error| io::Error::other(format!("left out, it needs a C compiler: {error}")))?;
    Ok(library)
}

fn run_checked(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{command:?}: {said}")))
}

/// Ports that nobody listens on, right now.
fn free_addresses() -> io::Result<[SocketAddr; 3]> {
    let bind = || TcpListener::bind(ANY_PORT);
    let (one, another, third) = (bind()?, bind()?, bind()?);
    Ok([one.local_addr()?, another.local_addr()?, third.local_addr()?])
}

const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);
/// Longest time until a relay listens, and until it has ended.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const MAX_STDERR_LINES: usize = 10;

/// The fastest that there are for it.
const PYTHON_PACKAGES: [&str; 4] = ["uvicorn", "uvloop", "httptools", "asyncpg"];
/// Processes that listen, beyond one for each session.
const SPARE_PROCESSES: usize = 100;
/// master.cf, without the services that listen and that relay.
const POSTFIX_SERVICES: &str = "\
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
relay unix - - n - 20 smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
";
