//! Files of the package and the alarm handbook.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use testkit::relay_process::RelayProcess;
use testkit::smtp_client::SmtpClient;

const OPERATIONS_DOC: &str = include_str!("../../../docs/operations.md");
const ALARM_SOURCE: &str = include_str!("../../../crates/relay/src/alarms/registry.rs");
const PACKAGE_CONFIG: &str = include_str!("../../../systemd/deb/mailtrail.toml");
const PACKAGE_DEFAULTS: &str = include_str!("../../../systemd/deb/default");
const SYSTEMD_UNIT: &str = include_str!("../../../systemd/mailtrail.service");
const CARGO_MANIFEST: &str = include_str!("../../../Cargo.toml");

#[test]
fn handbook_documents_every_alarm() {
    let (_, alarms) = OPERATIONS_DOC.split_once("\n## Alarms\n").unwrap();
    let (alarms, _) = alarms.split_once("\n## ").unwrap();
    let sections = alarms.split("\n### `").skip(1).map(|section| section.split_once('`').unwrap());
    let sections: Vec<_> = sections.inspect(|(word, text)| assert!(text.len() > 80, "{word}")).collect();
    let written: BTreeSet<_> = sections.iter().map(|(word, _)| *word).collect();
    assert_eq!(written.len(), sections.len(), "each once");
    let word =
        |line: &'static str| line.trim().strip_prefix("Self::")?.split_once(" => \"")?.1.strip_suffix("\",");
    assert_eq!(written, ALARM_SOURCE.lines().filter_map(word).collect());
}

/// A fresh installation, but for its places.
#[tokio::test]
async fn fresh_installation_accepts_mail_and_receives_sandbox_events() {
    let options: Vec<_> =
        PACKAGE_DEFAULTS.lines().filter_map(|line| line.strip_prefix("SERVE_OPTIONS=")).collect();
    assert_eq!(options, ["--sandbox"]);
    assert!(
        SYSTEMD_UNIT.contains(" serve $SERVE_OPTIONS\n")
            && SYSTEMD_UNIT.contains("EnvironmentFile=-/etc/default/mailtrail\n")
    );
    let mut process = RelayProcess::with_configuration(|data_dir, [first, second, third]| {
        let places = [
            ("/var/lib/mailtrail/sandbox", data_dir.to_owned()),
            ("127.0.0.1:2525", format!("127.0.0.1:{first}")),
            ("127.0.0.1:2526", format!("127.0.0.1:{second}")),
            ("127.0.0.1:8080", format!("127.0.0.1:{third}")),
            ("127.0.0.1:8025", "127.0.0.1:0".to_owned()),
            ("/run/mailtrail", data_dir.to_owned()),
        ];
        places.into_iter().fold(PACKAGE_CONFIG.to_owned(), |text, (usual, other)| {
            assert!(text.contains(usual), "{usual}");
            text.replace(usual, &other)
        })
    });
    let checked = process.run_command(&["config", "check"]).await;
    assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);
    process.start_with_arguments(&[options[0], "--pace", "0"]).await;
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    client.submit("app@example.com", &["bounce@example.net"], "Subject: hello\r\n\r\nhi\r\n").await.unwrap();
    loop {
        let printed = process.run_command(&["log", "--status", "bounced"]).await;
        if printed.code == 0 {
            break assert!(printed.stdout.contains("bounce@example.net"), "{}", printed.stdout);
        }
    }
    assert!(process.terminate().await.success());
}

#[test]
fn package_contains_all_files() {
    let manifest: toml::Value = toml::from_str(CARGO_MANIFEST).unwrap();
    let deb = &manifest["package"]["metadata"]["deb"];
    let text = |value: &toml::Value| value.as_str().unwrap().to_owned();
    let assets = deb["assets"].as_array().unwrap();
    // A target with a final slash is a directory.
    let target = |asset: &toml::Value| {
        let (source, target) = (text(&asset[0]), text(&asset[1]));
        let name = source.rsplit('/').next().unwrap_or_default();
        if target.ends_with('/') { format!("/{target}{name}") } else { format!("/{target}") }
    };
    let targets: BTreeSet<_> = assets.iter().map(target).collect();
    assert_eq!(targets.len(), assets.len(), "each once");
    for file in deb["conf-files"].as_array().unwrap() {
        assert!(targets.contains(&text(file)), "{file:?} is in the package");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for source in assets.iter().map(|asset| text(&asset[0])).filter(|source| !source.starts_with("target/")) {
        let place = root.join(source.trim_end_matches("*.md"));
        assert!(place.exists(), "{source} is in the repository");
    }
    for script in ["prerm", "postrm"] {
        let checked =
            Command::new("sh").arg("-n").arg(root.join("systemd/deb").join(script)).status().unwrap();
        assert!(checked.success(), "{script}");
    }
}

#[tokio::test]
async fn completions_and_man_pages_cover_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailtrail"));
        let output = command.current_dir(folder.path()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["man", "new/man1"]);
    let pages = std::fs::read_dir(folder.path().join("new/man1")).unwrap();
    let pages: BTreeSet<_> = pages.map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    let script = run(&["completions", "bash"]);
    assert!(pages.len() > 50 && pages.contains("mailtrail.1"), "{pages:?}");
    for page in pages.iter().filter(|page| *page != "mailtrail.1") {
        let words = page.trim_start_matches("mailtrail-").trim_end_matches(".1").replace('-', "__subcmd__");
        let found = script.contains(&words) || script.contains(&words.replace("__subcmd__", "__"));
        assert!(found, "{words}");
    }
    let page = std::fs::read_to_string(folder.path().join("new/man1/mailtrail-trace.1")).unwrap();
    assert!(page.contains("mailtrail trace sale.order,42"), "{page}");
    std::fs::write(folder.path().join("script.bash"), &script).unwrap();
    run(&["completions", "zsh"]);
    run(&["completions", "fish"]);
    let complete = "source script.bash; COMP_WORDS=(mailtrail queue re); COMP_CWORD=2; _mailtrail mailtrail re queue; \
                    echo \"${COMPREPLY[@]}\"";
    let mut shell = Command::new("bash");
    let completed = shell.current_dir(folder.path()).args(["--norc", "-c", complete]).output().unwrap();
    let completed = String::from_utf8(completed.stdout).unwrap();
    assert_eq!(completed.trim(), "retry release");
}
