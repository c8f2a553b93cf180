//! A limit on time that is set for each wait of a connection, and hardly ever reached.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// An instant by which something must have happened, set when it is first waited for.
///
/// The timer behind it stays where an earlier limit has put it, and is moved when it fires: a connection waits for every
/// request, and to register a timer and take it away again for each costs more than to be woken now and then for nothing.
#[derive(Default)]
pub(crate) struct Deadline {
    due: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// Ready once `limit` has passed since the first call after [`Deadline::clear`].
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        let due = *self.due.get_or_insert_with(|| Instant::now() + limit);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() > due {
            timer.as_mut().reset(due);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= due {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
    }

    /// What was waited for has happened.
    pub(crate) fn clear(&mut self) {
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    async fn passes(deadline: &mut Deadline, limit: Duration) -> Duration {
        let start = Instant::now();
        poll_fn(|cx| deadline.poll(cx, limit)).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_own_limit() {
        let seconds = Duration::from_secs;
        let mut deadline = Deadline::default();
        for limit in [10, 60, 5, 60] {
            // A timer of an earlier wait, sooner or later than this one.
            let waiting = tokio::time::timeout(seconds(1), passes(&mut deadline, seconds(30)));
            assert!(waiting.await.is_err());
            deadline.clear();
            let took = passes(&mut deadline, seconds(limit)).await;
            assert!((seconds(limit)..seconds(limit) + Duration::from_millis(5)).contains(&took), "{took:?}");
            deadline.clear();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn asking_again_does_not_prolong() {
        let limit = Duration::from_secs(10);
        let mut deadline = Deadline::default();
        for _ in 0..3 {
            let waiting = tokio::time::timeout(Duration::from_secs(3), passes(&mut deadline, limit));
            assert!(waiting.await.is_err());
        }
        assert!(passes(&mut deadline, limit).await <= Duration::from_millis(1005));
    }
}
