use crate::sink::Delivery;
use crate::sink::event::Item;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where JSON lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSettings {
    /// The file.
    pub path: PathBuf,
    /// Bytes from which on it is put aside as `.1`, and those before as `.2` and so on. Default 100 MiB.
    pub size: u64,
    /// How many are kept aside. Default 5.
    pub keep: u32,
}

pub struct FileSink {
    settings: FileSettings,
}

impl FileSink {
    pub fn new(settings: FileSettings) -> Self {
        Self { settings }
    }

    /// All of them, on stable storage, or none.
    pub async fn deliver(&self, items: &[Item]) -> Delivery {
        let mut text = String::new();
        for item in items {
            text.push_str(&item.json());
            text.push('\n');
        }
        let settings = self.settings.clone();
        let written = tokio::task::spawn_blocking(move || write(&settings, &text)).await;
        match written {
            Ok(Ok(())) => Delivery { done: items.len(), ..Delivery::default() },
            Ok(Err(error)) => {
                let why = format!("{} cannot be written: {error}", self.settings.path.display());
                Delivery { later: Some(why), ..Delivery::default() }
            }
            Err(_) => Delivery { later: Some("the writer broke".to_owned()), ..Delivery::default() },
        }
    }
}

/// Opens it each time: somebody else may put it aside, too.
fn write(settings: &FileSettings, text: &str) -> io::Result<()> {
    let open = || OpenOptions::new().create(true).append(true).mode(0o640).open(&settings.path);
    let mut file = open()?;
    let length = file.metadata()?.len();
    if length > 0 && length + text.len() as u64 > settings.size {
        rotate(&settings.path, settings.keep)?;
        file = open()?;
    }
    let start = file.metadata()?.len();
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
    if written.is_err() {
        // Half a line would spoil the next one.
        let _ = file.set_len(start);
    }
    written
}

fn rotate(path: &Path, keep: u32) -> io::Result<()> {
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
    fn full_files_are_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let settings = FileSettings { path: path.clone(), size: 10, keep: 2 };
        for line in ["1234567\n", "2234567\n", "3\n", "4234567\n", "a line that is longer than a file\n"] {
            write(&settings, line).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("events.jsonl"), "a line that is longer than a file\n");
        assert_eq!(read("events.jsonl.1"), "4234567\n");
        assert_eq!(read("events.jsonl.2"), "2234567\n3\n");
        assert!(!folder.path().join("events.jsonl.3").exists());
    }
}
