use crate::cli::{CliError, Context, config_source, eprint_line, print_json, print_line};
use crate::config::{Config, Diagnostic, Location};
use serde_json::{Value, json};

#[derive(Debug, clap::Subcommand)]
pub enum ConfigCommand {
    /// Report all faults, each with key, line, value and allowed range
    #[command(after_help = "Example: mailtrail config check --config mailtrail.toml")]
    Check,
    /// Print the effective configuration with secrets masked
    #[command(after_help = "Example: mailtrail config show --json | jq .")]
    Show,
}

pub fn run(context: &Context, command: &ConfigCommand) -> Result<(), CliError> {
    match command {
        ConfigCommand::Check => check_config(context),
        ConfigCommand::Show => show_config(context, &config_source::load_config(context)?),
    }
}

fn check_config(context: &Context) -> Result<(), CliError> {
    let Some(path) = config_source::config_file(context) else {
        config_source::sandbox_config()?;
        print_line("There is no configuration file. The sandbox's own configuration is good.");
        return Ok(());
    };
    let (findings, severity) = match crate::config::load(path, &config_source::read_environment()) {
        Ok(config) => (config.warnings, "warning"),
        Err(faults) => (faults.iter().cloned().collect(), "fault"),
    };
    for finding in &findings {
        if context.json {
            print_json(&diagnostic_to_json(finding, severity));
        } else {
            eprint_line(format!("{severity}: {finding}"));
        }
    }
    if severity == "fault" && !findings.is_empty() {
        return Err(CliError::AlreadyReported);
    }
    if !context.json {
        print_line(format!("{} is good.", path.display()));
    }
    Ok(())
}

fn show_config(context: &Context, config: &Config) -> Result<(), CliError> {
    let text = config.to_toml();
    if !context.json {
        print_line(text.trim_end());
        return Ok(());
    }
    let value: Value = toml::from_str(&text)
        .map_err(|error| CliError::Other(format!("cannot convert the configuration to JSON: {error}")))?;
    print_json(&value);
    Ok(())
}

fn diagnostic_to_json(finding: &Diagnostic, severity: &str) -> Value {
    let (line, variable) = match &finding.location {
        Location::Line(line) => (Some(line), None),
        Location::Variable(name) => (None, Some(name)),
        Location::File => (None, None),
    };
    let (file, key, message) = (finding.file.display().to_string(), &finding.key, &finding.message);
    json!({
        "severity": severity, "file": file, "line": line, "variable": variable, "key": key, "message": message,
    })
}
