use super::{ACTION_NAME, OdooSettings, VERSION, Way, connected, run};
use crate::odoo::{Client, Fault};
use serde_json::{Value, json};

/// What is known of a database that can be told.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// Odoo's version.
    pub version: String,
    /// The server action's number; none where reports are sent.
    pub action: Option<u64>,
    /// Whether there are mailings.
    pub mailings: bool,
}

/// Looks whether Odoo would do as it is told: that the login works, the rights suffice, and the server action is there
/// in our version. It changes nothing. What is wrong comes with its remedy, because Odoo itself would keep silent: a
/// user without rights finds nothing and hears of no error.
pub async fn preflight(settings: &OdooSettings) -> Result<String, String> {
    let mut client = None;
    let ready = look(settings, connected(&mut client, settings)?).await?;
    Ok(match ready.action {
        Some(action) => format!("Odoo {}, server action {action} in version {VERSION}", ready.version),
        None => format!("Odoo {}, reports through the mail gateway", ready.version),
    })
}

pub async fn look(settings: &OdooSettings, client: &mut Client) -> Result<Readiness, String> {
    let version = client.version().await.map_err(|fault| fault.to_string())?;
    match settings.way {
        Way::Action => {
            let action = Some(action(settings, client).await?);
            Ok(Readiness { version, action, mailings: false })
        }
        Way::Report => {
            let mailings = rights(settings, client).await.map_err(|fault| with_remedy(&fault))?;
            Ok(Readiness { version, action: None, mailings })
        }
    }
}

/// Finds the action and has it look for a message that nobody has.
async fn action(settings: &OdooSettings, client: &mut Client) -> Result<u64, String> {
    let user = &settings.login.username;
    let action = match settings.action {
        Some(action) => action,
        None => find(client).await?,
    };
    let nothing =
        json!([{ "message_id": "<preflight@mailtrail.invalid>", "email": "preflight@mailtrail.invalid" }]);
    let answer = run(client, action, nothing).await.map_err(|fault| match fault {
        Fault::Denied { .. } => {
            format!("{fault}; `mailtrail setup odoo --user {user}` puts that user into the group of the server action")
        }
        Fault::Missing { .. } => format!("{fault}; {SET_UP}"),
        fault => fault.to_string(),
    })?;
    match answer["version"].as_u64() {
        Some(VERSION) if answer["results"] == json!(["unknown"]) => Ok(action),
        Some(version) if version != VERSION => {
            Err(format!("the server action in Odoo has version {version}, and {VERSION} is needed; {SET_UP}"))
        }
        _ => Err(format!("the server action {action} in Odoo is none of mailtrail's; {SET_UP}")),
    }
}

async fn find(client: &mut Client) -> Result<u64, String> {
    let domain = json!([[["name", "=", ACTION_NAME]]]);
    let found = client.call("ir.actions.server", "search", domain, json!({})).await;
    let found = found.map_err(|fault| match fault {
        Fault::Denied { .. } => format!("{fault}; name the server action's number as `action`"),
        fault => fault.to_string(),
    })?;
    found[0].as_u64().ok_or_else(|| format!("Odoo has no server action {ACTION_NAME:?}; {SET_UP}"))
}

/// Whether the user sees what reports are about; and whether there are mailings.
async fn rights(settings: &OdooSettings, client: &mut Client) -> Result<bool, Fault> {
    let messages = search(client, "mail.message", json!([["message_id", "like", "-openerp-"]])).await?;
    if messages.is_empty() {
        let user = settings.login.username.clone();
        let text = "it shows no message at all to this user".to_owned();
        return Err(Fault::Denied { what: "mail.message.search".to_owned(), user, text });
    }
    let mailings = !search(client, "ir.model", json!([["model", "=", "mailing.trace"]])).await?.is_empty();
    if mailings {
        search(client, "mailing.trace", json!([])).await?;
    }
    Ok(mailings)
}

/// The first record that fits.
async fn search(client: &mut Client, model: &str, domain: Value) -> Result<Vec<Value>, Fault> {
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

const SET_UP: &str = "run `mailtrail setup odoo`";
