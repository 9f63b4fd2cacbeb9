//! `mailtrail setup odoo`: installs the server actions in Odoo and the group whose members may run them.

use crate::cli::setup::change::print_change;
use crate::cli::{CliError, Context, config_source, eprint_line};
use mailtrail_mail::Secret;
use mailtrail_net::odoo::{
    GROUP_NAME, INBOUND_ACTION, OdooClient, OdooConnection, OdooError, ServerAction, format_group_comment,
};
use mailtrail_net::webhook_client;
use mailtrail_relay::sink::SinkKind;
use mailtrail_relay::sink::odoo::{EVENTS_ACTION, OdooSettings};
use reqwest::Url;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

/// Reads the administrator's password or API key from the terminal or from standard input.
#[derive(Debug, clap::Args)]
pub struct SetupOdooArgs {
    /// [[sink]] with the url and database to use [default: the only one of kind "odoo"]
    #[arg(long)]
    sink: Option<String>,
    /// URL of Odoo [default: the sink's]
    #[arg(long)]
    url: Option<Url>,
    /// Database [default: the sink's]
    #[arg(long)]
    database: Option<String>,
    /// Additional CA certificate file [default: the sink's]
    #[arg(long)]
    ca_file: Option<PathBuf>,
    /// An administrator's login
    #[arg(long, default_value = "admin")]
    login: String,
    /// Login of the integration user; added to the group
    #[arg(long)]
    user: Option<String>,
    /// Also install the server action that delivers inbound mail to Odoo's mail gateway
    #[arg(long)]
    inbound: bool,
    /// Remove the actions and the group
    #[arg(long, conflicts_with_all = ["user", "inbound"])]
    remove: bool,
    /// Only list the changes
    #[arg(long)]
    dry_run: bool,
}

/// Installs or removes the server actions.
pub async fn run(context: &Context, arguments: &SetupOdooArgs) -> Result<(), CliError> {
    let settings = resolve_settings(context, arguments)?;
    let mut odoo = OdooSetup {
        client: webhook_client::build_odoo_client(&settings).map_err(CliError::Other)?,
        dry_run: arguments.dry_run,
        json: context.json,
        created_records: Vec::new(),
    };
    if arguments.remove {
        return odoo.uninstall().await.map_err(|fault| to_cli_error(&fault));
    }
    let made = odoo.install(arguments.user.as_deref(), arguments.inbound).await;
    if made.is_err() {
        odoo.roll_back().await;
    }
    made.map_err(|fault| to_cli_error(&fault))
}

/// Returns the Odoo server and the login.
fn resolve_settings(context: &Context, arguments: &SetupOdooArgs) -> Result<OdooConnection, CliError> {
    let known = match (&arguments.url, &arguments.database) {
        (Some(_), Some(_)) => None,
        _ => Some(find_configured_sink(context, arguments.sink.as_deref())?.login),
    };
    let missing = || CliError::Usage("--url and --database are needed".to_owned());
    let url = arguments.url.clone().or_else(|| known.as_ref().map(|known| known.url.clone()));
    let database = arguments.database.clone().or_else(|| known.as_ref().map(|known| known.database.clone()));
    Ok(OdooConnection {
        url: url.ok_or_else(missing)?,
        database: database.ok_or_else(missing)?,
        username: arguments.login.clone(),
        api_key: read_password(&arguments.login)?,
        timeout: Duration::from_secs(60),
        ca_file: arguments.ca_file.clone().or_else(|| known.and_then(|known| known.ca_file)),
    })
}

fn find_configured_sink(context: &Context, name: Option<&str>) -> Result<OdooSettings, CliError> {
    let sinks = config_source::load_config(context)?.sinks.into_iter();
    let mut sinks =
        sinks.filter(|sink| name.is_none_or(|name| sink.name == name)).filter_map(|sink| match sink.kind {
            SinkKind::Odoo(settings) => Some(*settings),
            SinkKind::File(_) | SinkKind::Http(_) => None,
        });
    match (sinks.next(), sinks.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => {
            Err(CliError::Usage("no such [[sink]] of kind \"odoo\"; give --url and --database".to_owned()))
        }
        (Some(_), Some(_)) => Err(CliError::Usage(
            "there are several [[sink]]s of kind \"odoo\"; select one with --sink".to_owned(),
        )),
    }
}

fn read_password(login: &str) -> Result<Secret, CliError> {
    let unread = |error: std::io::Error| CliError::Other(format!("cannot read the password: {error}"));
    let password = if std::io::stdin().is_terminal() {
        rpassword::prompt_password(format!("Password or API key of {login:?}: ")).map_err(unread)?
    } else {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map_err(unread)?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    if password.is_empty() {
        return Err(CliError::Usage("the password is empty".to_owned()));
    }
    Ok(Secret::new(password))
}

fn to_cli_error(fault: &OdooError) -> CliError {
    match fault {
        OdooError::AccessDenied { .. } => {
            CliError::Other(format!("{fault}; the login must be an administrator's (Settings)"))
        }
        fault => CliError::Other(fault.to_string()),
    }
}

/// Session of an administrator, with the records that it has created.
struct OdooSetup {
    client: OdooClient,
    dry_run: bool,
    json: bool,
    /// Created records: model, id, kind and name.
    created_records: Vec<(&'static str, u64, &'static str, String)>,
}

/// Objects that exist before anything is changed.
struct ExistingObjects {
    /// Names of the group fields of server actions and of users; they differ in Odoo 19.
    action_groups_field: String,
    user_groups_field: String,
    group: Option<(u64, String)>,
    user: Option<u64>,
}

impl OdooSetup {
    /// Looks everything up first, so that errors are found before anything is changed.
    async fn install(&mut self, user: Option<&str>, inbound: bool) -> Result<(), OdooError> {
        let found = self.find_existing(user).await?;
        let group = match &found.group {
            Some((group, _)) => self.print_change("kept", "group", Some(*group), GROUP_NAME),
            None => {
                self.create_record("res.groups", json!({ "name": GROUP_NAME }), "group", GROUP_NAME).await?
            }
        };
        let mut numbers = Vec::new();
        for action in SERVER_ACTIONS {
            let known = self.find_record("ir.actions.server", "name", action.name).await?;
            if known.is_some() || inbound || action == EVENTS_ACTION {
                let number = self.install_action(action, known, &found.action_groups_field, group).await?;
                numbers.extend(number.map(|number| (action.key, number)));
            }
        }
        self.write_action_ids(&found, group, &numbers).await?;
        let (Some(login), Some(user)) = (user, found.user) else { return Ok(()) };
        let joined = json!({ found.user_groups_field: [[4, group.unwrap_or_default()]] });
        self.write_record("res.users", user, joined).await?;
        self.print_change("put into the group", "user", Some(user), login);
        Ok(())
    }

    async fn find_existing(&mut self, login: Option<&str>) -> Result<ExistingObjects, OdooError> {
        let action_groups_field = self.find_groups_field("ir.actions.server").await?;
        let user_groups_field = self.find_groups_field("res.users").await?;
        let user = match login {
            Some(login) => Some(self.find_user(login).await?),
            None => None,
        };
        let domain = json!([[["name", "=", GROUP_NAME]]]);
        let groups =
            self.client.call_method("res.groups", "search_read", domain, json!({ "fields": ["comment"] }));
        let groups = groups.await?;
        let comment = groups[0]["comment"].as_str().unwrap_or_default().to_owned();
        let group = groups[0]["id"].as_u64().map(|id| (id, comment));
        Ok(ExistingObjects { action_groups_field, user_groups_field, group, user })
    }

    async fn find_user(&mut self, login: &str) -> Result<u64, OdooError> {
        let user = self.find_record("res.users", "login", login).await?;
        user.ok_or_else(|| OdooError::NotFound {
            operation: "res.users".to_owned(),
            text: format!(
                "no active user has the login {login:?}; make one, without any application's rights"
            ),
        })
    }

    /// Returns the id of the action; `None` in a dry run that would create it.
    async fn install_action(
        &mut self,
        action: ServerAction,
        known: Option<u64>,
        groups: &str,
        group: Option<u64>,
    ) -> Result<Option<u64>, OdooError> {
        let ServerAction { name, code, version, .. } = action;
        let only = json!([[6, 0, [group.unwrap_or_default()]]]);
        let what = format!("{name}, version {version}");
        let Some(number) = known else {
            // A server action needs a model; the code does not use it.
            let model = self.find_record("ir.model", "model", "mail.notification").await?;
            let values =
                json!({ "name": name, "model_id": model, "state": "code", "code": code, groups: only });
            return self.create_record("ir.actions.server", values, "server action", &what).await;
        };
        let fields = json!({ "fields": ["code", groups, "state"] });
        let found = self.client.call_method("ir.actions.server", "read", json!([[number]]), fields).await?;
        let same = found[0]["code"].as_str().is_some_and(|known| known.trim() == code.trim())
            && found[0]["state"] == "code"
            && found[0][groups] == json!([group]);
        if same {
            return Ok(self.print_change("kept", "server action", Some(number), &what));
        }
        let before = found[0]["code"]
            .as_str()
            .and_then(parse_version)
            .map_or("another text".to_owned(), |version| format!("version {version}"));
        self.write_record(
            "ir.actions.server",
            number,
            json!({ "code": code, "state": "code", groups: only }),
        )
        .await?;
        let what = format!("{name}, {before} to version {version}");
        Ok(self.print_change("updated", "server action", Some(number), &what))
    }

    /// Writes the ids of the actions into the group's comment, which the integration user may read.
    async fn write_action_ids(
        &mut self,
        found: &ExistingObjects,
        group: Option<u64>,
        numbers: &[(&str, u64)],
    ) -> Result<(), OdooError> {
        let comment = format_group_comment(numbers);
        let Some(group) = group.filter(|_| !numbers.is_empty()) else { return Ok(()) };
        match &found.group {
            Some((_, known)) if *known == comment => return Ok(()),
            Some(_) => {
                self.print_change("updated", "group", Some(group), "the numbers of its server actions");
            }
            None => {}
        }
        self.write_record("res.groups", group, json!({ "comment": comment })).await
    }

    /// Deletes the records that this run has created before it failed.
    async fn roll_back(&mut self) {
        for (model, id, what, name) in std::mem::take(&mut self.created_records).into_iter().rev() {
            match self.client.call_method(model, "unlink", json!([[id]]), json!({})).await {
                Ok(_) => drop(self.print_change("removed", what, Some(id), &name)),
                Err(fault) => {
                    eprint_line(format!("mailtrail: cannot remove {what} {id} ({name}): {fault}"));
                }
            }
        }
    }

    async fn uninstall(&mut self) -> Result<(), OdooError> {
        let actions = SERVER_ACTIONS.map(|action| ("ir.actions.server", "server action", action.name));
        for (model, what, name) in actions.into_iter().chain([("res.groups", "group", GROUP_NAME)]) {
            let Some(id) = self.find_record(model, "name", name).await? else {
                self.print_change("not there", what, None, name);
                continue;
            };
            if !self.dry_run {
                self.client.call_method(model, "unlink", json!([[id]]), json!({})).await?;
            }
            self.print_change("removed", what, Some(id), name);
        }
        Ok(())
    }

    /// Returns the name of the groups field; it differs between Odoo versions.
    async fn find_groups_field(&mut self, model: &str) -> Result<String, OdooError> {
        let named = json!([["groups_id", "group_ids"]]);
        let fields =
            self.client.call_method(model, "fields_get", named, json!({ "attributes": ["type"] })).await?;
        let name = ["group_ids", "groups_id"].into_iter().find(|name| fields.get(name).is_some());
        name.map(str::to_owned).ok_or_else(|| OdooError::NotFound {
            operation: format!("{model}.fields_get"),
            text: "it has no groups field; this version of Odoo is not supported".to_owned(),
        })
    }

    async fn find_record(&mut self, model: &str, field: &str, value: &str) -> Result<Option<u64>, OdooError> {
        let found = self
            .client
            .call_method(model, "search", json!([[[field, "=", value]]]), json!({ "limit": 1 }))
            .await?;
        Ok(found[0].as_u64())
    }

    /// Returns the id of the new record; `None` in a dry run.
    async fn create_record(
        &mut self,
        model: &'static str,
        values: Value,
        what: &'static str,
        name: &str,
    ) -> Result<Option<u64>, OdooError> {
        let id = match self.dry_run {
            true => None,
            false => self.client.call_method(model, "create", json!([values]), json!({})).await?.as_u64(),
        };
        self.created_records.extend(id.map(|id| (model, id, what, name.to_owned())));
        Ok(self.print_change("created", what, id, name))
    }

    async fn write_record(&mut self, model: &str, id: u64, values: Value) -> Result<(), OdooError> {
        if !self.dry_run {
            self.client.call_method(model, "write", json!([[id], values]), json!({})).await?;
        }
        Ok(())
    }

    fn print_change(&self, done: &str, what: &str, id: Option<u64>, name: &str) -> Option<u64> {
        print_change(
            self.json,
            self.dry_run,
            &json!({ "done": done, "what": what, "id": id, "name": name }),
            name,
        );
        id
    }
}

/// The server actions, in the order of creation.
const SERVER_ACTIONS: [ServerAction; 2] = [EVENTS_ACTION, INBOUND_ACTION];

/// Parses the version from the first line of an action's code.
fn parse_version(code: &str) -> Option<u64> {
    let (_, rest) = code.lines().next()?.split_once("version ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn action_code_states_its_version() {
        for ServerAction { code, version, .. } in SERVER_ACTIONS {
            assert_eq!(parse_version(code), Some(version));
        }
        assert!(EVENTS_ACTION.code.contains(&format!("'version': {}, 'results'", EVENTS_ACTION.version)));
        assert_eq!(parse_version("print(1)"), None);
    }
}
