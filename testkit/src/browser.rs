//! Headless Chromium, controlled by the DevTools protocol over two pipes. It exits when they close, and reaches this
//! machine only.

use crate::WAIT_TIMEOUT;
use command_fds::{CommandFdExt, FdMapping};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, PipeReader, PipeWriter, Write, pipe};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// One page in a browser process of its own.
pub struct Browser {
    child: Child,
    orders: PipeWriter,
    answers: Receiver<Value>,
    number: u64,
    session: Option<String>,
    events: Vec<Value>,
    _profile: TempDir,
}

impl Browser {
    /// Opens an empty page of this width in pixels; `None` if Chromium is not installed.
    pub fn open(width: u32) -> Option<Self> {
        let profile = tempfile::tempdir().unwrap();
        let ((their_orders, orders), (answers, their_answers)) = (pipe().unwrap(), pipe().unwrap());
        let child = PROGRAMS.iter().find_map(|program| {
            let mut command = Command::new(program);
            command.args(ARGUMENTS).arg(format!("--user-data-dir={}", profile.path().display()));
            let mappings = [
                FdMapping { parent_fd: their_orders.try_clone().unwrap().into(), child_fd: 3 },
                FdMapping { parent_fd: their_answers.try_clone().unwrap().into(), child_fd: 4 },
            ];
            command.fd_mappings(mappings.into()).unwrap();
            match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
                Ok(child) => Some(child),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => panic!("{program}: {error}"),
            }
        })?;
        drop(their_answers);
        let (answers, number, session, events) = (read_messages(answers), 0, None, Vec::new());
        let mut browser = Self { child, orders, answers, number, session, events, _profile: profile };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let target = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", &target)["sessionId"].take();
        browser.session = session.as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        let size = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false});
        browser.call("Emulation.setDeviceMetricsOverride", &size);
        browser.call("Emulation.setFocusEmulationEnabled", &json!({"enabled": true}));
        Some(browser)
    }

    /// Navigates to a URL.
    pub fn navigate(&mut self, url: &str) {
        let gone = self.call("Page.navigate", &json!({"url": url}));
        assert_eq!(gone["errorText"], Value::Null, "{url}");
    }

    /// Adds a script that each page runs first.
    pub fn add_startup_script(&mut self, script: &str) {
        self.call("Page.addScriptToEvaluateOnNewDocument", &json!({"source": script}));
    }

    /// Evaluates an expression in the page.
    pub fn evaluate_or_panic(&mut self, expression: &str) -> Value {
        self.evaluate(expression).unwrap_or_else(|fault| panic!("{expression}: {fault}"))
    }

    fn evaluate(&mut self, expression: &str) -> Result<Value, Value> {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut answer = self.try_call("Runtime.evaluate", &asked)?;
        match answer["exceptionDetails"].take() {
            Value::Null => Ok(answer["result"]["value"].take()),
            fault => Err(fault),
        }
    }

    /// Waits until an expression is true in the page. An exception counts as false, because a page may still load.
    pub fn wait_until(&mut self, expression: &str) {
        let started = Instant::now();
        while self.evaluate(&format!("Boolean({expression})")) != Ok(Value::Bool(true)) {
            assert!(
                started.elapsed() < WAIT_TIMEOUT,
                "{expression}: {}",
                self.evaluate_or_panic("document.body.innerText")
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Presses a key: `Tab` or `Enter`.
    pub fn press(&mut self, key: &str) {
        let (code, text) = if key == "Enter" { (13, "\r") } else { (9, "") };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({
                "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text
            });
            self.call("Input.dispatchKeyEvent", &event);
        }
    }

    /// Presses Tab until the focused element matches `selector`.
    pub fn tab_to(&mut self, selector: &str) {
        for _ in 0..MAX_TAB_PRESSES {
            if self.evaluate_or_panic(&format!("document.activeElement.matches({})", json!(selector))) == true
            {
                return;
            }
            self.press("Tab");
        }
        panic!("{selector} cannot be reached: {}", self.evaluate_or_panic("document.body.innerText"));
    }

    /// Types text into the focused element and presses Enter.
    pub fn type_line(&mut self, text: &str) {
        self.call("Input.insertText", &json!({"text": text}));
        self.press("Enter");
    }

    /// Calls a method of the protocol and returns its result.
    pub fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.try_call(method, parameters).unwrap_or_else(|fault| panic!("{method}: {fault}"))
    }

    fn try_call(&mut self, method: &str, parameters: &Value) -> Result<Value, Value> {
        self.number += 1;
        let mut order = json!({"id": self.number, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            order["sessionId"] = json!(session);
        }
        self.orders.write_all(format!("{order}\0").as_bytes()).unwrap();
        loop {
            let mut answer = self.answers.recv_timeout(WAIT_TIMEOUT).expect("the browser answers");
            if answer["id"] == self.number {
                return match answer["error"].take() {
                    Value::Null => Ok(answer["result"].take()),
                    fault => Err(fault),
                };
            }
            self.events.push(answer);
        }
    }

    /// Returns the parameters of all events with this name so far.
    pub fn events(&self, method: &str) -> Vec<&Value> {
        let of = self.events.iter().filter(|event| event["method"] == method);
        of.map(|event| &event["params"]).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_messages(pipe: PipeReader) -> Receiver<Value> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for message in BufReader::new(pipe).split(0) {
            let Ok(message) = message else { break };
            if sender.send(serde_json::from_slice(&message).unwrap()).is_err() {
                break;
            }
        }
    });
    receiver
}

const PROGRAMS: [&str; 5] =
    ["chromium", "chromium-browser", "google-chrome", "chromium-headless-shell", "chrome-headless-shell"];
const ARGUMENTS: [&str; 11] = [
    "--headless",
    "--remote-debugging-pipe",
    // Root needs no sandbox, and other users need a set-uid helper for it.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];
/// Maximum presses of Tab to reach an element.
const MAX_TAB_PRESSES: usize = 60;
