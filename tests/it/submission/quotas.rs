//! Quotas of users with the real program: rejections, warnings, restarts.

use testkit::relay::USER;
use testkit::relay_process::{RelayProcess, free_port};
use testkit::smtp_client::SmtpClient;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_quota_warns_rejects_and_survives_restart() {
    let mut process = RelayProcess::with_upstream_port(free_port(), &user_config("10/day"));
    process.start().await;
    let mut shop = log_in_as(&process, "shop").await;
    submit_to_recipients(&mut shop, 7).await;
    assert!(!process.log().contains("of the user's quota"), "{}", process.log());
    submit_to_recipients(&mut shop, 1).await;
    process.wait_for_log("more than 80 % of the user's quota is used").await;
    process.wait_for_log("subject=\"user shop\"").await;
    process.kill();
    process.start().await;
    assert_eq!(process.log().matches("more than 80 %").count(), 2, "{}", process.log());
    let mut shop = log_in_as(&process, "shop").await;
    // A message that starts below the quota is accepted for all its recipients.
    submit_to_recipients(&mut shop, 3).await;
    process.wait_for_log("the user's quota is used up").await;
    assert_quota_exhausted(&mut shop).await;
    submit_to_recipients(&mut log_in_as(&process, USER).await, 1).await;
    assert!(process.terminate().await.success());
    process.start().await;
    assert_quota_exhausted(&mut log_in_as(&process, "shop").await).await;
    // More is bought: 11 of 12.
    process.write_configuration(&process.configuration(free_port(), &user_config("12/day")));
    process.send_sighup().await;
    process.wait_for_log("configuration and certificates reloaded").await;
    let mut shop = log_in_as(&process, "shop").await;
    submit_to_recipients(&mut shop, 1).await;
    assert_quota_exhausted(&mut shop).await;
    let output = process.run_command(&["config", "show"]).await;
    assert!(output.stdout.contains("quota = \"12/day\""), "{}", output.stdout);
    // Without a quota there is nothing to warn of.
    process.write_configuration(
        &process.configuration(free_port(), &user_config("12/day").replace("quota = \"12/day\"", "")),
    );
    process.send_sighup().await;
    let applied =
        || (process.log().matches("configuration and certificates reloaded").count() == 2).then_some(());
    testkit::eventually("the second reload", applied).await;
    process.wait_for_log("alarm cleared").await;
    submit_to_recipients(&mut log_in_as(&process, "shop").await, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_message_over_quota_is_rejected_after_data() {
    let mut process = RelayProcess::with_upstream_port(free_port(), &user_config("2/hour"));
    process.start().await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = log_in_as(&process, "shop").await;
        for line in ["MAIL FROM:<a@example.com>", "RCPT TO:<b@example.net>", "RCPT TO:<c@example.net>"] {
            assert_eq!(client.command(line).await.unwrap().0, 250, "{line}");
        }
        assert_eq!(client.command("DATA").await.unwrap().0, 354);
        clients.push(client);
    }
    let mut codes = Vec::new();
    for mut client in clients {
        codes.push(client.command("Subject: x\r\n\r\nbody\r\n.").await.unwrap());
    }
    assert_eq!(codes.iter().map(|(code, _)| *code).collect::<Vec<_>>(), [250, 452, 452]);
    assert!(codes[1].1.contains("4.7.1") && codes[1].1.contains("this hour"), "{codes:?}");
    assert_eq!(process.run_command(&["queue", "list", "--ids"]).await.stdout.lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicate_submission_counts_once() {
    let limits = format!("{}\n[duplicates]\nwindow = \"15min\"", user_config("2/month"));
    let mut process = RelayProcess::with_upstream_port(free_port(), &limits);
    process.start().await;
    let mut shop = log_in_as(&process, "shop").await;
    let mut ids = Vec::new();
    for subject in ["first", "first", "first", "second"] {
        let text = format!("Message-ID: <{subject}@example.com>\r\n\r\n{subject}\r\n");
        ids.push(shop.submit("a@example.com", &["b@example.net"], &text).await.unwrap());
    }
    assert!(ids[0] == ids[1] && ids[1] == ids[2] && ids[2] != ids[3], "{ids:?}");
    let (code, text) = shop.command("MAIL FROM:<a@example.com>").await.unwrap();
    assert!(code == 452 && text.contains("next month"), "{code} {text}");
}

/// Submits a message to this number of recipients.
async fn submit_to_recipients(client: &mut SmtpClient, recipients: usize) {
    let to: Vec<_> = (0..recipients).map(|number| format!("{number}@example.net")).collect();
    let to: Vec<_> = to.iter().map(|to| &**to).collect();
    client.submit("a@example.com", &to, "Subject: x\r\n\r\nbody\r\n").await.unwrap();
}

async fn assert_quota_exhausted(client: &mut SmtpClient) {
    let (code, text) = client.command("MAIL FROM:<a@example.com>").await.unwrap();
    assert!(code == 452 && text.contains("4.7.1") && text.contains("tomorrow"), "{code} {text}");
    // The session goes on.
    assert_eq!(client.command("RCPT TO:<b@example.net>").await.unwrap().0, 503);
}

async fn log_in_as(process: &RelayProcess, user: &str) -> SmtpClient {
    let trust = mailtrail_net::tls::build_connector(Some(&process.data_dir().join("tls/relay.pem"))).unwrap();
    SmtpClient::log_in_as(user, process.address(0), &trust).await.unwrap()
}

fn user_config(quota: &str) -> String {
    format!("[[user]]\nname = \"shop\"\npassword = \"lab-secret\"\nquota = \"{quota}\"")
}
