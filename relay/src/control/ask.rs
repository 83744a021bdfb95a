//! Questions to workers, with answers that are waited for, but not for ever.

use std::time::Duration;

use tokio::sync::oneshot;
use turnpike_admin::RelayError;

use crate::worker::{Question, Reply, Unreachable, WorkerHandle};

/// How long a worker may take for an answer: far more than any turn.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Asks all workers at once, and waits for all answers.
pub(super) async fn ask_all<T>(
    workers: &[WorkerHandle],
    question: impl Fn(Reply<T>) -> Question,
) -> Result<Vec<T>, RelayError> {
    let asked: Vec<_> = workers.iter().map(|worker| put(worker, &question)).collect();
    let mut answers = Vec::with_capacity(asked.len());
    for answer in asked {
        answers.push(wait_for(answer?).await?);
    }
    Ok(answers)
}

/// Asks a worker and waits for the answer, but not for ever.
pub(super) async fn ask<T>(
    worker: &WorkerHandle,
    question: impl FnOnce(Reply<T>) -> Question,
) -> Result<T, RelayError> {
    wait_for(put(worker, question)?).await
}

fn put<T>(
    worker: &WorkerHandle,
    question: impl FnOnce(Reply<T>) -> Question,
) -> Result<oneshot::Receiver<T>, RelayError> {
    let (reply, answer) = oneshot::channel();
    worker.ask(question(reply)).map_err(busy)?;
    Ok(answer)
}

async fn wait_for<T>(answer: oneshot::Receiver<T>) -> Result<T, RelayError> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(busy(Unreachable::Ended)),
        Err(_) => Err(RelayError::Busy("a worker did not answer in time".to_owned())),
    }
}

pub(super) fn busy(unreachable: Unreachable) -> RelayError {
    RelayError::Busy(unreachable.to_string())
}
