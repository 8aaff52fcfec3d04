//! What we need of the operating system beyond the standard library: waiting for several
//! descriptors at once, a bell that wakes the waiting thread, and C's files in memory.

use std::ffi::{c_char, c_int, c_short, c_ulong, c_void};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

/// One descriptor to wait for, and what was found: C's `struct pollfd`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Watched {
    fd: c_int,
    events: c_short,
    found: c_short,
}

const POLLIN: c_short = 1;

impl Watched {
    /// Never ready: the system passes over negative descriptors.
    pub(crate) const NOTHING: Self = Self { fd: -1, events: 0, found: 0 };

    /// Something to read, an end, or an error of `fd`.
    pub(crate) fn reading(fd: RawFd) -> Self {
        Self { fd, events: POLLIN, found: 0 }
    }

    /// Whether it was found.
    pub(crate) fn is_ready(&self) -> bool {
        self.found != 0
    }
}

unsafe extern "C" {
    fn poll(fds: *mut Watched, n_fds: c_ulong, timeout_ms: c_int) -> c_int;
    fn open_memstream(bytes: *mut *mut c_char, n_bytes: *mut usize) -> *mut c_void;
    fn fclose(file: *mut c_void) -> c_int;
    fn free(memory: *mut c_void);
}

/// Waits until one of `watched` is ready, or `at_most` has passed (no limit if none).
pub(crate) fn wait(watched: &mut [Watched], at_most: Option<Duration>) {
    // Rounded up, or whoever waits for the last part of a millisecond would ask again and again.
    let in_ms = |time: Duration| time.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128);
    let timeout = at_most.map_or(-1, |time| in_ms(time) as c_int);
    // SAFETY: a slice of C's structures and its length. A failure (a signal, say) is as good as
    // nothing ready: whoever waits looks at everything again.
    unsafe { poll(watched.as_mut_ptr(), watched.len() as c_ulong, timeout) };
}

/// What `write` writes to the C file that it is given.
pub(crate) fn written_to_file(write: impl FnOnce(*mut c_void)) -> String {
    let (mut bytes, mut n_bytes) = (std::ptr::null_mut(), 0);
    // SAFETY: both places live until the file is closed.
    let file = unsafe { open_memstream(&mut bytes, &mut n_bytes) };
    if file.is_null() {
        return String::new();
    }
    write(file);
    // SAFETY: the file is open, and nobody has it any longer.
    unsafe { fclose(file) };
    // SAFETY: closing has written address and length of a buffer that is ours to free.
    let text = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), n_bytes) };
    let text = String::from_utf8_lossy(text).into_owned();
    // SAFETY: allocated for us by `open_memstream`; the copy above is another one.
    unsafe { free(bytes.cast()) };
    text
}

/// Wakes the one thread that waits for it. Ringing costs nothing while that thread is awake.
pub(crate) struct Bell {
    is_asleep: AtomicBool,
    rung: UnixStream,
    ring: UnixStream,
}

impl Bell {
    /// Errors: no descriptors are left.
    pub(crate) fn new() -> io::Result<Self> {
        let (rung, ring) = UnixStream::pair()?;
        rung.set_nonblocking(true)?;
        ring.set_nonblocking(true)?;
        Ok(Self { is_asleep: AtomicBool::new(false), rung, ring })
    }

    /// Wakes the thread if it sleeps. What was said to it before ringing, it finds.
    pub(crate) fn ring(&self) {
        // Whoever falls asleep says so before the last look; who rings, says it before looking
        // whether anybody sleeps: one of the two sees the other.
        fence(Ordering::SeqCst);
        if self.is_asleep.swap(false, Ordering::SeqCst) {
            // The pipe holds far more than the one byte for each time the thread fell asleep.
            let _ = (&self.ring).write(&[1]);
        }
    }

    /// To be called before looking a last time for something to do.
    pub(crate) fn fall_asleep(&self) {
        self.is_asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// To be called after waiting, whatever ended that.
    pub(crate) fn wake(&self) {
        self.is_asleep.store(false, Ordering::SeqCst);
    }

    /// To be called when the descriptor was found ready, or it stays so.
    ///
    /// That it is ready is all that counts: who rings takes the flag first and writes afterwards,
    /// so the byte may come when the thread was woken by something else and sleeps again.
    pub(crate) fn silence(&self) {
        // What does not fit is found by the next wait.
        let _ = (&self.rung).read(&mut [0; 16]);
    }

    /// The descriptor that is ready to read once the bell was rung.
    pub(crate) fn fd(&self) -> RawFd {
        self.rung.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_bell_wakes_a_sleeper_and_bothers_nobody_else() {
        let bell = Bell::new().unwrap();
        let mut watched = [Watched::reading(bell.fd())];
        bell.ring();
        wait(&mut watched, Some(Duration::ZERO));
        assert!(!watched[0].is_ready(), "nobody sleeps");
        bell.fall_asleep();
        bell.ring();
        bell.ring();
        wait(&mut watched, None);
        assert!(watched[0].is_ready());
        bell.wake();
        bell.silence();
        let before = Instant::now();
        wait(&mut watched, Some(Duration::from_millis(20)));
        assert!(!watched[0].is_ready() && before.elapsed() >= Duration::from_millis(15));
    }

    /// Sleeps once, for a moment at most; says whether the bell was rung.
    fn sleep(bell: &Bell) -> bool {
        let mut watched = [Watched::reading(bell.fd())];
        bell.fall_asleep();
        wait(&mut watched, Some(Duration::from_millis(1)));
        bell.wake();
        if watched[0].is_ready() {
            bell.silence();
        }
        watched[0].is_ready()
    }

    #[test]
    fn a_byte_that_comes_late_wakes_once() {
        let bell = Bell::new().unwrap();
        bell.fall_asleep();
        assert!(bell.is_asleep.swap(false, Ordering::SeqCst), "the first half of ringing");
        // The thread is woken by something else.
        bell.wake();
        (&bell.ring).write_all(&[1]).unwrap();
        assert!(sleep(&bell), "the second half is heard");
        assert!(!sleep(&bell), "and no more than once");
        bell.fall_asleep();
        bell.ring();
        assert!(sleep(&bell) && !sleep(&bell), "nor does a ring before the next sleep");
    }

    #[test]
    fn a_part_of_a_millisecond_is_waited_for() {
        let before = Instant::now();
        wait(&mut [], Some(Duration::from_micros(100)));
        assert!(before.elapsed() >= Duration::from_micros(100));
    }

    #[test]
    fn a_c_file_is_a_string() {
        unsafe extern "C" {
            fn fputs(text: *const c_char, file: *mut c_void) -> c_int;
        }
        // SAFETY: a C string and an open file.
        let write = |file| assert!(unsafe { fputs(c"two words".as_ptr(), file) } >= 0);
        assert_eq!(written_to_file(write), "two words");
    }
}
