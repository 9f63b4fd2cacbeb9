use crate::sink::odoo::{EVENTS_ACTION, OdooMode, OdooSettings, client_or_connect};
use mailtrail_net::odoo::{Client, Fault, find_number, run};
use serde_json::{Value, json};

/// What is known of a database that can be told.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// Odoo's version.
    pub version: String,
    /// The server action's number; none where reports are sent.
    pub action_id: Option<u64>,
    /// Whether there are mailings.
    pub has_mailings: bool,
}

/// Looks whether Odoo would do as it is told: that the login works, the rights suffice, and the server action is there
/// in our version. It changes nothing. What is wrong comes with its remedy, because Odoo itself would keep silent: a
/// user without rights finds nothing and hears of no error.
pub async fn run_preflight(settings: &OdooSettings) -> Result<String, String> {
    let mut client = None;
    let ready = check_readiness(settings, client_or_connect(&mut client, settings)?).await?;
    Ok(match ready.action_id {
        Some(action) => {
            format!("Odoo {}, server action {action} in version {}", ready.version, EVENTS_ACTION.version)
        }
        None => format!("Odoo {}, reports through the mail gateway", ready.version),
    })
}

pub async fn check_readiness(settings: &OdooSettings, client: &mut Client) -> Result<Readiness, String> {
    let version = client.version().await.map_err(|fault| fault.to_string())?;
    match settings.mode {
        OdooMode::Action => {
            let action_id = Some(find_action(settings, client).await?);
            Ok(Readiness { version, action_id, has_mailings: false })
        }
        OdooMode::Dsn => {
            let has_mailings = check_rights(settings, client).await.map_err(|fault| with_remedy(&fault))?;
            Ok(Readiness { version, action_id: None, has_mailings })
        }
    }
}

/// Finds the action and has it search for a message that does not exist.
async fn find_action(settings: &OdooSettings, client: &mut Client) -> Result<u64, String> {
    let user = &settings.login.username;
    let set_up = format!("run `mailtrail setup odoo --user {user}`");
    let number = match settings.action_id {
        Some(number) => number,
        None => find_number(client, EVENTS_ACTION.key)
            .await
            .map_err(|fault| fault.to_string())?
            .ok_or_else(|| format!("Odoo names no server action of mailtrail's to {user:?}; {set_up}"))?,
    };
    // A configured number stays what it is, whatever a new set-up makes.
    let remedy = match settings.action_id {
        Some(number) => format!("remove `action = {number}` from the [[sink]], and {set_up}"),
        None => set_up,
    };
    let nothing =
        json!([{ "message_id": "<preflight@mailtrail.invalid>", "email": "preflight@mailtrail.invalid" }]);
    let answer = run(client, number, json!({ "mailtrail_events": nothing })).await;
    let answer = answer.map_err(|fault| match fault {
        Fault::Denied { .. } => {
            format!("{fault}; {remedy}, which puts that user into the group of the server action")
        }
        Fault::Missing { .. } => format!("{fault}; {remedy}"),
        fault => fault.to_string(),
    })?;
    match answer["version"].as_u64() {
        Some(version) if version == EVENTS_ACTION.version && answer["results"] == json!(["unknown"]) => {
            Ok(number)
        }
        Some(version) if version != EVENTS_ACTION.version => Err(format!(
            "the server action in Odoo has version {version}, and {} is needed; {remedy}",
            EVENTS_ACTION.version
        )),
        _ => Err(format!("the server action {number} in Odoo is none of mailtrail's; {remedy}")),
    }
}

/// Whether the user sees what reports are about; and whether there are mailings.
async fn check_rights(settings: &OdooSettings, client: &mut Client) -> Result<bool, Fault> {
    let messages = search_first(client, "mail.message", json!([["message_id", "like", "-openerp-"]])).await?;
    if messages.is_empty() {
        let user = settings.login.username.clone();
        let text = "it shows no message at all to this user".to_owned();
        return Err(Fault::Denied { what: "mail.message.search".to_owned(), user, text });
    }
    // Who may not search the list of models may still search a model.
    match search_first(client, "mailing.trace", json!([])).await {
        Ok(_) => Ok(true),
        Err(Fault::Refused { text, .. }) if text.contains("doesn't exist") => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// The first record that fits.
async fn search_first(client: &mut Client, model: &str, domain: Value) -> Result<Vec<Value>, Fault> {
    let found = client.call(model, "search", json!([domain]), json!({ "limit": 1 })).await?;
    Ok(found.as_array().cloned().unwrap_or_default())
}

fn with_remedy(fault: &Fault) -> String {
    match fault {
        Fault::Denied { .. } => format!(
            "{fault}; give the user the rights of the applications that send mail (Sales, Email Marketing), \
             or use way = \"action\""
        ),
        fault => fault.to_string(),
    }
}
