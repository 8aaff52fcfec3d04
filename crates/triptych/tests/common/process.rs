//! A program that the test started: what it says, what it answers on its system port, and signals
//! to it. It is killed when this is dropped, however the test ends.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest wait for what should take a moment, on a machine that builds beside it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Time between two looks at what can only be polled.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// A running program.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: Arc<Log>,
}

/// Signals that tests send.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Signal {
    Term,
    Kill,
    Stop,
    Cont,
}

/// What a program has said so far, and whether it may say more.
#[derive(Default)]
struct Log {
    said: Mutex<Said>,
    changed: Condvar,
}

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    has_ended: bool,
}

impl Process {
    /// Starts `command` and listens to both of its outputs.
    pub(crate) fn spawn(name: &str, command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.env("NO_COLOR", "1").spawn();
        let mut child = child.unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let log = Arc::new(Log::default());
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let errors = Arc::clone(&log);
        let lesser = std::thread::spawn({
            let log = Arc::clone(&log);
            move || log.listen(BufReader::new(stdout))
        });
        std::thread::spawn(move || {
            errors.listen(BufReader::new(stderr));
            let _ = lesser.join();
            errors.end();
        });
        Self { name: name.to_owned(), child, log }
    }

    /// The first line with `words` in it, waited for; `None` when the program ends without it.
    pub(crate) fn line_with(&self, words: &str) -> Option<String> {
        let give_up = Instant::now() + PATIENCE;
        let mut said = self.log.lock();
        loop {
            if let Some(line) = said.lines.iter().find(|line| line.contains(words)) {
                return Some(line.clone());
            }
            let left = give_up.saturating_duration_since(Instant::now());
            if said.has_ended {
                return None;
            }
            assert!(!left.is_zero(), "{} did not say {words:?}:\n{}", self.name, said.text());
            said = self.log.wait(said, left);
        }
    }

    /// [`Self::line_with`], which must come.
    pub(crate) fn expect_line(&self, words: &str) -> String {
        self.line_with(words).unwrap_or_else(|| {
            panic!("{} ended without saying {words:?}:\n{}", self.name, self.log())
        })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// All that it has said.
    pub(crate) fn log(&self) -> String {
        self.log.lock().text()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let name = match signal {
            Signal::Term => "TERM",
            Signal::Kill => "KILL",
            Signal::Stop => "STOP",
            Signal::Cont => "CONT",
        };
        // The shell's own, because not every machine has a program for it.
        let kill = format!("kill -{name} {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(sent.success(), "{} is no more:\n{}", self.name, self.log());
    }

    /// Waits for its end.
    pub(crate) fn expect_end(&mut self) -> ExitStatus {
        let mut status = None;
        let ended = || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        };
        let has_ended = becomes_true(PATIENCE, ended);
        assert!(has_ended, "{} did not end:\n{}", self.name, self.log());
        // The last words may still be in the pipe.
        let mut said = self.log.lock();
        while !said.has_ended {
            said = self.log.wait(said, PATIENCE);
        }
        status.unwrap()
    }

    /// Ends it at once, as a crash would, and waits for that.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("---- {} said:\n{}", self.name, self.log());
        }
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, said: MutexGuard<'a, Said>, most: Duration) -> MutexGuard<'a, Said> {
        self.changed.wait_timeout(said, most).unwrap_or_else(PoisonError::into_inner).0
    }

    fn listen(&self, output: impl BufRead) {
        for line in output.lines().map_while(Result::ok) {
            self.lock().lines.push(line);
            self.changed.notify_all();
        }
    }

    fn end(&self) {
        self.lock().has_ended = true;
        self.changed.notify_all();
    }
}

impl Said {
    fn text(&self) -> String {
        self.lines.join("\n")
    }
}

/// Whether `is_true` says so within `most`.
pub(crate) fn becomes_true(most: Duration, mut is_true: impl FnMut() -> bool) -> bool {
    let give_up = Instant::now() + most;
    loop {
        if is_true() {
            return true;
        }
        if Instant::now() >= give_up {
            return false;
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}
