use crate::sink::delivery_result::DeliveryResult;
use crate::sink::event::SinkEvent;
use std::fs::{File, OpenOptions};
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Settings of a file sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSettings {
    /// Path of the file.
    pub path: PathBuf,
    /// Size in bytes at which the file is rotated to `.1`, earlier ones to `.2` and so on. Default: 100 MiB.
    pub max_bytes: u64,
    /// Number of rotated files. Default: 5.
    pub max_rotated: u32,
}

pub struct FileSink {
    settings: FileSettings,
}

impl FileSink {
    pub fn new(settings: FileSettings) -> Self {
        Self { settings }
    }

    /// Writes all events to stable storage, or none.
    pub async fn deliver(&self, items: &[SinkEvent]) -> DeliveryResult {
        let mut text = String::new();
        for item in items {
            text.push_str(&item.to_json());
            text.push('\n');
        }
        let settings = self.settings.clone();
        let written = tokio::task::spawn_blocking(move || append_lines(&settings, &text)).await;
        match written {
            Ok(Ok(())) => DeliveryResult { processed: items.len(), ..DeliveryResult::default() },
            Ok(Err(error)) => {
                let why = format!("cannot write {}: {error}", self.settings.path.display());
                DeliveryResult { retry_reason: Some(why), ..DeliveryResult::default() }
            }
            Err(_) => DeliveryResult {
                retry_reason: Some("the writing task panicked".to_owned()),
                ..DeliveryResult::default()
            },
        }
    }
}

/// Appends lines. Opens the file each time: another program may rotate it, too.
fn append_lines(settings: &FileSettings, text: &str) -> io::Result<()> {
    let open = || OpenOptions::new().create(true).append(true).mode(0o640).open(&settings.path);
    let mut file = open()?;
    let length = file.metadata()?.len();
    if length > 0 && length + text.len() as u64 > settings.max_bytes {
        rotate_files(&settings.path, settings.max_rotated)?;
        file = open()?;
    }
    let start = file.metadata()?.len();
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
    if written.is_err() {
        // A partial line would corrupt the next one.
        let _ = file.set_len(start);
    }
    written
}

fn rotate_files(path: &Path, keep: u32) -> io::Result<()> {
    let aside = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..keep).rev() {
        match std::fs::rename(aside(number), aside(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    if keep == 0 { File::create(path).map(drop) } else { std::fs::rename(path, aside(1)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotates_full_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let settings = FileSettings { path: path.clone(), max_bytes: 10, max_rotated: 2 };
        for line in ["1234567\n", "2234567\n", "3\n", "4234567\n", "a line that is longer than a file\n"] {
            append_lines(&settings, line).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("events.jsonl"), "a line that is longer than a file\n");
        assert_eq!(read("events.jsonl.1"), "4234567\n");
        assert_eq!(read("events.jsonl.2"), "2234567\n3\n");
        assert!(!folder.path().join("events.jsonl.3").exists());
    }
}
