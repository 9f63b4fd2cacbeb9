//! A relay that runs, with everything around it: a server for each upstream, and an HTTP server for all that it tells others.

use crate::program::Place;
use regex::Regex;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest wait for anything; reached only by a test that fails.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until there is something.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < WAIT_TIMEOUT, "not in time: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// `mailtrail serve`, which ends with the test.
pub struct Relay {
    pub place: Place,
    child: Child,
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Relay {
    /// Returns when it is ready.
    pub fn start(configuration: &str) -> Self {
        let place = Place::new(configuration);
        let log = File::create(place.path().join("log")).unwrap();
        let child = place.command(&["serve"]).stderr(log).spawn().unwrap();
        let mut relay = Self { place, child };
        eventually("the relay is ready", || {
            let ended = relay.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {}", relay.log());
            relay.log().contains(" ready ").then_some(())
        });
        relay
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }
}

/// Ports that are free now, outside the range that outgoing connections take theirs from.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let mut next = 32_000 - fastrand::u16(..8_000);
    [(); N].map(|()| {
        next -= 1;
        while TcpListener::bind(("127.0.0.1", next)).is_err() {
            next -= 1;
        }
        next
    })
}

/// A dialogue with the SMTP server at that port: each line with its reply. A line may hold several, as a message does.
pub fn dialogue(port: u16, lines: &[&str]) -> String {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).unwrap());
    let mut said = format!("S: {}", reply(&mut stream));
    for line in lines {
        stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
        said += &format!("C: {}\nS: {}", line.replace("\r\n", "\nC: "), reply(&mut stream));
    }
    said
}

/// Hands a message over.
pub fn submit(port: u16, from: &str, to: &str, message: &str) -> String {
    let (from, to) = (format!("MAIL FROM:<{from}>"), format!("RCPT TO:{to}"));
    dialogue(port, &["EHLO client.example.com", &from, &to, "DATA", &format!("{message}\r\n."), "QUIT"])
}

fn reply(stream: &mut impl BufRead) -> String {
    let mut reply = String::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert!(line.ends_with("\r\n"), "a whole reply: {reply}{line}");
        let is_last = line.as_bytes().get(3) != Some(&b'-');
        reply += &line.replace("\r\n", "\n");
        if is_last {
            return reply;
        }
        reply += "S: ";
    }
}

/// An HTTP request and what is answered: the status, the header fields that say something, and the body.
pub fn ask(port: u16, request: &str, head: &[(&str, &str)], body: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut sent = format!("{request} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n");
    head.iter().for_each(|(name, value)| sent += &format!("{name}: {value}\r\n"));
    sent += &format!("content-length: {}\r\n\r\n", body.len());
    stream.write_all(sent.as_bytes()).unwrap();
    // A server that answers before it has read everything may close.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
    let mut lines: Vec<_> = head.split("\r\n").map(str::to_ascii_lowercase).collect();
    let status = lines.remove(0);
    lines.retain(|line| {
        !["date:", "connection:", "content-length:"].iter().any(|name| line.starts_with(name))
    });
    lines.sort();
    let lines: String = lines.iter().map(|line| format!("  {line}\n")).collect();
    let body: String = body.lines().map(|line| format!("  | {line}\n")).collect();
    format!("{}\n{lines}{body}", status.trim_start_matches("http/1.1 "))
}

/// What a server of ours has heard, each as a text.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    /// The first that contains all of these, once there is one.
    pub fn wait_for(&self, words: &[&str]) -> String {
        let has_all = |heard: &&String| words.iter().all(|words| heard.contains(words));
        let start = Instant::now();
        loop {
            let heard = self.0.lock().unwrap().clone();
            if let Some(found) = heard.iter().find(has_all) {
                return found.clone();
            }
            assert!(start.elapsed() < WAIT_TIMEOUT, "{words:?} is not heard, but\n{}", heard.join("\n"));
            std::thread::sleep(PAUSE);
        }
    }
}

/// An SMTP server: the envelope and the message of what it takes. It refuses `gone@example.net`.
pub fn serve_smtp() -> (u16, Heard) {
    let (listener, heard) = (TcpListener::bind(("127.0.0.1", 0)).unwrap(), Heard::default());
    let (port, kept) = (listener.local_addr().unwrap().port(), heard.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let kept = kept.clone();
            std::thread::spawn(move || take_mail(stream, &kept));
        }
    });
    (port, heard)
}

/// `None` at the end of the connection.
fn take_mail(stream: TcpStream, kept: &Heard) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let say = |stream: &mut BufReader<TcpStream>, line: &str| {
        stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).ok()
    };
    say(&mut stream, "220 mx.example.net ESMTP")?;
    let mut mail = String::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let answer = match line.get(..4)? {
            "EHLO" => {
                "250-mx.example.net\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250-DSN\r\n250 AUTH PLAIN"
            }
            "AUTH" => "235 2.7.0 yes",
            "RCPT" if line.contains("gone@example.net") => "550 5.1.1 no such user",
            "DATA" => {
                say(&mut stream, "354 go on")?;
                loop {
                    let mut line = String::new();
                    stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
                    if line == ".\r\n" {
                        break;
                    }
                    mail += line.strip_suffix("\r\n").unwrap();
                    mail += "\n";
                }
                kept.0.lock().unwrap().push(std::mem::take(&mut mail));
                "250 2.0.0 taken"
            }
            _ => "250 2.0.0 fine",
        };
        match line.get(..4)? {
            "MAIL" => mail = line.trim_end().to_owned() + "\n",
            "RCPT" if answer.starts_with('2') => mail += &(line.trim_end().to_owned() + "\n"),
            _ => {}
        }
        say(&mut stream, answer)?;
    }
}

/// An HTTP server that takes everything.
pub fn serve_http() -> (u16, Heard) {
    let (listener, heard) = (TcpListener::bind(("127.0.0.1", 0)).unwrap(), Heard::default());
    let (port, kept) = (listener.local_addr().unwrap().port(), heard.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let kept = kept.clone();
            std::thread::spawn(move || take_requests(stream, &kept));
        }
    });
    (port, heard)
}

/// `None` at the end of the connection.
fn take_requests(stream: TcpStream, kept: &Heard) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut lines, mut length) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().ok()?;
            }
            lines.push(line);
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        lines[1..].sort();
        let body = String::from_utf8_lossy(&body).replace("\r\n", "\n");
        kept.0.lock().unwrap().push(format!("{}\n\n{body}\n", lines.join("\n")));
        stream.get_mut().write_all(b"HTTP/1.1 204 No Content\r\n\r\n").ok()?;
    }
}

/// The text without what is another in each run: ids are numbered in the order of their appearance.
pub fn settled(text: &str) -> String {
    let mut text = text.to_owned();
    for (form, name) in [
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
        (r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d{1,2} \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}", "DATE"),
        (r"(webhook-timestamp: )\d+", "${1}EPOCH"),
        (r"v1,[A-Za-z0-9+/=]{20,}", "SIGNATURE"),
        (r#""id":"\d+\.\d+\.\d+""#, r#""id":"SEGMENT.OFFSET.PART""#),
        (r"webhook-id: \d+\.\d+\.\d+", "webhook-id: SEGMENT.OFFSET.PART"),
        (r"(content-length|host): [0-9.:]+", "${1}: VARIES"),
        (r"127\.0\.0\.1:\d+", "ADDRESS"),
        (r"erased-[0-9a-f]{16}@", "erased-CODE16@"),
        (r"suppressed-[0-9a-f]{32}@", "suppressed-CODE32@"),
    ] {
        text = Regex::new(form).unwrap().replace_all(&text, name).into_owned();
    }
    for (form, name) in [
        (r#"boundary="([^"]+)""#, "BOUNDARY"),
        (r"\b([0-9][0-9A-HJKMNP-TV-Z]{25}|[0-9][0-9a-hjkmnp-tv-z]{25})\b", "ID"),
    ] {
        let mut found: Vec<String> = Vec::new();
        for captures in Regex::new(form).unwrap().captures_iter(&text) {
            let one = captures[1].to_ascii_uppercase();
            if !found.contains(&one) {
                found.push(one);
            }
        }
        for (index, one) in found.iter().enumerate() {
            let form = format!("(?i){}", regex::escape(one));
            let name = format!("{name}-{}", index + 1);
            text = Regex::new(&form).unwrap().replace_all(&text, &*name).into_owned();
        }
    }
    text
}
