//! Builds the tasks that use the providers' APIs: event polls, suppression sync and inbound retrieval.

use crate::config::{Config, Upstream};
use crate::daemon::context::DaemonContext;
use crate::daemon::start_error::StartError;
use mailtrail_net::provider_api::ProviderApi;
use mailtrail_net::tls;
use mailtrail_relay::reconcile::{PollSource, Reconciler};
use mailtrail_relay::suppression_sync::{SuppressionSync, SyncPeer};
use std::collections::BTreeMap;

/// Builds the reconciler for the accounts of a configuration.
pub fn build_reconciler(ground: &DaemonContext, config: &Config) -> Result<Reconciler, StartError> {
    let mut sources = Vec::new();
    for upstream in &config.upstreams {
        let Some(settings) = upstream.reconcile else { continue };
        let Some(api) = connect_provider_api(ground, upstream)? else { continue };
        sources.push(PollSource { api, provider: upstream.transport.provider, settings });
    }
    let (store, alarms) = (ground.store.clone(), ground.alarms.clone());
    Ok(Reconciler { store, clock: ground.clock, alarms, sources })
}

/// Builds the suppression sync for the accounts of a configuration. An account without event polls may have a key that
/// can only send, so its lists are synchronized only if the configuration asks for it.
pub fn build_suppression_sync(
    ground: &DaemonContext,
    config: &Config,
) -> Result<SuppressionSync, StartError> {
    let mut partners = Vec::new();
    for upstream in &config.upstreams {
        let Some(account) = connect_provider_api(ground, upstream)? else { continue };
        let by_itself = upstream.reconcile.is_some() && config.suppression_sync_interval.is_some();
        partners.push(SyncPeer::new(account, by_itself));
    }
    Ok(SuppressionSync::new(ground.store.clone(), ground.clock, config.suppression.clone(), partners))
}

/// Returns the API clients of the accounts with a key, by upstream.
pub fn connect_provider_apis(
    ground: &DaemonContext,
    config: &Config,
) -> Result<BTreeMap<String, ProviderApi>, StartError> {
    let mut accounts = BTreeMap::new();
    for upstream in &config.upstreams {
        let Some(account) = connect_provider_api(ground, upstream)? else { continue };
        accounts.insert(upstream.transport.name.clone(), account);
    }
    Ok(accounts)
}

fn connect_provider_api(
    ground: &DaemonContext,
    upstream: &Upstream,
) -> Result<Option<ProviderApi>, StartError> {
    let Some(settings) = &upstream.provider_api else { return Ok(None) };
    let tls = tls::build_connector(upstream.transport.ca_file.as_deref())?;
    Ok(Some(ProviderApi::new(settings.clone(), &tls, ground.clock)?))
}
