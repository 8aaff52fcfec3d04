//! How often values of which size occurred, cheap enough for the engine's thread.

/// Counts of values by size, in buckets whose bounds double from one to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doublings<const N: usize> {
    first_bound: u64,
    /// The last one counts what is over all bounds.
    counts: [u64; N],
    sum: u64,
}

impl<const N: usize> Doublings<N> {
    /// No values yet; the first bucket takes those up to `first_bound`.
    pub(crate) const fn new(first_bound: u64) -> Self {
        Self { first_bound, counts: [0; N], sum: 0 }
    }

    pub(crate) fn add(&mut self, value: u64) {
        let mut bounds = (0..N - 1).map(|idx| self.first_bound << idx);
        let idx = bounds.position(|bound| value <= bound).unwrap_or(N - 1);
        self.counts[idx] += 1;
        self.sum += value;
    }

    /// Each bucket's upper bound, `None` for the last, and how many values it holds.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bound = |idx| (idx < N - 1).then_some(self.first_bound << idx);
        self.counts.iter().enumerate().map(move |(idx, count)| (bound(idx), *count))
    }

    /// All values together.
    pub fn sum(&self) -> u64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::Doublings;

    #[test]
    fn bounds_belong_to_their_bucket() {
        let mut values = Doublings::<4>::new(100);
        for value in [0, 100, 101, 200, 400, 401, 9000] {
            values.add(value);
        }
        let buckets: Vec<_> = values.buckets().collect();
        assert_eq!(buckets, [(Some(100), 2), (Some(200), 2), (Some(400), 1), (None, 2)]);
        assert_eq!(values.sum(), 10_202);
    }
}
