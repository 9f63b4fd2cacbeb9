//! `mailtrail setup mailgun` and `setup brevo`: the real program and the sandbox's API.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/house.rs"]
mod house;
mod support;

use house::{House, PROOF};
use mailtrail_sandbox::Face;
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn mailgun_tells_us_everything_and_others_what_it_told_them() {
    let house = House::new(Face::Mailgun).await;
    // Others', two of them in a list that ours comes into.
    for registered in [
        "id=delivered&url=https://crm.example.com/hook",
        "id=opened&url=https://crm.example.com/hook&url=https://old.example.com/webhooks/up",
    ] {
        assert_eq!(house.api(Method::POST, V3, Some(registered.into())).await.0, 200);
    }
    let before = registered(&house).await;
    let setup = ["--json", "setup", "mailgun", "--url", "https://relay.example.com"];
    let said = house.ask(&[&setup[..], &["--dry-run"]].concat()).await;
    let expected = json!({
        "done": "created", "what": "webhook", "id": null, "name": OURS, "changed": ALL, "dry_run": true,
    });
    assert_eq!((said.code, &said.json()[0]), (0, &expected), "{}", said.err);
    assert_eq!(registered(&house).await, before, "a dry run changes nothing");

    let said = house.ask(&setup).await;
    assert_eq!((said.code, &said.json()[0]["done"]), (0, &json!("created")), "{}", said.err);
    let remains: Vec<_> = said.json()[1..].iter().map(|line| line["remains"].to_string()).collect();
    assert!(remains[0].contains("https://old.example.com/webhooks/up is registered, too"), "{remains:?}");
    assert!(remains[1].contains("the web server of relay.example.com passes /webhooks/up"), "{remains:?}");
    let mut expected = before.clone();
    for kind in ALL {
        let mut urls = expected[kind]["urls"].as_array().cloned().unwrap_or_default();
        urls.push(OURS.into());
        expected[kind] = json!({ "urls": urls });
    }
    assert_eq!(registered(&house).await, expected);

    let said = house.ask(&setup).await;
    assert_eq!(
        (said.code, &said.json()[0]["done"], &said.json()[0]["changed"]),
        (0, &json!("kept"), &json!([]))
    );
    assert_eq!(registered(&house).await, expected);
    let said = house.ask(&["setup", "mailgun", "--url", OURS]).await;
    assert!(said.code == 0 && said.out.starts_with(&format!("kept: webhook ({OURS}: ")), "{}", said.out);

    let said = house.ask(&[&setup[1..], &["--remove", "--dry-run"]].concat()).await;
    assert!(said.out.starts_with("would be removed: webhook ("), "{}", said.out);
    assert_eq!(registered(&house).await, expected);
    for done in ["removed", "not there"] {
        let said = house.ask(&[&setup[..], &["--remove"]].concat()).await;
        assert_eq!((said.code, &said.json()[0]["done"]), (0, &json!(done)), "{}", said.err);
        assert_eq!(registered(&house).await, before);
    }
}

#[tokio::test]
async fn an_address_that_mailgun_tells_something_is_told_the_rest() {
    let house = House::new(Face::Mailgun).await;
    let known = format!("url={OURS}&event_types=opened&event_types=delivered");
    assert_eq!(house.api(Method::POST, V4, Some(known.into())).await.0, 200);
    let said = house.ask(&["--json", "setup", "mailgun", "--url", OURS]).await;
    let change = &said.json()[0];
    let missing: Vec<_> = ALL.into_iter().filter(|kind| !["opened", "delivered"].contains(kind)).collect();
    assert_eq!((said.code, &change["done"], &change["changed"]), (0, &json!("updated"), &json!(missing)));
    let all = registered(&house).await;
    assert!(ALL.iter().all(|kind| all[kind]["urls"] == json!([OURS])), "{all}");
}

#[tokio::test]
async fn an_address_with_a_final_slash_is_not_registered_again() {
    let slash = format!("{OURS}/");
    for (face, provider) in [(Face::Mailgun, "mailgun"), (Face::Brevo, "brevo")] {
        let house = House::new(face).await;
        let known = match face {
            Face::Mailgun => {
                let kinds: String = ALL.iter().map(|kind| format!("&event_types={kind}")).collect();
                house.api(Method::POST, V4, Some(format!("url={slash}{kinds}").into())).await
            }
            Face::Brevo => {
                let hook = json!({ "url": slash, "events": ["spam"], "batched": false });
                house.api(Method::POST, "/v3/webhooks", Some(hook)).await
            }
        };
        assert!(known.0 < 300);
        for url in [OURS, &slash] {
            let said = house.ask(&["--json", "setup", provider, "--url", url]).await;
            assert!(["kept", "updated"].map(Value::from).contains(&said.json()[0]["done"]), "{}", said.out);
            assert!(!said.out.contains("is registered, too"), "{}", said.out);
        }
        match face {
            Face::Mailgun => {
                let all = registered(&house).await;
                assert!(ALL.iter().all(|kind| all[kind]["urls"] == json!([slash])), "{all}");
            }
            Face::Brevo => assert_eq!(hooks(&house).await.len(), 1),
        }
        let said = house.ask(&["--json", "setup", provider, "--url", OURS, "--remove"]).await;
        assert_eq!(said.json()[0]["done"], "removed", "{}", said.err);
    }
}

/// Both addresses are ours: what one is told, the other is not told, too.
#[tokio::test]
async fn two_spellings_of_our_address_are_told_each_kind_once() {
    let house = House::new(Face::Mailgun).await;
    for known in [format!("url={OURS}/&event_types=opened"), format!("url={OURS}&event_types=clicked")] {
        assert_eq!(house.api(Method::POST, V4, Some(known.into())).await.0, 200);
    }
    let said = house.ask(&["--json", "setup", "mailgun", "--url", OURS]).await;
    assert_eq!((said.code, &said.json()[0]["done"]), (0, &json!("updated")), "{}", said.err);
    let all = registered(&house).await;
    assert!(ALL.iter().all(|kind| all[kind]["urls"].as_array().unwrap().len() == 1), "{all}");
}

#[tokio::test]
async fn where_mailgun_has_no_room_nothing_is_changed() {
    let house = House::new(Face::Mailgun).await;
    let three = "id=clicked&url=https://a.example&url=https://b.example&url=https://u:secret@c.example/x";
    assert_eq!(house.api(Method::POST, V3, Some(three.into())).await.0, 200);
    let before = registered(&house).await;
    for more in [&["--dry-run"][..], &[]] {
        let said = house.ask(&[&["setup", "mailgun", "--url", OURS], more].concat()).await;
        assert_eq!((said.code, &*said.out), (1, ""));
        assert!(said.err.contains("clicked is told to https://a.example/, "), "{}", said.err);
        assert!(said.err.contains("3 addresses at most; take one"), "{}", said.err);
        assert!(!said.err.contains("secret"), "{}", said.err);
    }
    assert_eq!(registered(&house).await, before);
}

#[tokio::test]
async fn what_is_wrong_is_said_with_its_remedy() {
    let house = House::new(Face::Mailgun).await;
    let good = &house.configuration;
    let twice = {
        let (before, after) = good.split_once("[[upstream]]").unwrap();
        let (upstream, http) = after.split_once("[http]").unwrap();
        let other = upstream.replace("name = \"up\"", "name = \"down\"");
        format!("{before}[[upstream]]{upstream}[[upstream]]{other}[http]{http}")
    };
    std::fs::write(house.process.directory().join("wrong"), "key-2").unwrap();
    for (configuration, more, code, words) in [
        (
            good.replace("_key_file = \"key\"", "_key_file = \"wrong\""),
            "",
            1,
            "a domain sending key may send",
        ),
        (good.replace("api_key_file = \"key\"\n", ""), "", 2, "give api_key_file"),
        (good.replace("domain = \"mg.example.com\"\n", ""), "", 2, "give domain and api_key_file"),
        (good.replace("mg.example.com\"\nhost", "other.example.com\"\nhost"), "", 1, "are domain and region"),
        (good.replace("provider = \"mailgun\"", "provider = \"brevo\""), "", 2, "provider = \\\"mailgun\\\""),
        (twice.clone(), "", 2, "name one: --upstream"),
        (twice.clone(), "--upstream=sideways", 2, "there is no [[upstream]] \"sideways\""),
        (twice, "--upstream=down", 0, ""),
        (good.clone(), "--url=http://relay.example.com", 2, "must begin with https://"),
        (good.clone(), "--url=relay.example.com", 2, "--url"),
    ] {
        house.process.configure(&configuration);
        let url = ["--url", OURS];
        let usual = if more.starts_with("--url") { &[][..] } else { &url[..] };
        let more = if more.is_empty() { Vec::new() } else { vec![more] };
        let said = house.ask(&[&["setup", "mailgun", "--dry-run"], usual, &more].concat()).await;
        let words = words.replace("\\\"", "\"");
        assert!(said.code == code && said.err.contains(&words), "{words}: {} {}", said.code, said.err);
    }
}

#[tokio::test]
async fn brevo_tells_us_everything_with_our_proof() {
    let house = House::new(Face::Brevo).await;
    let others = [
        json!({ "url": "https://crm.example.com/webhooks/crm", "events": ["spam"], "batched": true }),
        json!({ "url": "https://old.example.com/webhooks/up", "events": ["opened"] }),
    ];
    for other in others {
        assert_eq!(house.api(Method::POST, "/v3/webhooks", Some(other)).await.0, 201);
    }
    let before = hooks(&house).await;
    let setup = ["--json", "setup", "brevo", "--url", "https://relay.example.com"];
    let said = house.ask(&[&setup[..], &["--dry-run"]].concat()).await;
    assert_eq!((said.code, &said.json()[0]["done"]), (0, &json!("created")), "{}", said.err);
    assert_eq!(hooks(&house).await, before, "a dry run changes nothing");
    let said = house.ask(&setup).await;
    assert_eq!((said.code, &said.json()[0]["done"]), (0, &json!("created")), "{}", said.err);
    assert!(said.out.contains("https://old.example.com/webhooks/up is registered, too"), "{}", said.out);
    let all = hooks(&house).await;
    let ours = &all[2];
    assert_eq!((&ours["url"], &ours["batched"]), (&json!(OURS), &json!(false)));
    assert_eq!(ours["auth"], json!({ "type": "bearer", "token": PROOF }));
    assert_eq!(ours["events"].as_array().unwrap().len(), 12);
    let said = house.ask(&setup).await;
    assert_eq!((said.code, &said.json()[0]["done"], &said.json()[0]["id"]), (0, &json!("kept"), &json!(3)));
    assert_eq!(hooks(&house).await, all);

    // Somebody changed it.
    let change =
        json!({ "events": ["spam", "sent"], "batched": true, "auth": { "type": "bearer", "token": "x" } });
    assert_eq!(house.api(Method::PUT, "/v3/webhooks/3", Some(change)).await.0, 204);
    let said = house.ask(&setup).await;
    assert_eq!((said.code, &said.json()[0]["done"]), (0, &json!("updated")), "{}", said.err);
    let changed = said.json()[0]["changed"].as_array().unwrap().clone();
    assert_eq!(changed[11..], ["one event a request", "the bearer token"], "{changed:?}");
    let again = hooks(&house).await;
    assert_eq!((&again[2]["auth"], &again[2]["batched"]), (&ours["auth"], &json!(false)));
    // What it was told besides, it still is.
    assert_eq!(again[2]["events"].as_array().unwrap().len(), 13);
    assert_eq!(again[..2], before);

    for done in ["removed", "not there"] {
        let said = house.ask(&[&setup[..], &["--remove"]].concat()).await;
        assert_eq!((said.code, &said.json()[0]["done"]), (0, &json!(done)), "{}", said.err);
        assert_eq!(hooks(&house).await, before);
    }
}

#[tokio::test]
async fn brevo_gets_each_kind_of_proof_as_it_is_configured() {
    let house = House::new(Face::Brevo).await;
    let setup = ["--json", "setup", "brevo", "--url", OURS];
    let token = "webhook_token_file = \"proof\"\n";
    std::fs::write(house.process.directory().join("new"), "proof-2").unwrap();
    let known = json!({ "url": OURS, "events": ["spam"], "headers": [{ "key": "X-Shop", "value": "1" }] });
    assert_eq!(house.api(Method::POST, "/v3/webhooks", Some(known)).await.0, 201);
    for (keys, field, expected) in [
        (
            "webhook_token_file = [\"proof\", \"new\"]\n",
            "auth",
            json!({ "type": "bearer", "token": "proof-2" }),
        ),
        (
            "webhook_token_file = \"proof\"\nwebhook_header = \"X-Token\"\n",
            "headers",
            json!([{ "key": "X-Shop", "value": "1" }, { "key": "X-Token", "value": PROOF }]),
        ),
        (
            "webhook_username = \"brevo\"\nwebhook_password_file = \"proof\"\n",
            "url",
            json!(format!("https://brevo:{PROOF}@relay.example.com/webhooks/up")),
        ),
    ] {
        house.process.configure(&house.configuration.replace(token, keys));
        let said = house.ask(&setup).await;
        assert_eq!((said.code, &said.json()[0]["done"]), (0, &json!("updated")), "{keys}: {}", said.err);
        let all = hooks(&house).await;
        assert_eq!((all.len(), &all[0][field]), (1, &expected), "{keys}");
        let said = house.ask(&setup).await;
        assert_eq!((said.code, &said.json()[0]["done"]), (0, &json!("kept")), "{keys}: {}", said.err);
    }
    house.process.configure(&house.configuration);
    for number in 0..39 {
        let other = json!({ "url": format!("https://{number}.example.com/"), "events": ["spam"] });
        assert_eq!(house.api(Method::POST, "/v3/webhooks", Some(other)).await.0, 201);
    }
    let said = house.ask(&["setup", "brevo", "--url", "https://other.example.com"]).await;
    assert!(said.code == 1 && said.err.contains("has 40 webhooks already; change"), "{}", said.err);
    house.process.configure(&house.configuration.replace(token, ""));
    let said = house.ask(&setup).await;
    assert!(said.code == 1 && said.err.contains("openssl rand"), "{}", said.err);
}

/// What is registered at Mailgun.
async fn registered(house: &House) -> Value {
    house.api(Method::GET, V3, None).await.1["webhooks"].take()
}

/// What is registered at Brevo; when it was changed last does not matter.
async fn hooks(house: &House) -> Vec<Value> {
    let mut answer = house.api(Method::GET, "/v3/webhooks?type=transactional", None).await.1;
    let mut hooks = std::mem::take(answer["webhooks"].as_array_mut().unwrap());
    hooks.iter_mut().for_each(|hook| hook["modifiedAt"] = Value::Null);
    hooks
}

const OURS: &str = "https://relay.example.com/webhooks/up";
const V3: &str = "/v3/domains/mg.example.com/webhooks";
const V4: &str = "/v4/domains/mg.example.com/webhooks";
const ALL: [&str; 8] = [
    "accepted",
    "delivered",
    "permanent_fail",
    "temporary_fail",
    "complained",
    "unsubscribed",
    "opened",
    "clicked",
];
