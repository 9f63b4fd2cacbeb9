use crate::cli::{Context, Trouble, say, say_json};
use argon2::Argon2;
use argon2::password_hash::PasswordHasher;
use std::io::IsTerminal;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// The argon2id hash of a password, read from a prompt or from standard input
    #[command(after_help = "Example: mailtrail user hash < password")]
    Hash,
}

pub fn run(context: &Context, command: &Command) -> Result<(), Trouble> {
    match command {
        Command::Hash => hash(context),
    }
}

fn hash(context: &Context) -> Result<(), Trouble> {
    let failed =
        |error: &dyn std::fmt::Display| Trouble::Failed(format!("the password cannot be read: {error}"));
    let password = if std::io::stdin().is_terminal() {
        let password = rpassword::prompt_password("Password: ").map_err(|error| failed(&error))?;
        let again = rpassword::prompt_password("Once more: ").map_err(|error| failed(&error))?;
        if password != again {
            return Err(Trouble::Usage("the two passwords differ".into()));
        }
        password
    } else {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map_err(|error| failed(&error))?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    if password.is_empty() {
        return Err(Trouble::Usage("the password is empty".into()));
    }
    let hash = Argon2::default().hash_password(password.as_bytes());
    let hash = hash.map_err(|error| Trouble::Failed(format!("no hash can be made: {error}")))?;
    if context.json {
        say_json(&serde_json::json!({ "hash": hash.to_string() }));
    } else {
        say(hash);
    }
    Ok(())
}
