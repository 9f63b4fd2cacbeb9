use crate::cli::{Context, Trouble, aside, config_source, say, say_json};
use crate::config::{Config, Finding, Place};
use serde_json::{Value, json};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// All faults at once, each with key, line, value and what is allowed
    #[command(after_help = "Example: mailtrail config check --config mailtrail.toml")]
    Check,
    /// The configuration as it takes effect, secrets masked
    #[command(after_help = "Example: mailtrail config show --json | jq .")]
    Show,
}

pub fn run(context: &Context, command: &Command) -> Result<(), Trouble> {
    match command {
        Command::Check => check(context),
        Command::Show => show(context, &config_source::load(context)?),
    }
}

fn check(context: &Context) -> Result<(), Trouble> {
    let Some(path) = config_source::file(context) else {
        config_source::sandbox()?;
        say("There is no configuration file. The sandbox's own configuration is good.");
        return Ok(());
    };
    let (findings, severity) = match crate::config::load(path, &config_source::environment()) {
        Ok(config) => (config.warnings, "warning"),
        Err(faults) => (faults.iter().cloned().collect(), "fault"),
    };
    for finding in &findings {
        if context.json {
            say_json(&finding_json(finding, severity));
        } else {
            aside(format!("{severity}: {finding}"));
        }
    }
    if severity == "fault" && !findings.is_empty() {
        return Err(Trouble::Nothing);
    }
    if !context.json {
        say(format!("{} is good.", path.display()));
    }
    Ok(())
}

fn show(context: &Context, config: &Config) -> Result<(), Trouble> {
    let text = config.show();
    if !context.json {
        say(text.trim_end());
        return Ok(());
    }
    let value: Value = toml::from_str(&text)
        .map_err(|error| Trouble::Failed(format!("it cannot be shown as JSON: {error}")))?;
    say_json(&value);
    Ok(())
}

fn finding_json(finding: &Finding, severity: &str) -> Value {
    let (line, variable) = match &finding.place {
        Place::Line(line) => (Some(line), None),
        Place::Variable(name) => (None, Some(name)),
        Place::File => (None, None),
    };
    let (file, key, message) = (finding.file.display().to_string(), &finding.key, &finding.message);
    json!({
        "severity": severity, "file": file, "line": line, "variable": variable, "key": key, "message": message,
    })
}
