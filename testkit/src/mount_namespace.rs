//! Mount namespace of a test.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Mount namespace. A child process keeps it open.
pub struct MountNamespace {
    holder: Child,
}

impl MountNamespace {
    /// Returns a namespace in which a shell ran `script` with these arguments; `None` if the machine does not permit
    /// it.
    pub fn new(script: &str, arguments: &[&OsStr]) -> Option<Self> {
        let script = format!("{script} && echo ready && read -r _");
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).args(arguments);
        // The child exits at the end of its standard input, at the latest with this test.
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let mut output = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut output).unwrap();
        let namespace = Self { holder };
        (output == "ready\n").then_some(namespace)
    }

    /// Returns the id of the process that holds the namespace.
    pub fn id(&self) -> u32 {
        self.holder.id()
    }

    /// Returns the path outside of an absolute path inside.
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
