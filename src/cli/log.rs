use crate::cli::admin_client::Desk;
use crate::cli::output::Paint;
use crate::cli::{Context, Trouble, say, say_json, time_expr, trace};
use mailtrail_mail::Clock;
use mailtrail_relay::LogLine;
use mailtrail_relay::admin::LogFilter;
use mailtrail_trail::{State, What};
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Go on with new lines as they come
    #[arg(short, long)]
    follow: bool,
    /// At most so many lines, the newest [default: 50, or all with --since]
    #[arg(short = 'n', long)]
    lines: Option<usize>,
    /// From this time on: "10 min ago", "2026-11-21 10:00"
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Up to this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// A part of a recipient's address
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
    /// A part of the sender's address
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// An event (deferred, opened, …) or the state that the mail is in
    #[arg(long)]
    status: Option<String>,
    /// A tag of the mail
    #[arg(long)]
    tag: Option<String>,
    /// A client's label
    #[arg(long)]
    client: Option<String>,
    /// An upstream's name
    #[arg(long)]
    upstream: Option<String>,
    /// A regular expression that fits the line's JSON
    #[arg(short, long, value_name = "RE")]
    grep: Option<String>,
}

pub async fn run(context: &Context, arguments: &Arguments) -> Result<(), Trouble> {
    let mut filter = filter(arguments)?;
    let desk = Desk::open(context).await?;
    let answer = desk.log(&filter).await?;
    let found = !answer.lines.is_empty();
    answer.lines.iter().for_each(|line| print(line, context));
    if !arguments.follow {
        return if found { Ok(()) } else { Err(Trouble::Nothing) };
    }
    filter.after = Some(answer.cursor);
    let follow = async {
        loop {
            let answer = desk.log(&filter).await?;
            answer.lines.iter().for_each(|line| print(line, context));
            if answer.lines.is_empty() && matches!(desk, Desk::Store(_)) {
                tokio::time::sleep(PAUSE).await;
            }
            filter.after = Some(answer.cursor);
        }
    };
    tokio::select! {
        ended = follow => ended,
        () = deserted() => Ok(()),
    }
}

/// Returns when nobody reads standard output any more, as behind a pipe into `head`: the next line may be long in coming.
async fn deserted() {
    let watched = std::io::stdout().as_fd().try_clone_to_owned().and_then(Sender::from_owned_fd_unchecked);
    match watched {
        // Nothing but its end is waited for, so it is not asked what it was.
        Ok(watched) => drop(watched.ready(Interest::ERROR).await),
        // A file is never left.
        Err(_) => std::future::pending().await,
    }
}

fn filter(arguments: &Arguments) -> Result<LogFilter, Trouble> {
    if let Some(pattern) = &arguments.grep {
        regex::Regex::new(pattern)
            .map_err(|error| Trouble::Usage(format!("--grep is no regular expression: {error}")))?;
    }
    if let Some(status) = &arguments.status {
        check_word(status)?;
    }
    let now = Clock::System.now();
    let time = |text: &Option<String>| {
        let parsed = text.as_deref().map(|text| time_expr::parse(text, now)).transpose();
        parsed.map(|time| time.map(|time| time.millis())).map_err(Trouble::Usage)
    };
    let arguments_since = arguments.since.is_some();
    Ok(LogFilter {
        lines: arguments.lines.or(if arguments_since { None } else { Some(LINES) }),
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

fn check_word(status: &str) -> Result<(), Trouble> {
    let states = State::ALL.iter().map(|state| state.word());
    let words: BTreeSet<_> = What::words().into_iter().chain(states).collect();
    if words.contains(status.to_lowercase().as_str()) {
        return Ok(());
    }
    let words: Vec<_> = words.into_iter().collect();
    Err(Trouble::Usage(format!("--status {status:?} is none of {}", words.join(", "))))
}

fn print(line: &LogLine, context: &Context) {
    if context.json {
        say_json(line);
    } else {
        say(text(line, context.paint));
    }
}

fn text(line: &LogLine, paint: Paint) -> String {
    let fact = &line.fact;
    let id = line.id.as_deref().unwrap_or("(no send)");
    let to = if fact.recipients.is_empty() { "all".to_owned() } else { fact.recipients.join(",") };
    let envelope = |from: &String| format!("{} -> {to} ", if from.is_empty() { "<>" } else { from });
    let mut words: Vec<String> = Vec::new();
    words.extend(line.from.as_ref().map(envelope));
    words.extend(fact.upstream.clone());
    words.extend(trace::by_whom(fact));
    words.extend(fact.code.map(|code| code.to_string()));
    words.extend(fact.enhanced.clone());
    words.extend(fact.text.clone());
    words.extend(fact.url.clone());
    let event = paint.state(&fact.event, &format!("{:<12}", fact.event));
    format!("{}  {id}  {event} {}", time_expr::shown(&fact.at), words.join(" ")).trim_end().to_owned()
}

const LINES: usize = 50;
const PAUSE: Duration = Duration::from_millis(300);
