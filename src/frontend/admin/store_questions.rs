//! Questions to the store with a short time-out: a page falls back to what is known.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

/// How long a page waits for the store before it tells what is known.
const PATIENCE: Duration = Duration::from_secs(1);
/// Questions at a time. A store that hangs keeps so many threads and no more.
const AT_ONCE: usize = 4;

/// See the module.
#[derive(Debug)]
pub(super) struct StoreQuestions(Arc<Semaphore>);

impl Default for StoreQuestions {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl StoreQuestions {
    /// The answer, if it comes in time.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let permit = Arc::clone(&self.0).try_acquire_owned().ok()?;
        let (answer, answered) = oneshot::channel();
        let asked = std::thread::Builder::new().name("admin-ask".to_owned()).spawn(move || {
            let _held = permit;
            // The page may have given up waiting.
            drop(answer.send(question()));
        });
        asked.ok()?;
        tokio::time::timeout(PATIENCE, answered).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_hangs_is_given_up_and_does_not_pile_up() {
        let questions = StoreQuestions::default();
        assert_eq!(questions.ask(|| 1).await, Some(1));
        let (held, hold) = std::sync::mpsc::channel::<()>();
        let hold = Arc::new(std::sync::Mutex::new(hold));
        for _ in 0..AT_ONCE {
            let hold = Arc::clone(&hold);
            assert_eq!(questions.ask(move || crate::lock(&hold).recv()).await, None);
        }
        assert_eq!(questions.ask(|| 1).await, None, "no further thread");
        drop(held);
        let mut tries = 0;
        while questions.ask(|| 1).await.is_none() {
            tries += 1;
            assert!(tries < 6000, "they never end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
