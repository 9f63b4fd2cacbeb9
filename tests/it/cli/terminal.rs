//! Commands on a terminal and in a pipe.

use jiff::{SignedDuration, Timestamp, tz::Offset};
use mailtrail_sandbox::ProviderProfile;
use std::io::{BufRead, BufReader, PipeWriter, Read};
use std::process::{Command, Stdio};
use testkit::eventually;
use testkit::relay_process::{RelayProcess, free_port};
use testkit::sandbox_harness::SandboxHarness;
use testkit::smtp_client::SmtpClient;
use testkit::smtp_sink::SmtpSink;
use testkit::terminal::Terminal;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prints_fitted_tables_on_terminals_only() {
    let (process, ids) = start_with_queued(2).await;
    // The message with the next attempt is the first row.
    let named = |lines: &[&str]| {
        let mut named: Vec<_> = lines.iter().map(|line| line.split([' ', '\t']).next().unwrap()).collect();
        named.sort_unstable();
        named == ids
    };
    let piped = process.run_command(&["queue", "list"]).await;
    let cells: Vec<Vec<_>> = piped.stdout.lines().map(|line| line.split('\t').collect()).collect();
    assert!(named(&piped.stdout.lines().collect::<Vec<_>>()), "{}", piped.stdout);
    assert!(cells.iter().all(|row| row.len() == 10), "{}", piped.stdout);
    assert!(cells.iter().all(|row| row[8] == LONG_RECIPIENT), "{}", piped.stdout);
    // A row that is too wide takes two lines: ids and times are never cut.
    let exact: Vec<_> = cells.iter().flat_map(|row| [row[0], row[2], row[3]]).collect();
    for (columns, lines_each, whole) in [(80, 2, false), (90, 2, false), (140, 1, false), (400, 1, true)] {
        let seen = Terminal::with_columns(columns).run(&process.command(&["queue", "list"])).await;
        let lines = seen.lines();
        assert_eq!((seen.exit_code, lines.len()), (0, 3 * lines_each), "{columns}: {}", seen.text);
        let first: Vec<_> = lines.iter().copied().step_by(lines_each).collect();
        assert!(first[0].starts_with("ID ") && named(&first[1..]), "{columns}: {}", seen.text);
        assert!(
            lines.iter().all(|line| line.chars().count() <= usize::from(columns)),
            "{columns}: {}",
            seen.text
        );
        assert!(exact.iter().all(|cell| seen.text.contains(cell)), "{columns}: {}", seen.text);
        assert_eq!(lines[2 * lines_each - 1].contains(LONG_RECIPIENT), whole, "{columns}: {}", seen.text);
        assert_eq!(seen.text.contains('…'), !whole, "{columns}: {}", seen.text);
    }
    // A terminal without a width.
    let seen = Terminal::with_columns(0).run(&process.command(&["queue", "list"])).await;
    assert!(seen.text.contains(LONG_RECIPIENT), "{}", seen.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn colors_output_on_terminals_or_when_requested() {
    let (process, ids) = start_with_queued(1).await;
    for command in [&["trace", &*ids[0]][..], &["log"]] {
        let words = |more: &[&'static str]| process.command(&[more, command].concat());
        let usual = || Terminal::with_columns(200);
        for (terminal, more, coloured) in [
            (usual(), &[][..], true),
            (usual().with_environment("NO_COLOR", "1"), &[], false),
            (usual().with_environment("NO_COLOR", ""), &[], true),
            (usual().with_environment("TERM", "dumb"), &[], false),
            (usual(), &["--color", "never"], false),
            (usual().with_environment("NO_COLOR", "1"), &["--color", "always"], true),
        ] {
            let seen = terminal.run(&words(more)).await;
            assert_eq!(
                (seen.exit_code, seen.is_coloured()),
                (0, coloured),
                "{more:?} {command:?}: {}",
                seen.text
            );
        }
        for (more, coloured) in [(&[][..], false), (&["--color", "always"], true)] {
            let printed = process.run_command(&[more, command].concat()).await;
            assert_eq!(printed.stdout.contains('\x1b'), coloured, "{more:?} {command:?}: {}", printed.stdout);
        }
    }
}

/// The relay's own log, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_log_follows_color_settings() {
    for (terminal, more, coloured) in [
        (Terminal::with_columns(200), &[][..], true),
        (Terminal::with_columns(200).with_environment("NO_COLOR", "1"), &[], false),
        (Terminal::with_columns(200), &["--color", "never"], false),
    ] {
        let process = RelayProcess::with_upstream_port(free_port(), "");
        let seen =
            terminal.type_after("\x03", " ready ").run(&process.command(&[more, &["serve"]].concat())).await;
        assert_eq!((seen.exit_code, seen.is_coloured()), (0, coloured), "{more:?}: {}", seen.text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shows_progress_on_terminals_only() {
    let (mut process, _) = start_with_queued(3).await;
    let place = tempfile::tempdir().unwrap();
    let target = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let [piped, shown, still_piped, still_shown] = ["a", "b", "c", "d"].map(target);
    for [piped, shown] in [[&*piped, &*shown], [&*still_piped, &*still_shown]] {
        for (for_pipe, for_terminal, bar, last) in [
            (
                &["store", "rebuild"][..],
                &["store", "rebuild"][..],
                "rebuilding the ledger",
                "the ledger is rebuilt",
            ),
            (
                &["store", "backup", piped],
                &["store", "backup", shown],
                "copying the journal",
                "segments with",
            ),
            (&["store", "verify"], &["store", "verify"], "reading the journal", "the store is intact"),
            (
                &["erase", "--dry-run", "nobody@example.org"],
                &["erase", "--dry-run", "nobody@example.org"],
                "searching the journal",
                "records 0",
            ),
        ] {
            let printed = process.run_command(for_pipe).await;
            assert!(
                printed.stderr.is_empty() && printed.stdout.contains(last),
                "{for_pipe:?}: {} {}",
                printed.stdout,
                printed.stderr
            );
            assert!(
                !printed.stdout.contains('\x1b') && !printed.stdout.contains(bar),
                "{for_pipe:?}: {}",
                printed.stdout
            );
            let seen = Terminal::with_columns(100).run(&process.command(for_terminal)).await;
            assert!(seen.text.contains(bar) && seen.text.contains('%'), "{for_terminal:?}: {:?}", seen.text);
            // The progress bar is erased before the result.
            let left = seen.text.rsplit("\x1b[2K").next().unwrap().trim_start_matches('\r');
            assert_eq!(
                mask_digits(&left.replace("\r\n", "\n").replace(shown, piped)),
                mask_digits(&printed.stdout),
                "{for_terminal:?}: {:?}",
                seen.text
            );
            assert_eq!(seen.exit_code, i64::from(printed.code), "{for_terminal:?}");
        }
        // Then with a stopped relay.
        if process.is_running() {
            assert!(process.terminate().await.success());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sync_shows_progress_on_terminals_only() {
    let mut harness = SandboxHarness::new(ProviderProfile::Mailgun).await;
    harness.process.start().await;
    let printed = harness
        .run_command(&["suppress", "add", "--reason", "complaint", "ada@example.net", "bob@example.net"])
        .await;
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    let piped = harness.run_command(&["suppress", "sync", "--dry-run"]).await;
    assert_eq!((piped.code, &*piped.stderr, piped.stdout.lines().count()), (0, "", 3), "{}", piped.stdout);
    let seen =
        Terminal::with_columns(200).run(&harness.process.command(&["suppress", "sync", "--dry-run"])).await;
    assert_eq!(seen.exit_code, 0, "{}", seen.text);
    assert!(seen.text.contains("entries of the provider's list read"), "{:?}", seen.text);
    for line in piped.stdout.lines() {
        assert!(seen.text.contains(&format!("{line}\r\n")), "{line}: {:?}", seen.text);
    }
    let left = seen.text.rsplit("\r\n").next().unwrap();
    assert!(left.ends_with("\x1b[2K") || left.is_empty(), "the last line is wiped off: {left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prompts_password_twice_without_echo() {
    let process = RelayProcess::with_upstream_port(free_port(), "");
    let hash = process.command(&["user", "hash"]);
    for (second, ended, words) in
        [("S3cret-of-ada\r", 0, "$argon2id$"), ("another\r", 2, "the two passwords differ")]
    {
        let terminal = Terminal::with_columns(200);
        let terminal = terminal
            .type_hidden_after("S3cret-of-ada\r", "Password: ")
            .type_hidden_after(second, "Once more: ");
        let seen = terminal.run(&hash).await;
        assert_eq!((seen.exit_code, &seen.echo[..]), (ended, &[false, false][..]), "{}", seen.text);
        assert!(seen.text.contains(words), "{}", seen.text);
        assert!(!seen.text.contains("S3cret") && !seen.text.contains("another"), "{}", seen.text);
    }
    let printed = process.run_command_with_input(&["user", "hash"], "S3cret-of-ada\n").await;
    assert!(
        printed.code == 0 && printed.stderr.is_empty() && printed.stdout.starts_with("$argon2id$"),
        "{} {}",
        printed.stdout,
        printed.stderr
    );
    assert_eq!(printed.stdout.lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follows_log_until_interrupted() {
    let (process, ids) = start_with_queued(1).await;
    let mark = process.directory().join("followed");
    let terminal =
        Terminal::with_columns(200).create_file_after(&mark, &ids[0]).type_after("\x03", "new@example.com");
    let command = process.command(&["log", "-f"]);
    let follow = tokio::spawn(async move { terminal.run(&command).await });
    eventually("the first lines", || mark.exists().then_some(())).await;
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    client.submit("new@example.com", &["b@example.net"], SAMPLE_MESSAGE).await.unwrap();
    let seen = follow.await.unwrap();
    // As journalctl ends: by the signal, which a shell shows as 130.
    assert_eq!(seen.exit_code, -2, "{}", seen.text);
    assert!(!seen.text.contains("panic") && !seen.text.contains("mailtrail:"), "{}", seen.text);
}

/// `log -f | head -1` exits with its reader although no further line comes, also with a stopped relay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_ends_when_reader_closes_pipe() {
    let (mut process, _) = start_with_queued(1).await;
    for _ in 0..2 {
        for arguments in [&["log", "-f"][..], &["--json", "log", "-f"], &["log"]] {
            let mut child =
                process.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let mut reader = BufReader::new(child.stdout.take().unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            assert!(line.contains("accepted"), "{line}");
            drop(reader);
            let ended = eventually("its end", || child.try_wait().unwrap()).await;
            let mut errors = String::new();
            child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
            assert_eq!((ended.code(), &*errors), (Some(0), ""), "{arguments:?}");
        }
        if process.is_running() {
            assert!(process.terminate().await.success());
        }
    }
}

/// Without a reader of standard error, no command fails, and the exit codes are the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_stderr_does_not_change_exit_codes() {
    let (process, _) = start_with_queued(1).await;
    let nothing = "01K54Z8Q3V7N5X9B2C6D8F0GHJ";
    for (arguments, code) in [
        (&["trace", "nobody@example.org"][..], 1),
        (&["queue", "list", "-n", "0"], 0),
        (&["queue", "show", nothing], 1),
        (&["queue", "retry", nothing], 1),
        (&["queue", "hold", "-"], 1),
        (&["events", "show", nothing], 1),
        (&["events", "replay", "ALL"], 1),
        (&["inbound", "show", nothing], 1),
        (&["inbound", "replay", "-"], 1),
        (&["stats", "--since", "2019-01-01", "--until", "2020-01-01"], 1),
        (&["sink", "list"], 1),
        (&["suppress", "check", "nobody@example.org"], 1),
        (&["suppress", "remove", "nobody@example.org"], 1),
        (&["export", "nobody@example.org"], 1),
        (&["config", "check"], 0),
        (&["log", "--status", "nonsense"], 2),
        (&["nonsense"], 2),
    ] {
        let printed = process.run_command(arguments).await;
        assert_eq!(
            (printed.code, printed.stderr.is_empty()),
            (code, false),
            "{arguments:?}: {}",
            printed.stderr
        );
        for unheard in [closed_pipe().into(), full_device()] {
            let mut command = process.command(arguments);
            let ended =
                testkit::run_if_installed(command.stdin(Stdio::null()).stderr(unheard)).await.unwrap();
            assert_eq!(ended.status.code(), Some(code), "{arguments:?}");
            assert_eq!(String::from_utf8(ended.stdout).unwrap(), printed.stdout, "{arguments:?}");
        }
    }
}

/// A closed pipe is a normal end; a full disk is an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_write_is_an_error_but_closed_pipe_is_not() {
    let (process, ids) = start_with_queued(1).await;
    assert_eq!(process.run_command(&["suppress", "add", "ada@example.net"]).await.code, 0);
    for arguments in [
        &["queue", "list"][..],
        &["--json", "trace", &ids[0]],
        &["config", "show"],
        &["suppress", "export"],
        &["completions", "bash"],
    ] {
        let output =
            testkit::run_if_installed(process.command(arguments).stdout(closed_pipe())).await.unwrap();
        assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]), "{arguments:?}");
        let output =
            testkit::run_if_installed(process.command(arguments).stdout(full_device())).await.unwrap();
        let printed = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {printed}");
        assert!(
            printed.starts_with("mailtrail: cannot write to standard output: No space left"),
            "{printed}"
        );
        let output =
            testkit::run_if_installed(process.command(arguments).stdout(full_device()).stderr(closed_pipe()))
                .await
                .unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    }
}

/// The program that reads the relay's log has ended: mail goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_continues_when_log_reader_closes() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    process.start_with_stderr(closed_pipe()).await;
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    let id = client.submit("a@example.com", &["b@example.net"], SAMPLE_MESSAGE).await.unwrap();
    sink.wait_for_message(&id).await;
    assert!(process.terminate().await.success());
}

/// Returns a pipe without a reader.
fn closed_pipe() -> PipeWriter {
    std::io::pipe().unwrap().1
}

/// A disk without room.
fn full_device() -> Stdio {
    std::fs::File::options().write(true).open("/dev/full").unwrap().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_can_be_piped_together() {
    let (process, ids) = start_with_queued(3).await;
    let program = process.command(&[]);
    let words: Vec<_> = std::iter::once(program.get_program()).chain(program.get_args()).collect();
    let shell = async |line: &str| {
        // "$@" is the program and its configuration.
        testkit::run_if_installed(Command::new("sh").args(["-c", line, "sh"]).args(&words)).await.unwrap()
    };
    let output = shell(r#""$@" queue list --ids | "$@" queue hold - --reason x --dry-run"#).await;
    let held = |output: &[u8]| {
        let mut held: Vec<_> = std::str::from_utf8(output).unwrap().lines().map(str::to_owned).collect();
        held.sort();
        held
    };
    assert_eq!((output.status.code(), held(&output.stdout)), (Some(0), ids.clone()));
    assert_eq!(
        process.run_command(&["log", "--status", "held"]).await.code,
        1,
        "it was only said what would be done"
    );
    let output = shell(r#""$@" queue list --ids | "$@" queue hold - --reason x"#).await;
    assert_eq!((output.status.code(), held(&output.stdout)), (Some(0), ids));
    assert!(output.stderr.is_empty());
    assert_eq!(process.run_command(&["log", "-g", "\"event\":\"held\""]).await.stdout.lines().count(), 3);
    let output = shell(r#""$@" queue list --ids | head -1 | "$@" queue release -"#).await;
    assert_eq!((output.status.code(), held(&output.stdout).len()), (Some(0), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepts_human_time_expressions() {
    let (process, _) = start_with_queued(1).await;
    for (arguments, code) in [
        (&["--since", "10 min ago"][..], 0),
        (&["--since", "yesterday"], 0),
        (&["--since", "-1h"], 0),
        (&["--since=-1h", "--until", "now"], 0),
        (&["--since", "1 month ago"], 0),
        (&["--since", "2020-01-01 10:00"], 0),
        (&["--until", "10 min ago"], 1),
        (&["--until", "yesterday"], 1),
        (&["--since", "the day before"], 2),
        (&["--since", "2026-13-01"], 2),
    ] {
        let printed = process.run_command(&[&["log"], arguments].concat()).await;
        assert_eq!(
            (printed.code, printed.stdout.is_empty()),
            (code, code != 0),
            "{arguments:?}: {}",
            printed.stderr
        );
        assert_eq!(printed.stderr.contains("10 min ago"), code == 2, "{arguments:?}: {}", printed.stderr);
    }
}

/// The clocks of other places: by name, as a file has it, and as POSIX writes it; with what they are ahead of UTC.
const TIME_ZONES: [(&str, i32); 5] = [
    ("Asia/Kolkata", 5 * 3600 + 1800),
    ("Pacific/Kiritimati", 14 * 3600),
    (":America/Caracas", -4 * 3600),
    ("<-0930>9:30", -(9 * 3600 + 1800)),
    ("UTC", 0),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parses_times_in_local_time_zone() {
    let (process, _) = start_with_queued(1).await;
    for (place, ahead) in TIME_ZONES {
        let here = Offset::from_seconds(ahead).unwrap();
        let ask = async |words: &[&str]| {
            let mut command = process.command(words);
            testkit::run_if_installed(command.env("TZ", place)).await.unwrap().status.code().unwrap()
        };
        let minutes = |minutes: i64| here.to_datetime(Timestamp::now() + SignedDuration::from_mins(minutes));
        let (before, behind) = (minutes(-10).to_string(), minutes(10).to_string());
        for (option, time, code) in [
            ("--since", before.replace('T', " "), 0),
            ("--until", before.clone(), 1),
            ("--since", behind.clone(), 1),
            ("--until", behind.clone(), 0),
            // With an offset, or another zone, it is the time there.
            ("--since", format!("{before}{here}"), 0),
            ("--until", format!("{before}[Etc/GMT+12]"), 0),
            ("--since", format!("{behind}[Etc/GMT-14]"), if ahead < 13 * 3600 { 0 } else { 1 }),
            ("--until", minutes(-10).date().tomorrow().unwrap().to_string(), 0),
            ("--since", minutes(-10).date().to_string(), 0),
            ("--until", minutes(-10).date().to_string(), 1),
            ("--since", "today".to_owned(), 0),
            ("--until", "today".to_owned(), 1),
            ("--until", "tomorrow".to_owned(), 0),
        ] {
            let words = ["log", option, &time];
            assert_eq!(ask(&words).await, code, "{place}: {words:?}");
        }
        let events = ask(&["events", "list", "--since", &behind]).await;
        let stats = [ask(&["stats", "--since", &before]).await, ask(&["stats", "--until", &behind]).await];
        assert_eq!((events, stats), (1, [0, 0]), "{place}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shows_local_times_on_terminals() {
    let (process, ids) = start_with_queued(1).await;
    let lines = process.run_command(&["--json", "log"]).await.json_lines();
    let utc = lines[0]["at"].as_str().unwrap();
    assert!(utc.ends_with('Z'));
    assert!(
        process.run_command(&["log"]).await.stdout.contains(utc),
        "a pipe gets what a program can read anywhere"
    );
    let next = process.run_command(&["--json", "queue", "list"]).await.json_lines()[0]["next_at"]
        .as_str()
        .unwrap()
        .to_owned();
    for (place, ahead) in TIME_ZONES {
        let here = Offset::from_seconds(ahead).unwrap();
        let local = |utc: &str| {
            let moment: Timestamp = utc.parse().unwrap();
            let text = here.to_datetime(moment).strftime("%Y-%m-%dT%H:%M:%S%.3f").to_string();
            let sign = if ahead < 0 { '-' } else { '+' };
            match ahead.abs() / 60 {
                0 => format!("{text}Z"),
                minutes => format!("{text}{sign}{:02}:{:02}", minutes / 60, minutes % 60),
            }
        };
        for (words, time) in [
            (&["log"][..], utc),
            (&["trace", &ids[0]], utc),
            (&["trace", &ids[0]], &next),
            (&["queue", "show", &ids[0]], &next),
            (&["queue", "list"], &next),
        ] {
            let seen =
                Terminal::with_columns(400).with_environment("TZ", place).run(&process.command(words)).await;
            assert!(seen.text.contains(&local(time)), "{place} {words:?}: {}", seen.text);
            assert!(ahead == 0 || !seen.text.contains(time), "{place} {words:?}: {}", seen.text);
        }
        let mut command = process.command(&["--json", "queue", "list"]);
        let output = testkit::run_if_installed(command.env("TZ", place)).await.unwrap();
        assert!(
            String::from_utf8(output.stdout).unwrap().contains(&next),
            "{place}: JSON is the same everywhere"
        );
    }
}

/// Commands add records to the journal, so that its numbers grow.
fn mask_digits(text: &str) -> String {
    let mut bare: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    while bare.contains("00") {
        bare = bare.replace("00", "0");
    }
    bare
}

/// Starts a relay with this number of messages that wait for their second attempt; no upstream listens.
async fn start_with_queued(messages: usize) -> (RelayProcess, Vec<String>) {
    let mut process = RelayProcess::with_upstream_port(free_port(), "");
    let text =
        process.configuration(free_port(), "").replace("first = \"100ms\"", "first = \"1h\"\nmax = \"1h\"");
    process.write_configuration(&text);
    process.start().await;
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..messages {
        ids.push(client.submit("sender@example.com", &[LONG_RECIPIENT], SAMPLE_MESSAGE).await.unwrap());
    }
    let tried = async {
        let tried = async || {
            let lines = process.run_command(&["--json", "queue", "list"]).await.json_lines();
            lines.iter().filter(|line| line["attempts"] == 1 && line["state"] == "queued").count()
        };
        while tried().await < messages {}
    };
    tokio::time::timeout(testkit::WAIT_TIMEOUT, tried).await.unwrap();
    (process, ids)
}

const LONG_RECIPIENT: &str = "a.recipient.with.quite.a.long.name@department.of.long.names.example.net";
const SAMPLE_MESSAGE: &str = "Subject: x\r\n\r\nbody\r\n";
