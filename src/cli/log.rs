use crate::cli::admin_client::AdminClient;
use crate::cli::output::{Style, format_operator};
use crate::cli::{CliError, Context, print_json, print_line, time_expr};
use mailtrail_mail::Clock;
use mailtrail_relay::LogLine;
use mailtrail_relay::admin::LogFilter;
use mailtrail_trail::{RecipientState, TrailEventKind};
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;

#[derive(Debug, clap::Args)]
pub struct LogArgs {
    /// Print new lines as they arrive
    #[arg(short, long)]
    follow: bool,
    /// Maximum number of lines, newest [default: 50, or all with --since]
    #[arg(short = 'n', long)]
    lines: Option<usize>,
    /// At or after this time: "10 min ago", "2026-11-21 10:00"
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// At or before this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// Part of a recipient's address
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
    /// Part of the sender's address
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// Event (deferred, opened, …) or state of the message
    #[arg(long)]
    status: Option<String>,
    /// Tag of the message
    #[arg(long)]
    tag: Option<String>,
    /// Label of the client
    #[arg(long)]
    client: Option<String>,
    /// Name of the upstream
    #[arg(long)]
    upstream: Option<String>,
    /// Regular expression that matches the JSON of the line
    #[arg(short, long, value_name = "RE")]
    grep: Option<String>,
}

pub async fn run(context: &Context, arguments: &LogArgs) -> Result<(), CliError> {
    let mut filter = build_filter(arguments)?;
    let client = AdminClient::open(context).await?;
    let answer = client.query_log(&filter).await?;
    let found = !answer.lines.is_empty();
    answer.lines.iter().for_each(|line| print_log_line(line, context));
    if !arguments.follow {
        return if found { Ok(()) } else { Err(CliError::AlreadyReported) };
    }
    filter.after = Some(answer.cursor);
    let follow = async {
        loop {
            let answer = client.query_log(&filter).await?;
            answer.lines.iter().for_each(|line| print_log_line(line, context));
            if answer.lines.is_empty() && matches!(client, AdminClient::Offline(_)) {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            filter.after = Some(answer.cursor);
        }
    };
    tokio::select! {
        ended = follow => ended,
        () = stdout_closed() => Ok(()),
    }
}

/// Returns when the reader of standard output has closed it, as `head` does after a pipe. Without this check, a command
/// that waits for the next line would not notice.
async fn stdout_closed() {
    let watched = std::io::stdout().as_fd().try_clone_to_owned().and_then(Sender::from_owned_fd_unchecked);
    match watched {
        // Only the end of the stream is awaited; its kind does not matter.
        Ok(watched) => drop(watched.ready(Interest::ERROR).await),
        // A regular file is never closed by its reader.
        Err(_) => std::future::pending().await,
    }
}

fn build_filter(arguments: &LogArgs) -> Result<LogFilter, CliError> {
    if let Some(pattern) = &arguments.grep {
        regex::Regex::new(pattern)
            .map_err(|error| CliError::Usage(format!("--grep is no regular expression: {error}")))?;
    }
    if let Some(status) = &arguments.status {
        validate_status(status)?;
    }
    let now = Clock::System.now();
    let time = |text: &Option<String>| {
        let parsed = text.as_deref().map(|text| time_expr::parse(text, now)).transpose();
        parsed.map(|time| time.map(|time| time.as_millis())).map_err(CliError::Usage)
    };
    let arguments_since = arguments.since.is_some();
    Ok(LogFilter {
        lines: arguments.lines.or(if arguments_since { None } else { Some(DEFAULT_MAX_LINES) }),
        since: time(&arguments.since)?,
        until: time(&arguments.until)?,
        to: arguments.to.clone(),
        from: arguments.from.clone(),
        status: arguments.status.as_ref().map(|status| status.to_lowercase()),
        tag: arguments.tag.clone(),
        client: arguments.client.clone(),
        upstream: arguments.upstream.clone(),
        grep: arguments.grep.clone(),
        after: None,
    })
}

fn validate_status(status: &str) -> Result<(), CliError> {
    let states = RecipientState::ALL.iter().map(|state| state.as_str());
    let words: BTreeSet<_> = TrailEventKind::all_names().into_iter().chain(states).collect();
    if words.contains(status.to_lowercase().as_str()) {
        return Ok(());
    }
    let words: Vec<_> = words.into_iter().collect();
    Err(CliError::Usage(format!("--status {status:?} is none of {}", words.join(", "))))
}

fn print_log_line(line: &LogLine, context: &Context) {
    if context.json {
        print_json(line);
    } else {
        print_line(format_log_line(line, context.style));
    }
}

fn format_log_line(line: &LogLine, paint: Style) -> String {
    let fact = &line.entry;
    let id = line.id.as_deref().unwrap_or("(no send)");
    let to = if fact.recipients.is_empty() { "all".to_owned() } else { fact.recipients.join(",") };
    let envelope = |from: &String| format!("{} -> {to} ", if from.is_empty() { "<>" } else { from });
    let mut words: Vec<String> = Vec::new();
    words.extend(line.from.as_ref().map(envelope));
    words.extend(fact.upstream.clone());
    words.extend(format_operator(fact));
    words.extend(fact.code.map(|code| code.to_string()));
    words.extend(fact.enhanced.clone());
    words.extend(fact.text.clone());
    words.extend(fact.url.clone());
    let event = paint.color_state(&fact.event, &format!("{:<12}", fact.event));
    format!("{}  {id}  {event} {}", time_expr::format_local(&fact.at), words.join(" ")).trim_end().to_owned()
}

const DEFAULT_MAX_LINES: usize = 50;
const POLL_INTERVAL: Duration = Duration::from_millis(300);
