//! `mailtrail doctor`: checks everything that delivery depends on.

use crate::cli::{CliError, Context, config_source, print_json, print_line};
use crate::config;
use crate::doctor::{CheckResult, CheckStatus, DoctorOptions, from_config_error, run_checks};
use mailtrail_mail::Clock;
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;

pub const AFTER_HELP: &str = "Examples:
  mailtrail doctor
  mailtrail doctor --domain example.com --json
  mailtrail doctor --nagios

Nothing is changed and no mail is sent. Exit codes: 0 nothing failed, 1 a check failed; with --nagios 0 ok, 1 warning,
2 critical, 3 unknown.";

#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Also check the DNS of this domain, besides the domains of the upstreams
    #[arg(long = "domain", value_name = "NAME")]
    domains: Vec<String>,
    /// DNS server [default: from /etc/resolv.conf]
    #[arg(long, value_name = "ADDRESS:PORT")]
    resolver: Option<SocketAddr>,
    /// Timeout of each check in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    /// Print a summary first and use the exit codes of monitoring plug-ins
    #[arg(long)]
    nagios: bool,
}

pub async fn run(context: &Context, arguments: &DoctorArgs) -> Result<(), CliError> {
    let findings = collect_results(context, arguments).await?;
    if arguments.nagios && !context.json {
        print_line(format_summary(&findings));
    }
    for finding in &findings {
        if context.json {
            print_json(&json!({
                "check": finding.check, "subject": finding.subject, "status": finding.status.as_str(),
                "what": finding.message, "remedy": finding.remedy,
            }));
        } else {
            print_line(format_result(context, finding));
        }
    }
    let worst = worst_status(&findings);
    match arguments.nagios {
        true if worst != CheckStatus::Ok => Err(CliError::ExitCode(nagios_exit_code(worst))),
        false if worst == CheckStatus::Fail => Err(CliError::AlreadyReported),
        _ => Ok(()),
    }
}

async fn collect_results(context: &Context, arguments: &DoctorArgs) -> Result<Vec<CheckResult>, CliError> {
    let Some(path) = config_source::config_file(context) else {
        return Err(CliError::Usage("no configuration file; give --config PATH".to_owned()));
    };
    let config = match config::load(path, &config_source::read_environment()) {
        Ok(config) => config,
        Err(faults) => return Ok(from_config_error(&faults)),
    };
    let question = DoctorOptions {
        domains: arguments.domains.clone(),
        resolver: arguments.resolver,
        timeout: Duration::from_secs(arguments.timeout),
    };
    Ok(run_checks(&config, &question, Clock::System).await)
}

fn format_result(context: &Context, finding: &CheckResult) -> String {
    let word = context.style.color_status(finding.status, &format!("{:<7}", finding.status.as_str()));
    let subject = if finding.subject.is_empty() { String::new() } else { format!(" {}", finding.subject) };
    let remedy = if finding.remedy.is_empty() { String::new() } else { format!("; {}", finding.remedy) };
    // Remote text must not look like a line of our own.
    let text = format!("{}{subject}: {}{remedy}", finding.check, finding.message);
    format!("{word} {}", text.replace(char::is_control, " "))
}

/// First line of a monitoring plug-in's output.
fn format_summary(findings: &[CheckResult]) -> String {
    let word = match worst_status(findings) {
        CheckStatus::Ok => "OK",
        CheckStatus::Warn => "WARNING",
        CheckStatus::Fail => "CRITICAL",
        CheckStatus::Unknown => "UNKNOWN",
    };
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    let [fail, warn, unknown] = [CheckStatus::Fail, CheckStatus::Warn, CheckStatus::Unknown].map(count);
    let first =
        findings.iter().max_by_key(|finding| finding.status).filter(|first| first.status != CheckStatus::Ok);
    let first = first.map(|first| format!(" ({} {}: {})", first.check, first.subject, first.message));
    let text = format!(
        "MAILTRAIL {word} - {} checks, {fail} failed, {warn} warnings, {unknown} unknown{}",
        findings.len(),
        first.unwrap_or_default()
    );
    // In plug-in output, `|` starts performance data.
    text.replace(|c: char| c.is_control() || c == '|', " ")
}

fn worst_status(findings: &[CheckResult]) -> CheckStatus {
    findings.iter().map(|finding| finding.status).max().unwrap_or(CheckStatus::Unknown)
}

fn nagios_exit_code(status: CheckStatus) -> u8 {
    match status {
        CheckStatus::Ok => 0,
        CheckStatus::Warn => 1,
        CheckStatus::Fail => 2,
        CheckStatus::Unknown => 3,
    }
}
