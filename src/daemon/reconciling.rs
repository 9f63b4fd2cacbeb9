//! Who asks the providers what their webhooks did not bring, and for their lists.

use super::StartError;
use super::generation::Ground;
use crate::account::Account;
use crate::config::Config;
use crate::reconcile::{Reconciler, Source};
use crate::sync::{Partner, Syncer};
use crate::tls;

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

/// For the same accounts. One that is not to be asked for events may have a key that only sends, so it is not asked for
/// its lists either unless somebody wants that.
pub fn syncer(ground: &Ground, config: &Config) -> Result<Syncer, StartError> {
    let mut partners = Vec::new();
    for upstream in &config.upstreams {
        let Some(account) = &upstream.account else { continue };
        let tls = tls::connector(upstream.transport.ca_file.as_deref())?;
        let account = Account::new(account.clone(), &tls, ground.clock)?;
        partners.push(Partner::new(account, upstream.reconcile.is_some()));
    }
    Ok(Syncer::new(ground.store.clone(), ground.clock, config.suppression.clone(), partners))
}
