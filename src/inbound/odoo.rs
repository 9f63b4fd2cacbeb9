use super::Verdict;
use super::letter::{Letter, damage};
use super::xmlrpc::{self, Answer, Argument, Call};
use crate::endpoint;
use crate::secret::Secret;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use mail_parser::{MessageParser, MimeHeaders};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, Url};
use std::io;
use std::time::Duration;

/// A database of Odoo's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OdooSettings {
    /// Where Odoo is: scheme, host, port.
    pub url: Url,
    /// The database's name.
    pub database: String,
    /// A user that may see and make what mail is about.
    pub username: String,
    /// The user's API key.
    pub key: Secret,
    /// How long a mail and its answer may take. Default 2 min, 1 s to 10 min.
    pub timeout: Duration,
}

pub struct OdooTarget {
    settings: OdooSettings,
    client: Option<reqwest::Client>,
    /// The user's number, once it logged in.
    uid: Option<i64>,
}

/// Why there is no answer to a call.
enum Trouble {
    /// Nobody answers, or nobody who speaks XML-RPC.
    Away(String),
    /// What is kept of the mail is damaged.
    Damaged(String),
}

impl OdooTarget {
    pub fn new(settings: OdooSettings) -> Self {
        Self { settings, client: None, uid: None }
    }

    /// Hands the mail to `mail.thread.message_process`. One that is handed over again because nothing was heard is known
    /// to Odoo by its Message-ID.
    pub async fn deliver(&mut self, letter: &Letter) -> Verdict {
        match letter.beginning().await {
            Ok(beginning) => {
                if let Some(why) = misread(&beginning) {
                    return Verdict::Refused(why.to_owned());
                }
            }
            Err(error) => {
                return damage(&error).map_or_else(|| Verdict::Later(error.to_string()), Verdict::Refused);
            }
        }
        let uid = match self.log_in().await {
            Ok(uid) => uid,
            Err(verdict) => return verdict,
        };
        let OdooSettings { database, key, .. } = &self.settings;
        let arguments = [
            Argument::Text(database),
            Argument::Number(uid),
            Argument::Text(key.reveal()),
            Argument::Text("mail.thread"),
            Argument::Text("message_process"),
            Argument::FalseAndBytes,
        ];
        let call = xmlrpc::call("execute_kw", &arguments);
        let answer = self.ask("object", call, Some(letter)).await;
        if matches!(answer, Ok(Answer::Fault { code: 3, .. })) {
            self.uid = None;
        }
        match answer {
            Ok(answer) => verdict(answer),
            Err(Trouble::Away(why)) => Verdict::Away(why),
            Err(Trouble::Damaged(why)) => Verdict::Refused(why),
        }
    }

    async fn log_in(&mut self) -> Result<i64, Verdict> {
        if let Some(uid) = self.uid {
            return Ok(uid);
        }
        let OdooSettings { database, username, key, .. } = &self.settings;
        let arguments = [
            Argument::Text(database),
            Argument::Text(username),
            Argument::Text(key.reveal()),
            Argument::Nothing,
        ];
        let call = xmlrpc::call("authenticate", &arguments);
        match self.ask("common", call, None).await {
            Ok(Answer::Value(uid)) => match uid.parse::<i64>().ok().filter(|uid| *uid > 0) {
                Some(uid) => Ok(*self.uid.insert(uid)),
                None => Err(Verdict::Away(
                    "Odoo refuses the login; check username and api_key (does the key still hold?) and database".to_owned(),
                )),
            },
            Ok(Answer::Fault { words, .. }) => Err(Verdict::Away(last_line(&words))),
            Err(Trouble::Away(why) | Trouble::Damaged(why)) => Err(Verdict::Away(why)),
        }
    }

    /// Calls a method of a service, with the mail in the middle of it where there is one.
    async fn ask(&mut self, service: &str, call: Call, letter: Option<&Letter>) -> Result<Answer, Trouble> {
        let client = self.client().map_err(Trouble::Away)?;
        let mut url = self.settings.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["xmlrpc", "2", service]);
        }
        let Call { head, tail } = call;
        let mail = letter.map_or(0, |letter| xmlrpc::encoded_size(letter.size()));
        let size = head.len() as u64 + mail + tail.len() as u64;
        let [head, tail] = [head, tail].map(|half| stream::iter([Ok::<_, io::Error>(Bytes::from(half))]));
        let body = match letter {
            // Damage shows itself while the last piece is read, which Odoo does not get then.
            Some(letter) => Body::wrap_stream(head.chain(xmlrpc::encoded(letter.pieces())).chain(tail)),
            None => Body::wrap_stream(head.chain(tail)),
        };
        let request =
            client.post(url).header(CONTENT_TYPE, "text/xml").header(CONTENT_LENGTH, size).body(body);
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Err(trouble(error)),
        };
        let status = answer.status();
        let text = answer.text().await.map_err(trouble)?;
        let strange = || {
            Trouble::Away(format!(
                "what answers ({status}) speaks no XML-RPC; is the url that of Odoo itself?"
            ))
        };
        xmlrpc::read(&text).ok_or_else(strange)
    }

    fn client(&mut self) -> Result<reqwest::Client, String> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        // Odoo is a neighbour, mostly.
        let client = endpoint::client(&self.settings.url, true, self.settings.timeout)?;
        self.client = Some(client.clone());
        Ok(client)
    }
}

fn trouble(error: reqwest::Error) -> Trouble {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if let Some(why) = error.downcast_ref::<io::Error>().and_then(damage) {
            return Trouble::Damaged(why);
        }
        cause = error.source();
    }
    Trouble::Away(endpoint::cause(error))
}

/// What Odoo's answer says. It faults after it has kept everything where a method gives nothing back.
fn verdict(answer: Answer) -> Verdict {
    let (code, words) = match answer {
        Answer::Value(value) if value == "0" => {
            return Verdict::Taken("nothing to add: a report, or known already".to_owned());
        }
        Answer::Value(value) => return Verdict::Taken(format!("record {value}")),
        Answer::Fault { words, .. } if words.contains("cannot marshal") => {
            return Verdict::Taken("nothing to add".to_owned());
        }
        Answer::Fault { code, words } => (code, words),
    };
    let said = last_line(&words);
    let busy = BUSY.iter().any(|sign| words.contains(sign));
    match code {
        // Somebody has to give the user its rights, or its key.
        3 | 4 => Verdict::Away(format!("{said}; give the user its rights in Odoo")),
        _ if busy => Verdict::Away(said),
        _ => Verdict::Refused(said),
    }
}

/// Of a traceback.
fn last_line(words: &str) -> String {
    let line = words.trim().lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.trim().chars().take(300).collect()
}

/// Why Odoo would take a report for what it does not say: it counts every one as a failure for good.
fn misread(beginning: &[u8]) -> Option<&'static str> {
    let message = MessageParser::default().parse(beginning)?;
    let kind = message.content_type()?;
    if !(kind.ctype().eq_ignore_ascii_case("multipart") && kind.subtype() == Some("report")) {
        return None;
    }
    if kind.attribute("report-type").is_some_and(|kind| kind.eq_ignore_ascii_case("feedback-report")) {
        return Some("a report of a complaint, which Odoo would count as a bounce");
    }
    let is_status = |kind: &mail_parser::ContentType<'_>| {
        kind.ctype().eq_ignore_ascii_case("message") && kind.subtype() == Some("delivery-status")
    };
    let status = message.parts.iter().find(|part| part.content_type().is_some_and(is_status))?;
    let text = String::from_utf8_lossy(status.contents()).to_lowercase();
    let actions: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("action:")).map(str::trim).collect();
    let none_failed = !actions.is_empty() && !actions.iter().any(|action| action.starts_with("failed"));
    none_failed.then_some("a report of no failure, which Odoo would count as a bounce")
}

/// What stands in faults that pass.
const BUSY: [&str; 4] = ["OperationalError", "could not serialize", "InterfaceError", "PoolError"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_apart() {
        let fault = |code, words: &str| verdict(Answer::Fault { code, words: words.to_owned() });
        assert!(matches!(verdict(Answer::Value("23".into())), Verdict::Taken(_)));
        assert!(matches!(verdict(Answer::Value("0".into())), Verdict::Taken(_)));
        assert!(matches!(fault(1, "TypeError: cannot marshal None unless allow_none"), Verdict::Taken(_)));
        assert!(matches!(fault(3, "Access Denied"), Verdict::Away(_)));
        assert!(matches!(fault(4, "You are not allowed"), Verdict::Away(_)));
        assert!(matches!(fault(1, "psycopg2.OperationalError: server closed\n"), Verdict::Away(_)));
        let routeless = "Traceback (most recent call last):\n  File \"x\"\nValueError: No possible route found for incoming\n";
        assert_eq!(
            fault(1, routeless),
            Verdict::Refused("ValueError: No possible route found for incoming".into())
        );
    }

    #[test]
    fn only_reports_of_failures_are_read_as_such() {
        let report = |kind: &str, status: &str| {
            format!(
                "From: MAILER-DAEMON@x\r\nContent-Type: multipart/report; report-type={kind}; boundary=b\r\n\r\n--b\r\n\r\nwords\r\n\
                 --b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\r\nFinal-Recipient: rfc822; a@b\r\n\
                 {status}\r\n\r\n--b--\r\n"
            )
        };
        for (kind, status, taken) in [
            ("delivery-status", "Action: failed\r\nStatus: 5.1.1", true),
            ("delivery-status", "Action: Failed (x)", true),
            ("delivery-status", "Status: 5.1.1", true),
            ("delivery-status", "Action: delayed\r\nStatus: 4.4.1", false),
            ("delivery-status", "Action: relayed", false),
            ("feedback-report", "Action: failed", false),
        ] {
            assert_eq!(misread(report(kind, status).as_bytes()).is_none(), taken, "{kind} {status}");
        }
        assert_eq!(misread(b"Subject: a person's\r\n\r\nAction: delayed\r\n"), None);
    }
}
