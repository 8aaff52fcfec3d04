//! An owner of memory in a process of its own, as in real life: the same test, run again with
//! another task.
//!
//! The child says on its standard output what it lends, and ends when its standard input does; so
//! none outlives its test.

use crate::common::{handle, memory, transport};
use planes::{LeaseTable, RemoteHandle};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use types::{LeaseId, Secret};

/// Tells the child how many bytes to lend.
const TASK: &str = "TRANSPORT_TCP_TEST_LEND";

/// What the child's one line of interest begins with.
const LENT: &str = "lent: ";

/// A process that lends memory, killed when dropped.
pub(crate) struct OwnerProcess {
    child: Child,
    /// What it lends.
    pub(crate) handle: RemoteHandle,
    _until: Option<ChildStdin>,
}

impl OwnerProcess {
    /// Starts one that lends `n_bytes`, out of the test of that name, which begins with
    /// [`was_owner`].
    pub(crate) fn start(test: &str, n_bytes: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(TASK, n_bytes.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lent = lines.map_while(Result::ok).filter_map(|line| parse(&line));
        let handle = lent.next().expect("the owner's process says what it lends");
        let until = child.stdin.take();
        Self { child, handle, _until: until }
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for OwnerProcess {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parse(line: &str) -> Option<RemoteHandle> {
    // The harness may have begun the line with the test's name.
    let (_, fields) = line.split_once(LENT)?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let [address, slot, generation, secret] = fields[..] else { return None };
    let lease = LeaseId { slot: slot.parse().ok()?, generation: generation.parse().ok()? };
    Some(handle(vec![address.into()], (lease, Secret(secret.parse().ok()?))))
}

/// Does the task of an owner's process if this is one; a test that starts such processes calls it
/// first, and ends when it was one.
pub(crate) async fn was_owner() -> bool {
    let Ok(n_bytes) = std::env::var(TASK) else { return false };
    let table = Arc::new(LeaseTable::default());
    let transport = transport();
    let (addresses, _served) = transport.serve(Arc::clone(&table)).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(3600);
    let (lease, secret) = table.grant(memory(n_bytes.parse().unwrap()), deadline).unwrap();
    let (slot, generation) = (lease.slot, lease.generation);
    println!("{LENT}{} {slot} {generation} {}", addresses[0], secret.0);
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    true
}
