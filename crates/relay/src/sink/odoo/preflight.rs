use crate::sink::odoo::settings::{EVENTS_ACTION, OdooMode, OdooSettings};
use mailtrail_net::odoo::{OdooClient, OdooError, find_action_id, run_action};
use mailtrail_net::webhook_client;
use serde_json::{Value, json};

/// State of an Odoo database that is ready.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// Odoo's version.
    pub version: String,
    /// Id of the server action; none for DSNs.
    pub action_id: Option<u64>,
    /// Whether the mailing module is installed.
    pub has_mailings: bool,
}

/// Checks that Odoo is ready: the login works, the rights suffice, and the server action has our version.
/// Changes nothing. Each error includes its remedy, because Odoo reports none: a user without rights finds
/// nothing and gets no error.
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

pub async fn check_readiness(settings: &OdooSettings, client: &mut OdooClient) -> Result<Readiness, String> {
    let version = client.fetch_version().await.map_err(|fault| fault.to_string())?;
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

/// Finds the action and runs it with a search for a message that does not exist.
async fn find_action(settings: &OdooSettings, client: &mut OdooClient) -> Result<u64, String> {
    let user = &settings.login.username;
    let set_up = format!("run `mailtrail setup odoo --user {user}`");
    let number = match settings.action_id {
        Some(number) => number,
        None => find_action_id(client, EVENTS_ACTION.key)
            .await
            .map_err(|fault| fault.to_string())?
            .ok_or_else(|| format!("Odoo names no server action of mailtrail's to {user:?}; {set_up}"))?,
    };
    // A configured id is unaffected by a new set-up.
    let remedy = match settings.action_id {
        Some(number) => format!("remove `action = {number}` from the [[sink]], and {set_up}"),
        None => set_up,
    };
    let nothing =
        json!([{ "message_id": "<preflight@mailtrail.invalid>", "email": "preflight@mailtrail.invalid" }]);
    let answer = run_action(client, number, json!({ "mailtrail_events": nothing })).await;
    let answer = answer.map_err(|fault| match fault {
        OdooError::AccessDenied { .. } => {
            format!("{fault}; {remedy}, which puts that user into the group of the server action")
        }
        OdooError::NotFound { .. } => format!("{fault}; {remedy}"),
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

/// Checks that the user can read the reported records; returns whether there are mailings.
async fn check_rights(settings: &OdooSettings, client: &mut OdooClient) -> Result<bool, OdooError> {
    let messages = search_first(client, "mail.message", json!([["message_id", "like", "-openerp-"]])).await?;
    if messages.is_empty() {
        let user = settings.login.username.clone();
        let text = "it shows no message at all to this user".to_owned();
        return Err(OdooError::AccessDenied { operation: "mail.message.search".to_owned(), user, text });
    }
    // A user without access to the list of models may still search a model.
    match search_first(client, "mailing.trace", json!([])).await {
        Ok(_) => Ok(true),
        Err(OdooError::Rejected { text, .. }) if text.contains("doesn't exist") => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// Returns the first matching record.
async fn search_first(client: &mut OdooClient, model: &str, domain: Value) -> Result<Vec<Value>, OdooError> {
    let found = client.call_method(model, "search", json!([domain]), json!({ "limit": 1 })).await?;
    Ok(found.as_array().cloned().unwrap_or_default())
}

fn with_remedy(fault: &OdooError) -> String {
    match fault {
        OdooError::AccessDenied { .. } => format!(
            "{fault}; give the user the rights of the applications that send mail (Sales, Email Marketing), \
             or use way = \"action\""
        ),
        fault => fault.to_string(),
    }
}

/// Returns the client, created on first use.
pub fn client_or_connect<'a>(
    client: &'a mut Option<OdooClient>,
    settings: &OdooSettings,
) -> Result<&'a mut OdooClient, String> {
    if client.is_none() {
        *client = Some(webhook_client::build_odoo_client(&settings.login)?);
    }
    client.as_mut().ok_or_else(|| "no connection to Odoo can be made".to_owned())
}
