use super::{Context, Trouble, say, settings};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// All faults at once, each with key, line, value and what is allowed
    Check,
    /// The configuration as it takes effect, secrets masked
    Show,
}

pub fn run(context: &Context, command: &Command) -> Result<(), Trouble> {
    let config = match settings::load(context) {
        Err(Trouble::Configuration(faults)) => {
            eprintln!("{faults}");
            return Err(Trouble::Nothing);
        }
        loaded => loaded?,
    };
    match command {
        Command::Check => {
            for warning in &config.warnings {
                eprintln!("warning: {warning}");
            }
            say("The configuration is good.");
        }
        Command::Show => say(config.show().trim_end()),
    }
    Ok(())
}
