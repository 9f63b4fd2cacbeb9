//! The command line: one file per command.

// The macros panic if standard output is closed; `print_line` and `eprint_line` do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod admin_client;
mod breaker;
mod config;
mod config_source;
mod context;
mod demo;
mod doctor;
mod erase;
mod events;
mod exit;
mod export;
mod generate;
mod inbound;
mod log;
mod output;
mod queue;
mod reexec;
mod sandbox;
mod sandbox_upstream;
mod sd_notify;
mod send_test;
mod sendmail;
mod serve;
mod setup;
mod sink;
mod stats;
mod stdin;
mod store;
mod suppress;
mod time_expr;
mod trace;
mod user;

use crate::cli::context::{ColorChoice, Context};
use crate::cli::exit::{CliError, exit_code, usage_exit_code};
use crate::cli::output::{eprint_line, print_json, print_line, write_stdout};
use crate::cli::reexec::Reexec;
use clap::{CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Every mail your applications send, and what became of it.
#[derive(Debug, Parser)]
#[command(name = "mailtrail", version, max_term_width = 100)]
struct Cli {
    /// Configuration file [default: /etc/mailtrail/mailtrail.toml; without one, the sandbox's in this directory]
    #[arg(long, global = true, value_name = "PATH", env = "MAILTRAIL_CONFIG")]
    config: Option<PathBuf>,
    /// Print one JSON object per line instead of text
    #[arg(long, global = true)]
    json: bool,
    /// When to use colours
    #[arg(long, global = true, value_enum, default_value_t = ColorChoice::Auto)]
    color: ColorChoice,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay
    #[command(after_help = serve::AFTER_HELP)]
    Serve(serve::ServeArgs),
    /// Show the complete loop on this machine without configuration
    #[command(after_help = "Example: mailtrail demo")]
    Demo,
    /// Run the fake provider alone; the local part selects the scenario
    #[command(after_help = "Example: mailtrail sandbox --webhook http://127.0.0.1:8080/webhooks/mailgun")]
    Sandbox(sandbox::SandboxArgs),
    /// Check or show the configuration
    #[command(subcommand, after_help = "Example: mailtrail config check --config mailtrail.toml")]
    Config(config::ConfigCommand),
    /// Show the trail of a message: by tracking id, Message-ID, recipient, Odoo record or subject
    #[command(after_help = "Example: mailtrail trace sale.order,42")]
    Trace(trace::TraceArgs),
    /// Show the event log
    #[command(after_help = "Example: mailtrail log -f --status bounced --since '10 min ago'")]
    Log(log::LogArgs),
    /// List and manage queued messages
    #[command(subcommand, after_help = "Example: mailtrail queue list")]
    Queue(queue::QueueCommand),
    /// Inspect and replay provider events: received, unmatched and undecodable
    #[command(subcommand, after_help = "Example: mailtrail events list --event bounced")]
    Events(events::EventsCommand),
    /// List inbound messages and release undelivered ones
    #[command(subcommand, after_help = "Example: mailtrail inbound dead")]
    Inbound(inbound::InboundCommand),
    /// Show and override the circuit breakers of the upstreams
    #[command(subcommand, after_help = "Example: mailtrail breaker status")]
    Breaker(breaker::BreakerCommand),
    /// Inspect and replay event sinks
    #[command(subcommand, after_help = "Example: mailtrail sink list")]
    Sink(sink::SinkCommand),
    /// Show statistics by day, tag, client, domain or upstream
    #[command(after_help = stats::AFTER_HELP)]
    Stats(stats::StatsArgs),
    /// Manage the suppression list
    #[command(subcommand, after_help = "Example: mailtrail suppress list --reason complaint")]
    Suppress(suppress::SuppressCommand),
    /// Verify, rebuild or back up the store
    #[command(subcommand, after_help = "Example: mailtrail store verify")]
    Store(store::StoreCommand),
    /// Export all data about an address
    #[command(after_help = export::AFTER_HELP)]
    Export(export::ExportArgs),
    /// Erase an address from all stored data
    #[command(after_help = erase::AFTER_HELP)]
    Erase(erase::EraseArgs),
    /// Submit a message from standard input, like /usr/sbin/sendmail
    #[command(after_help = "Example: mailtrail sendmail -t -i < mail.txt")]
    Sendmail(sendmail::SendmailArgs),
    /// Send a test message and show each step of its trail
    #[command(after_help = send_test::AFTER_HELP)]
    SendTest(send_test::SendTestArgs),
    /// Check configuration, connections, DNS and webhooks; suggest fixes
    #[command(after_help = doctor::AFTER_HELP)]
    Doctor(doctor::DoctorArgs),
    /// Register webhooks at Mailgun or Brevo, or install Odoo's server action
    #[command(subcommand, after_help = "Example: mailtrail setup mailgun --url https://relay.example.com")]
    Setup(setup::SetupCommand),
    /// Create credentials for users of the listeners
    #[command(subcommand, after_help = "Example: mailtrail user hash")]
    User(user::UserCommand),
    /// Generate shell completions
    #[command(after_help = generate::AFTER_HELP)]
    Completions(generate::CompletionsArgs),
    /// Write the manual pages, one for each command
    #[command(after_help = "Example: mailtrail man ~/.local/share/man/man1")]
    Man(generate::ManArgs),
}

/// Parses the arguments and runs the command.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let words = normalize_args(arguments);
    let sysexits = uses_sysexits(&words);
    let arguments = match Cli::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors.
            let code = if error.use_stderr() { usage_exit_code(sysexits) } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let Cli { config, json, color: color_choice, command: chosen } = arguments;
    let style = output::Style::new(color_choice.is_enabled_for(&std::io::stdout()));
    let context = Context { config, json, color_choice, style };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            return exit_code(Err(CliError::Other(format!("the runtime cannot start: {error}"))), sysexits);
        }
    };
    let ended = runtime.block_on(run_command(context, chosen));
    runtime.shutdown_background();
    let ended = match ended {
        Ok(Some(successor)) => Err(successor.exec()),
        Ok(None) => Ok(()),
        Err(trouble) => Err(trouble),
    };
    exit_code(ended, sysexits)
}

/// Runs a command. Returns the successor of this process, if there is one.
async fn run_command(context: Context, command: Command) -> Result<Option<Reexec>, CliError> {
    match command {
        Command::Serve(arguments) => return serve::run(&context, &arguments).await,
        Command::Demo => demo::run(&context).await,
        Command::Sandbox(arguments) => sandbox::run(&context, arguments).await,
        Command::Config(command) => config::run(&context, &command),
        Command::Trace(arguments) => trace::run(&context, &arguments).await,
        Command::Log(arguments) => log::run(&context, &arguments).await,
        Command::Queue(command) => queue::run(&context, &command).await,
        Command::Events(command) => events::run(&context, &command).await,
        Command::Inbound(command) => inbound::run(&context, &command).await,
        Command::Breaker(command) => breaker::run(&context, &command).await,
        Command::Sink(command) => sink::run(&context, &command).await,
        Command::Stats(arguments) => stats::run(&context, &arguments).await,
        Command::Suppress(command) => suppress::run(&context, &command).await,
        Command::Store(command) => store::run(&context, &command).await,
        Command::SendTest(arguments) => send_test::run(&context, &arguments).await,
        Command::Export(arguments) => export::run(&context, &arguments).await,
        Command::Erase(arguments) => erase::run(&context, &arguments).await,
        Command::Sendmail(arguments) => sendmail::run(&context, arguments).await,
        Command::Doctor(arguments) => doctor::run(&context, &arguments).await,
        Command::Setup(command) => setup::run(&context, &command).await,
        Command::User(command) => user::run(&context, &command),
        Command::Completions(arguments) => generate::write_completions(Cli::command(), &arguments),
        Command::Man(arguments) => generate::write_man_pages(Cli::command(), &arguments),
    }
    .map(|()| None)
}

/// Returns the arguments; a program called `sendmail` is `mailtrail sendmail`.
fn normalize_args(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<_> = arguments.collect();
    if words.first().is_some_and(|program| Path::new(program).file_name() == Some("sendmail".as_ref())) {
        words.insert(1, "sendmail".into());
    }
    words
}

/// Whether the command is `serve` or `sendmail`, even if the arguments cannot be parsed.
fn uses_sysexits(words: &[OsString]) -> bool {
    let mut words = words.iter().skip(1).map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        match &*word {
            "--config" | "--color" => drop(words.next()),
            option if option.starts_with('-') => {}
            command => return matches!(command, "serve" | "sendmail"),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All commands, each with its full name.
    fn all_commands(command: &clap::Command, before: &str) -> Vec<(String, clap::Command)> {
        let words = format!("{before}{}", command.get_name());
        let below = command.get_subcommands().flat_map(|below| all_commands(below, &format!("{words} ")));
        let mut all: Vec<_> = below.collect();
        all.push((words, command.clone()));
        all
    }

    #[test]
    fn every_command_has_about_text_and_example() {
        let commands = all_commands(&Cli::command(), "");
        for (words, command) in commands.iter().filter(|(words, _)| words != "mailtrail") {
            assert!(command.get_about().is_some(), "{words} does not say what it is for");
            let below = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                below.contains("Example") && below.contains(words),
                "{words} shows no example of itself: {below:?}"
            );
        }
    }

    #[test]
    fn clap_definition_is_valid() {
        Cli::command().debug_assert();
    }

    /// Everything that scripts depend on: all but the help texts.
    #[test]
    fn commands_and_options_are_as_ever() {
        let mut whole = Cli::command();
        whole.build();
        let mut said = String::new();
        for (words, command) in all_commands(&whole, "") {
            if words.contains(" help") {
                continue;
            }
            let aliases: Vec<_> = command.get_all_aliases().collect();
            said += &format!("{words}{}\n", listed(" aliases", &aliases));
            let mut arguments: Vec<_> = command.get_arguments().map(argument).collect();
            arguments.sort();
            said.extend(arguments.into_iter().map(|argument| format!("    {argument}\n")));
        }
        crate::golden::check("cli.txt", &said);
    }

    /// An argument without its help text.
    fn argument(argument: &clap::Arg) -> String {
        let mut said = String::new();
        said += &argument.get_long().map(|long| format!("--{long}")).unwrap_or_default();
        said += &argument.get_short().map(|short| format!(" -{short}")).unwrap_or_default();
        let takes = argument.get_num_args().unwrap_or_default();
        if takes.takes_values() {
            let names: Vec<_> =
                argument.get_value_names().into_iter().flatten().map(|name| name.as_str()).collect();
            said += &format!(" <{}>", names.join("> <"));
        }
        said += &format!(" {:?} {takes}", argument.get_action());
        let texts = |values: &[clap::builder::OsStr]| -> Vec<String> {
            values.iter().map(|value| value.to_string_lossy().into_owned()).collect()
        };
        let values: Vec<_> =
            argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        said += &listed(" values", &values);
        said += &listed(" default", &texts(argument.get_default_values()));
        said += &listed(" aliases", &argument.get_all_aliases().unwrap_or_default());
        said +=
            &argument.get_env().map(|name| format!(" env {}", name.to_string_lossy())).unwrap_or_default();
        for (is_set, word) in [
            (argument.is_required_set(), "required"),
            (argument.is_global_set(), "global"),
            (argument.is_hide_set(), "hidden"),
            (argument.is_last_set(), "last"),
            (argument.is_trailing_var_arg_set(), "trailing"),
            (argument.is_allow_hyphen_values_set(), "hyphens"),
            (argument.is_require_equals_set(), "equals"),
        ] {
            said += &if is_set { format!(" {word}") } else { String::new() };
        }
        said.trim_start().to_owned()
    }

    fn listed(word: &str, values: &[impl AsRef<str>]) -> String {
        let values: Vec<_> = values.iter().map(AsRef::as_ref).collect();
        if values.is_empty() { String::new() } else { format!("{word} {}", values.join(",")) }
    }
}
