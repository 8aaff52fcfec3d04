//! A body put together again from the parts that small messages cut it into.

use crate::frame::Beginning;
use bytes::{Bytes, BytesMut};

/// A body of which some has arrived; memory is taken only for what has.
#[derive(Debug)]
pub(crate) struct Assembly {
    n_body_bytes: usize,
    bytes: BytesMut,
}

/// What there is of a body.
#[derive(Debug)]
pub(crate) enum Body {
    Whole(Bytes),
    Part(Assembly),
}

impl From<Beginning> for Body {
    fn from(beginning: Beginning) -> Self {
        let Beginning { n_body_bytes, bytes } = beginning;
        if bytes.len() == n_body_bytes {
            return Self::Whole(bytes);
        }
        Self::Part(Assembly { n_body_bytes, bytes: BytesMut::from(bytes) })
    }
}

impl Assembly {
    /// Bytes that have arrived.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds what came next; nothing when that is empty or more than the body was to be.
    pub(crate) fn with(mut self, more: &[u8]) -> Option<Body> {
        if more.is_empty() || self.bytes.len() + more.len() > self.n_body_bytes {
            return None;
        }
        self.bytes.extend_from_slice(more);
        let is_whole = self.bytes.len() == self.n_body_bytes;
        Some(if is_whole { Body::Whole(self.bytes.freeze()) } else { Body::Part(self) })
    }
}

/// Cuts a body: as much as fits beside the first frame, and the parts after it.
pub(crate) fn cut(body: &Bytes, n_first_max: usize, n_more_max: usize) -> (Beginning, Vec<Bytes>) {
    let n_body_bytes = body.len();
    let n_first = n_first_max.min(n_body_bytes);
    let starts = (n_first..n_body_bytes).step_by(n_more_max);
    let more = starts.map(|start| body.slice(start..n_body_bytes.min(start + n_more_max)));
    (Beginning { n_body_bytes, bytes: body.slice(..n_first) }, more.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_comes_together_again() {
        let body: Bytes = (0..100u8).collect();
        for (n_first_max, n_more_max) in [(1, 1), (10, 7), (99, 50), (100, 1), (1000, 1)] {
            let (beginning, more) = cut(&body, n_first_max, n_more_max);
            let mut have = Body::from(beginning);
            for part in more {
                let Body::Part(assembly) = have else { panic!("whole too early") };
                have = assembly.with(&part).expect("no more than was announced");
            }
            let Body::Whole(whole) = have else { panic!("never whole") };
            assert_eq!(whole, body);
        }
    }

    #[test]
    fn more_than_was_announced_is_refused() {
        let (beginning, _) = cut(&Bytes::from_static(b"12345"), 2, 9);
        for (more, is_good) in [(&b"34"[..], true), (b"345", true), (b"3456", false), (b"", false)]
        {
            let Body::Part(assembly) = Body::from(beginning.clone()) else { panic!("whole") };
            assert_eq!(assembly.with(more).is_some(), is_good, "{more:?}");
        }
    }
}
