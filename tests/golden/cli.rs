//! The command line's exit codes. Commands and options are compared by the unit test `cli::tests::commands_and_options_are_as_ever`,
//! lines under `--json` by the test of a fixed store.

use crate::check::check;
use crate::program::Place;
use std::fmt::Write;

#[test]
fn exit_codes_are_as_ever() {
    let good = Place::new(&format!("{SERVER}{REST}"));
    let bad = Place::new(SERVER);
    let absent = Place::new("");
    std::fs::remove_file(absent.path().join("mailtrail.toml")).unwrap();
    let damaged = Place::new(&format!("{SERVER}{REST}"));
    std::fs::create_dir_all(damaged.data().join("journal")).unwrap();
    for number in ["0000000001", "0000000002"] {
        std::fs::write(damaged.data().join(format!("journal/{number}.seg")), [7; 200]).unwrap();
    }
    let mut said = String::new();
    for (name, place, questions) in [
        (
            "good configuration, nothing runs",
            &good,
            &[
                "--version",
                "--help",
                "help queue",
                "nonsense",
                "queue nonsense",
                "trace",
                "config check",
                "config show",
                "trace nobody@example.net",
                "log",
                "log --since nonsense",
                "queue list",
                "queue hold 01EJ6HTJBGN0VFD087JSX4XSWC",
                "events list",
                "events show 01EJ6HTJBGN0VFD087JSX4XSWC",
                "inbound list",
                "breaker status",
                "breaker open plain --reason x",
                "sink list",
                "stats",
                "suppress list",
                "suppress check ada@example.net",
                "suppress check nonsense",
                "store verify",
                "export ada@example.net",
                "send-test ada@example.net",
                "user hash",
                "setup mailgun --upstream nobody --url https://relay.example.com",
                "completions bash",
                "completions nonsense",
                "serve --nonsense",
                "sendmail --nonsense",
                "sendmail --server 127.0.0.1:1 ada@example.net",
            ][..],
        ),
        (
            "bad configuration",
            &bad,
            &["config check", "config show", "queue list", "serve", "sendmail ada@example.net", "doctor"],
        ),
        ("no configuration", &absent, &["config check", "queue list", "serve"]),
        ("damaged store", &damaged, &["queue list", "store verify"]),
    ] {
        writeln!(said, "{name}").unwrap();
        for question in questions {
            let output = place.command(&question.split(' ').collect::<Vec<_>>()).output().unwrap();
            writeln!(said, "    {} {question}", output.status.code().unwrap()).unwrap();
        }
    }
    check("exit-codes.txt", &said);
}

const SERVER: &str =
    "[server]\nhostname = \"relay.example.com\"\ndata_dir = \"data\"\n[admin]\nsocket = \"admin.sock\"\n";
const REST: &str = "[[listener]]\naddress = \"127.0.0.1:2525\"\ntls = \"none\"\nauth = \"none\"\n\
                    [[upstream]]\nname = \"plain\"\nprovider = \"plain\"\nhost = \"127.0.0.1\"\nport = 1\ntls = \"none\"\n";
