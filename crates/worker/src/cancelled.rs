//! Counts the calls whose caller left while their work was under way.

use telemetry::WorkerRecorder;
use types::stage::Stage;

/// Counts a cancellation when it is dropped before the work has come to an end, good or bad.
struct Armed<'a> {
    recorder: &'a WorkerRecorder,
    stage: Stage,
    is_armed: bool,
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.recorder.cancelled(self.stage);
        }
    }
}

/// Does `work` of `stage`; dropping this future before the work has ended is a cancellation.
pub(crate) async fn counting_cancellation<T>(
    recorder: &WorkerRecorder,
    stage: Stage,
    work: impl Future<Output = T>,
) -> T {
    let mut armed = Armed { recorder, stage, is_armed: true };
    let done = work.await;
    armed.is_armed = false;
    done
}
