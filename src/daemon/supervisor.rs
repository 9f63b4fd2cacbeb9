//! Supervises the background tasks and the queue.
//!
//! Every task is a tokio task of its own. If it panics, the supervisor logs the panic, raises the alarm `task` and
//! starts the task again after a backoff. After [`MAX_FAILURES`] failures in a row the process has to end, so that the
//! service manager restarts it. A task that returns has done its work and is not started again.

use futures_util::future::BoxFuture;
use mailtrail_relay::alarms::{AlarmKind, AlarmRegistry};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// A task that can be started more than once.
pub struct BackgroundTask {
    name: String,
    start: Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

impl BackgroundTask {
    /// Task that runs a clone of `component` at each start.
    pub fn new<C, F>(
        name: impl Into<String>,
        component: C,
        stopping: &CancellationToken,
        run: impl Fn(C, CancellationToken) -> F + Send + Sync + 'static,
    ) -> Self
    where
        C: Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let stopping = stopping.clone();
        Self {
            name: name.into(),
            start: Box::new(move || Box::pin(run(component.clone(), stopping.clone()))),
        }
    }

    /// Name in the log and in the subject of the alarm.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Restarts failed tasks and reports a task that fails repeatedly.
#[derive(Clone)]
pub struct Supervisor {
    alarms: AlarmRegistry,
    /// Reason for which the process has to end.
    failure: Arc<watch::Sender<Option<String>>>,
    #[cfg(test)]
    pub faults: fault_injection::Faults,
}

impl Supervisor {
    pub fn new(alarms: AlarmRegistry) -> Self {
        Self {
            alarms,
            failure: Arc::new(watch::Sender::new(None)),
            #[cfg(test)]
            faults: fault_injection::Faults::default(),
        }
    }

    /// Runs a task until it returns. Returns early on shutdown or if it has failed too often.
    pub async fn run(&self, task: BackgroundTask, stopping: &CancellationToken) {
        let (name, mut failures) = (&task.name, 0);
        loop {
            let Err(panic) = self.run_once(&task, failures > 0, &mut failures).await else {
                self.alarms.clear(AlarmKind::Task, name);
                return;
            };
            failures += 1;
            tracing::error!(task = name, failures, %panic, "background task panicked");
            let text = format!("the task has failed {failures} times in a row and is restarted; see the log");
            self.alarms.raise(AlarmKind::Task, name, text);
            if failures >= MAX_FAILURES {
                let reason = format!("the background task {name} failed {failures} times in a row");
                self.failure.send_replace(Some(reason));
                return;
            }
            let backoff = MIN_BACKOFF.saturating_mul(1 << (failures - 1)).min(MAX_BACKOFF);
            if stopping.run_until_cancelled(sleep(backoff)).await.is_none() {
                return;
            }
        }
    }

    /// Starts a task and waits for its end. A restarted task that runs for [`STABLE_AFTER`] has recovered.
    async fn run_once(
        &self,
        task: &BackgroundTask,
        is_restart: bool,
        failures: &mut u32,
    ) -> Result<(), tokio::task::JoinError> {
        let work = (task.start)();
        #[cfg(test)]
        let work = self.faults.wrap(&task.name, work);
        let mut running = tokio::spawn(work);
        if is_restart {
            tracing::info!(task = task.name, "background task restarted");
            tokio::select! {
                ended = &mut running => return ended,
                () = sleep(STABLE_AFTER) => {
                    *failures = 0;
                    self.alarms.clear(AlarmKind::Task, &task.name);
                }
            }
        }
        running.await
    }

    /// Ends the alarms of tasks that are not in `names`.
    pub fn clear_unknown_tasks(&self, names: &[&str]) {
        self.alarms.clear_unknown_subjects(AlarmKind::Task, |subject| names.contains(&subject));
    }

    /// Returns, with the reason, if a task has failed too often.
    pub async fn wait_failed(&self) -> String {
        let mut failure = self.failure.subscribe();
        match failure.wait_for(Option::is_some).await.map(|reason| reason.clone()) {
            Ok(Some(reason)) => reason,
            // The sender lives as long as `self`.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

/// Failures in a row after which the process ends.
const MAX_FAILURES: u32 = 5;
/// Pause before the first restart; doubled for each further one.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// Time without a panic after which a restarted task counts as recovered.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// Panics in running tasks, for tests.
#[cfg(test)]
pub mod fault_injection {
    use futures_util::future::BoxFuture;
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};
    use tokio_util::sync::CancellationToken;

    /// Running tasks by name: number of starts, and the token that makes the running one panic.
    #[derive(Clone, Default)]
    pub struct Faults(Arc<Mutex<BTreeMap<String, (u32, CancellationToken)>>>);

    impl Faults {
        pub fn wrap(&self, name: &str, mut work: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
            let token = CancellationToken::new();
            {
                let mut tasks = self.0.lock().unwrap();
                let entry = tasks.entry(name.to_owned()).or_default();
                *entry = (entry.0 + 1, token.clone());
            }
            Box::pin(async move {
                tokio::select! {
                    biased;
                    () = token.cancelled() => panic!("injected fault"),
                    () = &mut work => {}
                }
            })
        }

        pub fn names(&self) -> Vec<String> {
            self.0.lock().unwrap().keys().cloned().collect()
        }

        pub fn starts(&self, name: &str) -> u32 {
            self.0.lock().unwrap()[name].0
        }

        /// Makes the running task panic at its next poll.
        pub fn panic_in(&self, name: &str) {
            self.0.lock().unwrap()[name].1.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_mail::Clock;

    fn supervisor() -> (Supervisor, AlarmRegistry) {
        let alarms = AlarmRegistry::new(Clock::System);
        (Supervisor::new(alarms.clone()), alarms)
    }

    fn is_alarmed(alarms: &AlarmRegistry) -> bool {
        alarms.list().iter().any(|alarm| alarm.kind == AlarmKind::Task && alarm.subject == "worker")
    }

    #[tokio::test(start_paused = true)]
    async fn restarted_task_recovers_and_clears_the_alarm() {
        let ((supervisor, alarms), stopping) = (supervisor(), CancellationToken::new());
        let task = BackgroundTask::new("worker", (), &stopping, |(), stopping| async move {
            stopping.cancelled().await;
        });
        let running = tokio::spawn({
            let (supervisor, stopping) = (supervisor.clone(), stopping.clone());
            async move { supervisor.run(task, &stopping).await }
        });
        while supervisor.faults.names().is_empty() {
            tokio::task::yield_now().await;
        }
        for failure in 1..MAX_FAILURES {
            supervisor.faults.panic_in("worker");
            while supervisor.faults.starts("worker") == failure {
                sleep(MIN_BACKOFF).await;
            }
            assert!(is_alarmed(&alarms), "after failure {failure}");
        }
        sleep(STABLE_AFTER * 2).await;
        assert!(!is_alarmed(&alarms));
        supervisor.faults.panic_in("worker");
        while supervisor.faults.starts("worker") == MAX_FAILURES {
            sleep(MIN_BACKOFF).await;
        }
        assert!(supervisor.failure.borrow().is_none(), "failures before the recovery do not count");
        stopping.cancel();
        running.await.unwrap();
        assert!(!is_alarmed(&alarms));
    }

    #[tokio::test(start_paused = true)]
    async fn repeated_failures_end_the_process() {
        let ((supervisor, alarms), stopping) = (supervisor(), CancellationToken::new());
        let task = BackgroundTask::new("worker", (), &stopping, |(), _| async { panic!("broken") });
        supervisor.run(task, &stopping).await;
        assert_eq!(supervisor.faults.starts("worker"), MAX_FAILURES);
        assert_eq!(supervisor.wait_failed().await, "the background task worker failed 5 times in a row");
        assert!(is_alarmed(&alarms));
    }
}
