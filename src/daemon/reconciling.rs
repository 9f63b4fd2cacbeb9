//! Who asks the providers what their webhooks did not bring.

use super::StartError;
use super::generation::Ground;
use crate::account::Account;
use crate::config::Config;
use crate::reconcile::{Reconciler, Source};
use crate::tls;
use std::collections::BTreeMap;

/// For the accounts of a configuration.
pub fn reconciler(ground: &Ground, config: &Config) -> Result<Reconciler, StartError> {
    let mut sources = Vec::new();
    for upstream in &config.upstreams {
        let (Some(account), Some(settings)) = (&upstream.account, upstream.reconcile) else { continue };
        let tls = tls::connector(upstream.transport.ca_file.as_deref())?;
        sources.push(Source {
            account: Account::new(account.clone(), &tls, ground.clock)?,
            provider: upstream.transport.provider,
            settings,
        });
    }
    Ok(Reconciler { store: ground.store.clone(), clock: ground.clock, sources })
}

/// The accounts whose keys are known, by their upstreams.
pub fn accounts(ground: &Ground, config: &Config) -> Result<BTreeMap<String, Account>, StartError> {
    let mut accounts = BTreeMap::new();
    for upstream in &config.upstreams {
        let Some(account) = &upstream.account else { continue };
        let tls = tls::connector(upstream.transport.ca_file.as_deref())?;
        let account = Account::new(account.clone(), &tls, ground.clock)?;
        accounts.insert(upstream.transport.name.clone(), account);
    }
    Ok(accounts)
}
