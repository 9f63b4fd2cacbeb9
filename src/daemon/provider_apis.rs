//! Who asks the providers what their webhooks did not bring, for their lists, and for mail that they keep.

use crate::config::{Config, Upstream};
use crate::daemon::StartError;
use crate::daemon::generation::Ground;
use mailtrail_net::provider_api::Account;
use mailtrail_net::tls;
use mailtrail_relay::reconcile::{Reconciler, Source};
use mailtrail_relay::suppression_sync::{Partner, Syncer};
use std::collections::BTreeMap;

/// For the accounts of a configuration.
pub fn reconciler(ground: &Ground, config: &Config) -> Result<Reconciler, StartError> {
    let mut sources = Vec::new();
    for upstream in &config.upstreams {
        let Some(settings) = upstream.reconcile else { continue };
        let Some(account) = account(ground, upstream)? else { continue };
        sources.push(Source { account, provider: upstream.transport.provider, settings });
    }
    let (store, alarms) = (ground.store.clone(), ground.alarms.clone());
    Ok(Reconciler { store, clock: ground.clock, alarms, sources })
}

/// For the same accounts. One that is not to be asked for events may have a key that only sends, so it is not asked for
/// its lists either unless somebody wants that.
pub fn syncer(ground: &Ground, config: &Config) -> Result<Syncer, StartError> {
    let mut partners = Vec::new();
    for upstream in &config.upstreams {
        let Some(account) = account(ground, upstream)? else { continue };
        let by_itself = upstream.reconcile.is_some() && config.sync.is_some();
        partners.push(Partner::new(account, by_itself));
    }
    Ok(Syncer::new(ground.store.clone(), ground.clock, config.suppression.clone(), partners))
}

/// The accounts whose keys are known, by their upstreams.
pub fn accounts(ground: &Ground, config: &Config) -> Result<BTreeMap<String, Account>, StartError> {
    let mut accounts = BTreeMap::new();
    for upstream in &config.upstreams {
        let Some(account) = account(ground, upstream)? else { continue };
        accounts.insert(upstream.transport.name.clone(), account);
    }
    Ok(accounts)
}

fn account(ground: &Ground, upstream: &Upstream) -> Result<Option<Account>, StartError> {
    let Some(settings) = &upstream.account else { return Ok(None) };
    let tls = tls::connector(upstream.transport.ca_file.as_deref())?;
    Ok(Some(Account::new(settings.clone(), &tls, ground.clock)?))
}
