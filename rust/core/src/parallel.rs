//! Work split over threads.
//!
//! A stage cuts its output into parts whose bounds do not depend on the number of threads; each part is written by one
//! thread, so that the bytes are the same for any number. The calling thread works too. Pools are made once per size
//! and kept; building one costs about 0.1 ms.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

/// More threads than this are taken for a mistake.
pub const MAX_THREADS: usize = 256;

/// Pools by process and number of workers. A forked child has its parent's table but none of its threads, hence the
/// process in the key.
type Pools = Mutex<HashMap<(u32, usize), Arc<ThreadPool>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pool(workers: usize) -> Result<Arc<ThreadPool>> {
    static POOLS: OnceLock<Pools> = OnceLock::new();
    let mut pools = lock(POOLS.get_or_init(Pools::default));
    let key = (std::process::id(), workers);
    if let Some(pool) = pools.get(&key) {
        return Ok(Arc::clone(pool));
    }
    let pool = ThreadPoolBuilder::new()
        .num_threads(workers)
        .thread_name(|i| format!("wm3dr-{i}"))
        .build()
        .map_err(|e| Error::Threads { wanted: workers, reason: e.to_string() })?;
    let pool = Arc::new(pool);
    pools.insert(key, Arc::clone(&pool));
    Ok(pool)
}

/// The number of threads meant by `threads`: 0 is what the process may use (affinity, cgroup quota).
///
/// # Errors
/// More than [`MAX_THREADS`].
pub fn resolve_threads(threads: usize) -> Result<usize> {
    static AVAILABLE: OnceLock<usize> = OnceLock::new();
    match threads {
        0 => {
            Ok(*AVAILABLE.get_or_init(|| std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS))))
        }
        1..=MAX_THREADS => Ok(threads),
        _ => Err(Error::value("threads", threads, format!("0 (all) to {MAX_THREADS}"))),
    }
}

/// Calls `work` once for every part, on up to `threads` threads, the calling one among them.
pub(crate) fn for_each<I>(threads: usize, parts: I, work: impl Fn(I::Item) + Sync) -> Result<()>
where
    I: Iterator + Send,
    I::Item: Send,
{
    let threads = resolve_threads(threads)?;
    if threads == 1 {
        parts.for_each(work);
        return Ok(());
    }
    let pool = pool(threads - 1)?;
    let queue = Mutex::new(parts);
    let drain = || {
        loop {
            let part = lock(&queue).next();
            match part {
                Some(part) => work(part),
                None => return,
            }
        }
    };
    pool.in_place_scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| drain());
        }
        drain();
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_done_once() {
        for threads in [0, 1, 2, 5] {
            let mut out = vec![0; 1000];
            for_each(threads, out.chunks_mut(7).enumerate(), |(i, part)| {
                for v in part {
                    *v += i + 1;
                }
            })
            .unwrap();
            let expected: Vec<usize> = (0..1000).map(|i| i / 7 + 1).collect();
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn too_many_threads_are_refused() {
        let message = resolve_threads(257).unwrap_err().to_string();
        assert_eq!(message, "'threads' has 257, expected 0 (all) to 256");
    }
}
