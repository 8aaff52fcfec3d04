//! The in-memory planes obey the laws of the planes.

use futures::FutureExt;
use planes::conformance::Subject;

fn subject() -> Subject {
    Subject { planes: planes_mem::planes(), sleep: |duration| tokio::time::sleep(duration).boxed() }
}

planes::conformance_tests!(tokio::test, subject());
