//! `mailtrail setup`: what others need before mailtrail can work with them.

mod webhooks;

use super::{Context, Trouble, say, say_json, settings};
use crate::endpoint;
use crate::odoo::{Client, Fault, Settings};
use crate::provider::Provider;
use crate::secret::Secret;
use crate::sink::odoo::{ACTION, ACTION_NAME, GROUP_NAME, VERSION};
use crate::sink::{Kind, OdooSettings};

use reqwest::Url;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Have Mailgun tell this relay every kind of event; the webhooks of others stay as they are
    #[command(after_help = "Example: mailtrail setup mailgun --url https://relay.example.com --dry-run")]
    Mailgun(webhooks::Webhooks),
    /// Have Brevo tell this relay every kind of event, with the token as it is configured; the webhooks of others stay as
    /// they are
    #[command(after_help = "Example: mailtrail setup brevo --url https://relay.example.com --dry-run")]
    Brevo(webhooks::Webhooks),
    /// Make, or bring up to date, the server action in Odoo, and the group whose members may run it
    #[command(
        after_help = "Example: mailtrail setup odoo --login admin --user mailtrail@example.com --dry-run"
    )]
    Odoo(Odoo),
}

/// The administrator's password or API key is asked for, or read from standard input.
#[derive(Debug, clap::Args)]
pub struct Odoo {
    /// The [[sink]] whose url and database are meant [default: the only one of kind "odoo"]
    #[arg(long)]
    sink: Option<String>,
    /// Where Odoo answers [default: the sink's]
    #[arg(long)]
    url: Option<Url>,
    /// The database [default: the sink's]
    #[arg(long)]
    database: Option<String>,
    /// An extra trust anchor [default: the sink's]
    #[arg(long)]
    ca_file: Option<PathBuf>,
    /// An administrator's login
    #[arg(long, default_value = "admin")]
    login: String,
    /// The login of the integration user, who is put into the group
    #[arg(long)]
    user: Option<String>,
    /// Take out what was made
    #[arg(long, conflicts_with = "user")]
    remove: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(context: &Context, command: &Command) -> Result<(), Trouble> {
    match command {
        Command::Mailgun(arguments) => webhooks::run(context, Provider::Mailgun, arguments).await,
        Command::Brevo(arguments) => webhooks::run(context, Provider::Brevo, arguments).await,
        Command::Odoo(arguments) => odoo(context, arguments).await,
    }
}

async fn odoo(context: &Context, arguments: &Odoo) -> Result<(), Trouble> {
    let settings = login(context, arguments)?;
    let mut odoo = Administrator {
        client: endpoint::odoo(&settings).map_err(Trouble::Failed)?,
        dry_run: arguments.dry_run,
        json: context.json,
    };
    let done =
        if arguments.remove { odoo.remove().await } else { odoo.make(arguments.user.as_deref()).await };
    done.map_err(|fault| failed(&fault))
}

/// Where to go, and as whom.
fn login(context: &Context, arguments: &Odoo) -> Result<Settings, Trouble> {
    let known = match (&arguments.url, &arguments.database) {
        (Some(_), Some(_)) => None,
        _ => Some(configured(context, arguments.sink.as_deref())?.login),
    };
    let missing = || Trouble::Usage("--url and --database are needed".to_owned());
    let url = arguments.url.clone().or_else(|| known.as_ref().map(|known| known.url.clone()));
    let database = arguments.database.clone().or_else(|| known.as_ref().map(|known| known.database.clone()));
    Ok(Settings {
        url: url.ok_or_else(missing)?,
        database: database.ok_or_else(missing)?,
        username: arguments.login.clone(),
        key: password(&arguments.login)?,
        timeout: Duration::from_secs(60),
        ca_file: arguments.ca_file.clone().or_else(|| known.and_then(|known| known.ca_file)),
    })
}

fn configured(context: &Context, name: Option<&str>) -> Result<OdooSettings, Trouble> {
    let sinks = settings::load(context)?.sinks.into_iter();
    let mut sinks =
        sinks.filter(|sink| name.is_none_or(|name| sink.name == name)).filter_map(|sink| match sink.kind {
            Kind::Odoo(settings) => Some(*settings),
            Kind::File(_) | Kind::Http(_) => None,
        });
    match (sinks.next(), sinks.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => {
            Err(Trouble::Usage("no such [[sink]] of kind \"odoo\"; name --url and --database".to_owned()))
        }
        (Some(_), Some(_)) => {
            Err(Trouble::Usage("there are several [[sink]]s of kind \"odoo\"; name one: --sink".to_owned()))
        }
    }
}

fn password(login: &str) -> Result<Secret, Trouble> {
    let unread = |error: std::io::Error| Trouble::Failed(format!("the password cannot be read: {error}"));
    let password = if std::io::stdin().is_terminal() {
        rpassword::prompt_password(format!("Password or API key of {login:?}: ")).map_err(unread)?
    } else {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map_err(unread)?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    if password.is_empty() {
        return Err(Trouble::Usage("the password is empty".to_owned()));
    }
    Ok(Secret::new(password))
}

fn failed(fault: &Fault) -> Trouble {
    match fault {
        Fault::Denied { .. } => {
            Trouble::Failed(format!("{fault}; the login must be an administrator's (Settings)"))
        }
        fault => Trouble::Failed(fault.to_string()),
    }
}

/// Somebody who may change the database.
struct Administrator {
    client: Client,
    dry_run: bool,
    json: bool,
}

impl Administrator {
    async fn make(&mut self, user: Option<&str>) -> Result<(), Fault> {
        // Odoo 19 calls the fields of groups otherwise.
        let (groups, of_user) =
            (self.groups_of("ir.actions.server").await?, self.groups_of("res.users").await?);
        let group = match self.find("res.groups", "name", GROUP_NAME).await? {
            Some(group) => self.said("kept", "group", Some(group), GROUP_NAME),
            None => self.create("res.groups", json!({ "name": GROUP_NAME }), "group", GROUP_NAME).await?,
        };
        self.make_action(&groups, group).await?;
        let Some(login) = user else { return Ok(()) };
        let Some(user) = self.find("res.users", "login", login).await? else {
            let text =
                format!("no active user has the login {login:?}; make one, without any application's rights");
            return Err(Fault::Missing { what: "res.users".to_owned(), text });
        };
        self.write("res.users", user, json!({ of_user: [[4, group.unwrap_or_default()]] })).await?;
        self.said("put into the group", "user", Some(user), login);
        Ok(())
    }

    async fn make_action(&mut self, groups: &str, group: Option<u64>) -> Result<(), Fault> {
        let only = json!([[6, 0, [group.unwrap_or_default()]]]);
        let Some(action) = self.find("ir.actions.server", "name", ACTION_NAME).await? else {
            // It belongs to some model; the code goes its own ways.
            let model = self.find("ir.model", "model", "mail.notification").await?;
            let values = json!({
                "name": ACTION_NAME, "model_id": model, "state": "code", "code": ACTION, groups: only,
            });
            let what = format!("{ACTION_NAME}, version {VERSION}");
            self.create("ir.actions.server", values, "server action", &what).await?;
            return Ok(());
        };
        let fields = json!({ "fields": ["code", groups, "state"] });
        let found = self.client.call("ir.actions.server", "read", json!([[action]]), fields).await?;
        let same = found[0]["code"].as_str().is_some_and(|code| code.trim() == ACTION.trim())
            && found[0]["state"] == "code"
            && found[0][groups] == json!([group]);
        if same {
            self.said("kept", "server action", Some(action), &format!("{ACTION_NAME}, version {VERSION}"));
            return Ok(());
        }
        let before = found[0]["code"]
            .as_str()
            .and_then(version)
            .map_or("another text".to_owned(), |version| format!("version {version}"));
        self.write("ir.actions.server", action, json!({ "code": ACTION, "state": "code", groups: only }))
            .await?;
        self.said(
            "updated",
            "server action",
            Some(action),
            &format!("{ACTION_NAME}, {before} to version {VERSION}"),
        );
        Ok(())
    }

    async fn remove(&mut self) -> Result<(), Fault> {
        for (model, what, name) in
            [("ir.actions.server", "server action", ACTION_NAME), ("res.groups", "group", GROUP_NAME)]
        {
            let Some(id) = self.find(model, "name", name).await? else {
                self.said("not there", what, None, name);
                continue;
            };
            if !self.dry_run {
                self.client.call(model, "unlink", json!([[id]]), json!({})).await?;
            }
            self.said("removed", what, Some(id), name);
        }
        Ok(())
    }

    /// What the model calls its groups.
    async fn groups_of(&mut self, model: &str) -> Result<String, Fault> {
        let named = json!([["groups_id", "group_ids"]]);
        let fields = self.client.call(model, "fields_get", named, json!({ "attributes": ["type"] })).await?;
        let name = ["group_ids", "groups_id"].into_iter().find(|name| fields.get(name).is_some());
        name.map(str::to_owned).ok_or_else(|| Fault::Missing {
            what: format!("{model}.fields_get"),
            text: "it has no groups; this version of Odoo is not known".to_owned(),
        })
    }

    async fn find(&mut self, model: &str, field: &str, value: &str) -> Result<Option<u64>, Fault> {
        let found =
            self.client.call(model, "search", json!([[[field, "=", value]]]), json!({ "limit": 1 })).await?;
        Ok(found[0].as_u64())
    }

    /// The new record; none in a dry run.
    async fn create(
        &mut self,
        model: &str,
        values: Value,
        what: &str,
        name: &str,
    ) -> Result<Option<u64>, Fault> {
        let id = match self.dry_run {
            true => None,
            false => self.client.call(model, "create", json!([values]), json!({})).await?.as_u64(),
        };
        Ok(self.said("created", what, id, name))
    }

    async fn write(&mut self, model: &str, id: u64, values: Value) -> Result<(), Fault> {
        if !self.dry_run {
            self.client.call(model, "write", json!([[id], values]), json!({})).await?;
        }
        Ok(())
    }

    fn said(&self, done: &str, what: &str, id: Option<u64>, name: &str) -> Option<u64> {
        said(self.json, self.dry_run, &json!({ "done": done, "what": what, "id": id, "name": name }), name);
        id
    }
}

/// Says what was done, or would be: `done`, `what` and `id`; people get the `more` that is known about it.
fn said(as_json: bool, dry_run: bool, told: &Value, more: &str) {
    if as_json {
        let mut told = told.clone();
        told["dry_run"] = dry_run.into();
        return say_json(&told);
    }
    let word = |key: &str| told[key].as_str().unwrap_or_default();
    let number = told["id"].as_u64().map(|id| format!(" {id}")).unwrap_or_default();
    let changes = !matches!(word("done"), "kept" | "not there");
    let only = if dry_run && changes { "would be " } else { "" };
    say(format!("{only}{}: {}{number} ({more})", word("done"), word("what")));
}

/// The version in the first line of the action's code.
fn version(code: &str) -> Option<u64> {
    let (_, rest) = code.lines().next()?.split_once("version ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_names_its_version_where_it_is_looked_for() {
        assert_eq!(version(ACTION), Some(VERSION));
        assert!(ACTION.contains(&format!("'version': {VERSION}, 'results'")));
        assert_eq!(version("print(1)"), None);
    }
}
