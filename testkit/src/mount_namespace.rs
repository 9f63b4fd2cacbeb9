//! A mount namespace of a test's own.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A mount namespace, which lives as long as a process in it.
pub struct MountNamespace {
    holder: Child,
}

impl MountNamespace {
    /// One in which a shell ran `script` with these arguments; nothing where this machine does not allow that.
    pub fn new(script: &str, arguments: &[&OsStr]) -> Option<Self> {
        let script = format!("{script} && echo ready && read -r _");
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).args(arguments);
        // It ends with its standard input, so with this test at the latest.
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let namespace = Self { holder };
        (said == "ready\n").then_some(namespace)
    }

    /// The process that holds it.
    pub fn id(&self) -> u32 {
        self.holder.id()
    }

    /// Where an absolute path in it is seen from outside.
    pub fn path(&self, inside: &Path) -> PathBuf {
        let root = Path::new("/proc").join(self.id().to_string()).join("root");
        root.join(inside.strip_prefix("/").unwrap())
    }
}

impl Drop for MountNamespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
