//! The compute threads of the CPU device. They sleep between steps, and stay awake for a moment
//! after each operation, since the next one of the same step mostly follows at once. The caller of
//! an operation always works too, so a sleeping helper costs it little, and a busy pool costs it
//! nothing but help.
//!
//! Which thread runs a task, and how many threads there are, never changes a result: tasks share no
//! output and no sum crosses tasks.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the caller looks whether the helpers are done before it sleeps (some 10 µs): waking a
/// thread costs as much.
const LOOKS_BEFORE_SLEEP: usize = 2000;

/// How long a helper stays awake after an operation. Waking it costs some 50 µs on a virtual
/// machine, more than most operations of a small model take.
const AWAKE: Duration = Duration::from_micros(50);

/// Looks between two looks at the clock.
const LOOKS_PER_TIME: usize = 32;

/// A pool of compute threads.
pub struct Threads {
    shared: Arc<Shared>,
    /// Held by the one operation that the helpers work for; others run on their callers alone.
    in_use: Mutex<()>,
    helpers: Vec<JoinHandle<()>>,
}

/// One operation cut into tasks.
#[derive(Clone, Copy)]
struct Job {
    run: *const (dyn Fn(usize) + Sync),
    n_tasks: usize,
}

// SAFETY: `run` points to a `Sync` closure that outlives the job (see `Threads::run_with_helpers`).
unsafe impl Send for Job {}

/// A pointer that tasks share because each touches other elements behind it.
struct Shareable<T>(*mut T);

// SAFETY: see `Threads::for_each_chunk`, the only user.
unsafe impl<T: Send> Sync for Shareable<T> {}

impl<T> Shareable<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}

struct Shared {
    state: Mutex<State>,
    has_job: Condvar,
    is_done: Condvar,
    /// Rises with every job, so that a helper takes each at most once; written under the lock.
    n_jobs: AtomicU64,
    /// The next task to claim; reset by whoever posts a job.
    next_task: AtomicUsize,
    /// Helpers that have taken the job and not finished.
    n_active: AtomicUsize,
    has_panicked: AtomicBool,
}

#[derive(Default)]
struct State {
    job: Option<Job>,
    /// Helpers that must be woken.
    n_asleep: usize,
    is_closing: bool,
}

impl Threads {
    /// A pool of `n_threads`, one of which is always the caller.
    pub(crate) fn start(n_threads: NonZeroUsize) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            has_job: Condvar::new(),
            is_done: Condvar::new(),
            n_jobs: AtomicU64::new(0),
            next_task: AtomicUsize::new(0),
            n_active: AtomicUsize::new(0),
            has_panicked: AtomicBool::new(false),
        });
        let helpers = (1..n_threads.get()).filter_map(|idx| start_helper(idx, &shared)).collect();
        Self { shared, in_use: Mutex::new(()), helpers }
    }

    /// Number of threads that work on an operation, the caller included.
    pub fn n_threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `run` once for every task in `0..n_tasks`, on any thread and in any order, and returns
    /// when all have ended. Panics if a task panicked.
    pub(crate) fn for_each(&self, n_tasks: usize, run: &(dyn Fn(usize) + Sync)) {
        let lone = n_tasks < 2 || self.helpers.is_empty();
        match (lone, self.in_use.try_lock()) {
            (false, Ok(_guard)) => self.run_with_helpers(n_tasks, run),
            _ => (0..n_tasks).for_each(run),
        }
    }

    /// Calls `run` with the index and the elements of every chunk of `n` elements; the last may be
    /// shorter.
    pub(crate) fn for_each_chunk<T: Send>(
        &self,
        elements: &mut [T],
        n: usize,
        run: &(dyn Fn(usize, &mut [T]) + Sync),
    ) {
        let (base, len) = (Shareable(elements.as_mut_ptr()), elements.len());
        self.for_each(len.div_ceil(n.max(1)), &|chunk| {
            let start = chunk * n;
            let n_here = n.min(len - start);
            // SAFETY: chunks do not overlap, and each is visited once.
            let part = unsafe { std::slice::from_raw_parts_mut(base.get().add(start), n_here) };
            run(chunk, part);
        });
    }

    fn run_with_helpers(&self, n_tasks: usize, run: &(dyn Fn(usize) + Sync)) {
        // SAFETY: only the lifetime changes. No helper holds the pointer after `withdraw` returns,
        // and it runs before this function ends, even when a task panics.
        let run_static: *const (dyn Fn(usize) + Sync + 'static) =
            unsafe { std::mem::transmute(std::ptr::from_ref(run)) };
        self.post(Job { run: run_static, n_tasks });
        let outcome = catch_unwind(AssertUnwindSafe(|| self.shared.work(n_tasks, run)));
        self.withdraw();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
        assert!(
            !self.shared.has_panicked.swap(false, Ordering::Relaxed),
            "a compute task panicked"
        );
    }

    fn post(&self, job: Job) {
        self.shared.next_task.store(0, Ordering::Relaxed);
        let mut state = self.shared.lock();
        state.job = Some(job);
        self.shared.n_jobs.fetch_add(1, Ordering::Release);
        let n_asleep = state.n_asleep;
        drop(state);
        if n_asleep == 0 {
            return;
        }
        if job.n_tasks > 2 {
            self.shared.has_job.notify_all();
        } else {
            self.shared.has_job.notify_one();
        }
    }

    /// Takes the job back: afterwards no helper works on it or can begin to.
    fn withdraw(&self) {
        self.shared.lock().job = None;
        for _ in 0..LOOKS_BEFORE_SLEEP {
            if self.shared.n_active.load(Ordering::Acquire) == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        let mut state = self.shared.lock();
        while self.shared.n_active.load(Ordering::Acquire) > 0 {
            state = self.shared.is_done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.lock().is_closing = true;
        self.shared.has_job.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper catches its tasks' panics, so it cannot have died of one.
            let _ = helper.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims and runs tasks until none is left.
    fn work(&self, n_tasks: usize, run: &(dyn Fn(usize) + Sync)) {
        loop {
            let task = self.next_task.fetch_add(1, Ordering::Relaxed);
            if task >= n_tasks {
                return;
            }
            run(task);
        }
    }

    fn help(&self) {
        let mut n_seen = 0;
        while let Some(job) = self.take_job(&mut n_seen) {
            // SAFETY: the poster waits in `withdraw` until `n_active` is 0 before `run` may die.
            let run = unsafe { &*job.run };
            if catch_unwind(AssertUnwindSafe(|| self.work(job.n_tasks, run))).is_err() {
                self.has_panicked.store(true, Ordering::Relaxed);
            }
            if self.n_active.fetch_sub(1, Ordering::Release) == 1 {
                let _state = self.lock();
                self.is_done.notify_one();
            }
        }
    }

    /// Waits for a job that this helper has not seen: awake for a moment, then asleep. `None` when
    /// the pool closes.
    fn take_job(&self, n_seen: &mut u64) -> Option<Job> {
        let mut is_rested = false;
        loop {
            let mut state = self.lock();
            while is_rested && !state.is_closing && self.n_jobs.load(Ordering::Relaxed) == *n_seen {
                state.n_asleep += 1;
                state = self.has_job.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.n_asleep -= 1;
            }
            if state.is_closing {
                return None;
            }
            let n_jobs = self.n_jobs.load(Ordering::Relaxed);
            if std::mem::replace(n_seen, n_jobs) != n_jobs {
                // It may have been withdrawn already; then the next one is near.
                if let Some(job) = state.job {
                    self.n_active.fetch_add(1, Ordering::Relaxed);
                    return Some(job);
                }
            }
            drop(state);
            is_rested = !self.is_posted_soon(*n_seen);
        }
    }

    /// Watches for another job than `n_seen`, for a moment.
    fn is_posted_soon(&self, n_seen: u64) -> bool {
        let began = Instant::now();
        while began.elapsed() < AWAKE {
            for _ in 0..LOOKS_PER_TIME {
                if self.n_jobs.load(Ordering::Acquire) != n_seen {
                    return true;
                }
                std::hint::spin_loop();
            }
        }
        false
    }
}

fn start_helper(idx: usize, shared: &Arc<Shared>) -> Option<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    // Fewer threads than asked for is slower, not wrong.
    std::thread::Builder::new().name(format!("compute-{idx}")).spawn(move || shared.help()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_exactly_once() {
        for n_threads in [1, 2, 5] {
            let threads = Threads::start(NonZeroUsize::new(n_threads).unwrap());
            for n_tasks in [0, 1, 2, 3, 64, 1000] {
                let counts: Vec<AtomicUsize> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
                threads.for_each(n_tasks, &|task| {
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn callers_on_several_threads_do_not_disturb_each_other() {
        let threads = Threads::start(NonZeroUsize::new(2).unwrap());
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for round in 0..500 {
                        let sum = AtomicUsize::new(0);
                        threads.for_each(round, &|task| {
                            sum.fetch_add(task, Ordering::Relaxed);
                        });
                        assert_eq!(sum.into_inner(), round * round.saturating_sub(1) / 2);
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_survives() {
        let threads = Threads::start(NonZeroUsize::new(2).unwrap());
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            threads.for_each(8, &|task| assert_ne!(task, 5, "on purpose"));
        }));
        assert!(outcome.is_err());
        threads.for_each(8, &|_| ());
    }
}
