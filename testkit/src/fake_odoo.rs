//! Fake Odoo in a process of its own (`fake_odoo.py`), with access to its tables. It needs python3, which runs the
//! code of the server action as Odoo does.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

pub struct FakeOdoo {
    pub port: u16,
    child: Child,
}

impl FakeOdoo {
    pub fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/fake_odoo.py");
        let mut child = Command::new("python3")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the small Odoo needs python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { port: line.trim().parse().unwrap(), child }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns all tables, by model and id.
    pub fn state(&self) -> Value {
        self.request("GET", "/state", &Value::Null)
    }

    /// Returns the fields of a record.
    pub fn record(&self, model: &str, id: u64) -> Value {
        self.state()[model][id.to_string()].clone()
    }

    /// Creates a record and returns its id.
    pub fn create(&self, model: &str, values: Value) -> u64 {
        self.request("PUT", "/record", &json!({ "model": model, "values": values })).as_u64().unwrap()
    }

    /// Changes a record.
    pub fn write(&self, model: &str, id: u64, values: Value) {
        self.request("PUT", "/change", &json!({ "model": model, "id": id, "values": values }));
    }

    /// Sets the faults of later calls.
    pub fn set_faults(&self, weather: Value) {
        self.request("PUT", "/weather", &weather);
    }

    /// Returns the number of calls of a method, for example `bot ir.actions.server.run`.
    pub fn call_count(&self, call: &str) -> usize {
        let state = self.state();
        state["calls"].as_array().unwrap().iter().filter(|known| *known == call).count()
    }

    /// Sends a request over a blocking socket: the clock of a test may be paused, this is not.
    fn request(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let body = body.to_string();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

impl Drop for FakeOdoo {
    fn drop(&mut self) {
        // The process exits at the end of its standard input.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
