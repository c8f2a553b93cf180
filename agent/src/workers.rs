//! Threads that serve connections, one for each processor that the agent may use.
//!
//! A connection stays with the thread that it was given to, and so do the upstream connections that it uses. Nothing that a
//! request needs is waited for on another thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The threads. They end, with whatever is left on them, when this is dropped.
pub(crate) struct Workers(Vec<Worker>);

struct Worker {
    runtime: Handle,
    open: Arc<AtomicUsize>,
    _until: oneshot::Sender<()>,
}

impl Workers {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system has none left.
    pub(crate) fn start() -> io::Result<Self> {
        Self::of(thread::available_parallelism().map_or(1, Into::into))
    }

    /// Starts so many.
    ///
    /// # Errors
    /// Likewise.
    pub(crate) fn of(count: usize) -> io::Result<Self> {
        (0..count).map(Worker::start).collect::<io::Result<_>>().map(Self)
    }

    /// The thread that connections are accepted on: the first.
    pub(crate) fn accepting(&self) -> &Handle {
        &self.0[0].runtime
    }

    /// A place on each thread, with what `handler` makes for it.
    pub(crate) fn places<H>(&self, handler: impl Fn() -> H) -> Places<H> {
        let place = |worker: &Worker| Place {
            handler: Arc::new(handler()),
            runtime: worker.runtime.clone(),
            open: Arc::clone(&worker.open),
        };
        Places(self.0.iter().map(place).collect())
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (until, dropped) = oneshot::channel::<()>();
        thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            let _end = runtime.block_on(dropped);
        })?;
        Ok(Self { runtime: handle, open: Arc::default(), _until: until })
    }
}

/// Where connections can be served.
pub(crate) struct Places<H>(Vec<Place<H>>);

impl<H> Clone for Places<H> {
    fn clone(&self) -> Self {
        let place = |place: &Place<H>| Place {
            handler: Arc::clone(&place.handler),
            runtime: place.runtime.clone(),
            open: Arc::clone(&place.open),
        };
        Self(self.0.iter().map(place).collect())
    }
}

struct Place<H> {
    handler: Arc<H>,
    runtime: Handle,
    /// Connections that are open there.
    open: Arc<AtomicUsize>,
}

impl<H> Places<H> {
    /// The runtime that this is called on, alone.
    pub(crate) fn here(handler: Arc<H>) -> Self {
        Self(vec![Place { handler, runtime: Handle::current(), open: Arc::default() }])
    }

    /// Serves a connection where the fewest are open. A client may keep one for hours: by turns, or by chance as where the
    /// kernel divides them, some threads would have much more to do than others.
    ///
    /// `serve` learns whether that is another place than the first, where connections are accepted.
    pub(crate) fn spawn<F>(&self, serve: impl FnOnce(Arc<H>, bool) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let places = self.0.iter().enumerate();
        let fewest = places.min_by_key(|(_, place)| place.open.load(Ordering::Relaxed));
        let Some((number, place)) = fewest else { return };
        place.open.fetch_add(1, Ordering::Relaxed);
        let open = Open(Arc::clone(&place.open));
        let serving = serve(Arc::clone(&place.handler), number > 0);
        place.runtime.spawn(async move {
            serving.await;
            drop(open);
        });
    }
}

/// An open connection.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tokio::sync::{mpsc, watch};

    #[tokio::test]
    async fn connections_are_spread_and_stay() {
        let workers = Workers::of(3).unwrap();
        let places = workers.places(|| ());
        let (tell, mut told) = mpsc::unbounded_channel();
        let (end, ended) = watch::channel(false);
        for _ in 0..6 {
            let (tell, mut ended) = (tell.clone(), ended.clone());
            places.clone().spawn(|_, elsewhere| async move {
                let name = || thread::current().name().unwrap().to_owned();
                let first = name();
                assert_eq!(elsewhere, first != "worker-0");
                tokio::task::yield_now().await;
                assert_eq!(name(), first);
                tell.send(first).unwrap();
                ended.wait_for(|&ended| ended).await.unwrap();
                drop(tell);
            });
        }
        drop(tell);
        let mut on: HashMap<String, usize> = HashMap::new();
        for _ in 0..6 {
            *on.entry(told.recv().await.unwrap()).or_default() += 1;
        }
        assert_eq!(on.len(), 3);
        assert!(on.values().all(|&connections| connections == 2), "{on:?}");
        end.send_replace(true);
        assert!(told.recv().await.is_none());
        while workers.0.iter().any(|worker| worker.open.load(Ordering::Relaxed) > 0) {
            tokio::task::yield_now().await;
        }
    }
}
