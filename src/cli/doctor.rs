//! `mailtrail doctor`: whether everything that mail needs is in order.

use crate::cli::{Context, Trouble, config_source, say, say_json};
use crate::config;
use crate::doctor::{Finding, Question, Status, examine, faulty};
use mailtrail_mail::Clock;
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;

pub const EXAMPLES: &str = "Examples:
  mailtrail doctor
  mailtrail doctor --domain example.com --json
  mailtrail doctor --nagios

Nothing is changed and no mail is sent. Exit codes: 0 nothing failed, 1 a check failed; with --nagios 0 ok, 1 warning,
2 critical, 3 unknown.";

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Look at the DNS of this domain, too; the upstreams' own are looked at anyway
    #[arg(long = "domain", value_name = "NAME")]
    domains: Vec<String>,
    /// The DNS server that is asked [default: those of /etc/resolv.conf]
    #[arg(long, value_name = "ADDRESS:PORT")]
    resolver: Option<SocketAddr>,
    /// Seconds that each look may take
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    /// A summary first, and the exit codes of a monitoring plug-in
    #[arg(long)]
    nagios: bool,
}

pub async fn run(context: &Context, arguments: &Arguments) -> Result<(), Trouble> {
    let findings = findings(context, arguments).await?;
    if arguments.nagios && !context.json {
        say(summary(&findings));
    }
    for finding in &findings {
        if context.json {
            say_json(&json!({
                "check": finding.check, "subject": finding.subject, "status": finding.status.word(),
                "what": finding.what, "remedy": finding.remedy,
            }));
        } else {
            say(line(context, finding));
        }
    }
    let worst = worst(&findings);
    match arguments.nagios {
        true if worst != Status::Ok => Err(Trouble::Verdict(code(worst))),
        false if worst == Status::Fail => Err(Trouble::Nothing),
        _ => Ok(()),
    }
}

async fn findings(context: &Context, arguments: &Arguments) -> Result<Vec<Finding>, Trouble> {
    let Some(path) = config_source::file(context) else {
        return Err(Trouble::Usage(
            "there is no configuration to look at; name one: --config PATH".to_owned(),
        ));
    };
    let config = match config::load(path, &config_source::environment()) {
        Ok(config) => config,
        Err(faults) => return Ok(faulty(&faults)),
    };
    let question = Question {
        domains: arguments.domains.clone(),
        resolver: arguments.resolver,
        patience: Duration::from_secs(arguments.timeout),
    };
    Ok(examine(&config, &question, Clock::System).await)
}

fn line(context: &Context, finding: &Finding) -> String {
    let word = context.paint.status(finding.status, &format!("{:<7}", finding.status.word()));
    let subject = if finding.subject.is_empty() { String::new() } else { format!(" {}", finding.subject) };
    let remedy = if finding.remedy.is_empty() { String::new() } else { format!("; {}", finding.remedy) };
    // What others said is theirs; it must not look like a line of ours.
    let text = format!("{}{subject}: {}{remedy}", finding.check, finding.what);
    format!("{word} {}", text.replace(char::is_control, " "))
}

/// A plug-in's first line.
fn summary(findings: &[Finding]) -> String {
    let word = match worst(findings) {
        Status::Ok => "OK",
        Status::Warn => "WARNING",
        Status::Fail => "CRITICAL",
        Status::Unknown => "UNKNOWN",
    };
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    let [fail, warn, unknown] = [Status::Fail, Status::Warn, Status::Unknown].map(count);
    let first =
        findings.iter().max_by_key(|finding| finding.status).filter(|first| first.status != Status::Ok);
    let first = first.map(|first| format!(" ({} {}: {})", first.check, first.subject, first.what));
    let text = format!(
        "MAILTRAIL {word} - {} checks, {fail} failed, {warn} warnings, {unknown} unknown{}",
        findings.len(),
        first.unwrap_or_default()
    );
    // A bar would begin figures there.
    text.replace(|c: char| c.is_control() || c == '|', " ")
}

fn worst(findings: &[Finding]) -> Status {
    findings.iter().map(|finding| finding.status).max().unwrap_or(Status::Unknown)
}

fn code(status: Status) -> u8 {
    match status {
        Status::Ok => 0,
        Status::Warn => 1,
        Status::Fail => 2,
        Status::Unknown => 3,
    }
}
