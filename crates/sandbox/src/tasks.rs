use std::future::Future;
use std::sync::{Mutex, PoisonError};
use tokio::task::{JoinError, JoinSet};

/// Everything that runs for one sandbox. Once stopped, nothing can be added: a task that is about to end may still
/// try.
#[derive(Debug)]
pub(crate) struct Tasks(Mutex<Option<JoinSet<()>>>);

impl Tasks {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Some(JoinSet::new())))
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tasks) = tasks.as_mut() {
            while let Some(ended) = tasks.try_join_next() {
                log_panic(ended);
            }
            tasks.spawn(task);
        }
    }

    pub(crate) async fn stop(&self) {
        let tasks = self.take_tasks();
        if let Some(mut tasks) = tasks {
            tasks.shutdown().await;
        }
    }

    pub(crate) fn abort(&self) {
        drop(self.take_tasks());
    }

    fn take_tasks(&self) -> Option<JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a task of the sandbox panicked");
    }
}
