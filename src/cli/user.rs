use crate::cli::{CliError, Context, print_json, print_line};
use argon2::Argon2;
use argon2::password_hash::PasswordHasher;
use std::io::IsTerminal;

#[derive(Debug, clap::Subcommand)]
pub enum UserCommand {
    /// Hash a password with argon2id, from a prompt or standard input
    #[command(after_help = "Example: mailtrail user hash < password")]
    Hash,
}

pub fn run(context: &Context, command: &UserCommand) -> Result<(), CliError> {
    match command {
        UserCommand::Hash => hash_password(context),
    }
}

fn hash_password(context: &Context) -> Result<(), CliError> {
    let failed =
        |error: &dyn std::fmt::Display| CliError::Other(format!("cannot read the password: {error}"));
    let password = if std::io::stdin().is_terminal() {
        let password = rpassword::prompt_password("Password: ").map_err(|error| failed(&error))?;
        let again = rpassword::prompt_password("Once more: ").map_err(|error| failed(&error))?;
        if password != again {
            return Err(CliError::Usage("the two passwords differ".into()));
        }
        password
    } else {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map_err(|error| failed(&error))?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    if password.is_empty() {
        return Err(CliError::Usage("the password is empty".into()));
    }
    let hash = Argon2::default().hash_password(password.as_bytes());
    let hash = hash.map_err(|error| CliError::Other(format!("no hash can be made: {error}")))?;
    if context.json {
        print_json(&serde_json::json!({ "hash": hash.to_string() }));
    } else {
        print_line(hash);
    }
    Ok(())
}
