//! Items that wait for the tower, and how many of them go into one encoder step.
//!
//! Knows sizes only; the pixels stay with the owner of the device.

use std::collections::VecDeque;
use types::{Error, ErrorKind, RequestId, Result};

/// One item to encode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeEntry {
    /// The request it belongs to.
    pub id: RequestId,
    /// Its index among the request's media.
    pub item_idx: usize,
    /// Rows of the tower's input.
    pub n_patches: usize,
}

/// First come, first served, in steps bounded by patches and items.
#[derive(Debug)]
pub struct EncodeQueue {
    entries: VecDeque<EncodeEntry>,
    n_patches_max: usize,
    n_items_max: usize,
    len_max: usize,
}

impl EncodeQueue {
    /// An empty queue for at most `len_max` items.
    pub fn new(n_patches_max: usize, n_items_max: usize, len_max: usize) -> Self {
        Self { entries: VecDeque::new(), n_patches_max, n_items_max, len_max }
    }

    /// Adds an item at the end. Errors: the queue is full.
    pub fn push(&mut self, entry: EncodeEntry) -> Result<()> {
        if self.entries.len() >= self.len_max {
            return Err(Error::new(ErrorKind::Overloaded, "too many media wait for the encoder"));
        }
        self.entries.push_back(entry);
        Ok(())
    }

    /// The items of the next step: from the front, as long as they stay under both limits.
    /// An item larger than the patch limit goes alone.
    pub fn next_step(&mut self) -> Vec<EncodeEntry> {
        let mut taken = Vec::new();
        let mut n_patches = 0;
        while let Some(entry) = self.entries.front() {
            let too_many = n_patches + entry.n_patches > self.n_patches_max;
            if taken.len() == self.n_items_max || (too_many && !taken.is_empty()) {
                break;
            }
            n_patches += entry.n_patches;
            taken.extend(self.entries.pop_front());
        }
        taken
    }

    /// Takes out the item at the front.
    pub fn pop(&mut self) -> Option<EncodeEntry> {
        self.entries.pop_front()
    }

    /// Removes all items of a request; gives their indices.
    pub fn abort(&mut self, id: RequestId) -> Vec<usize> {
        let gone = self.entries.iter().filter(|entry| entry.id == id);
        let gone = gone.map(|entry| entry.item_idx).collect();
        self.entries.retain(|entry| entry.id != id);
        gone
    }

    /// Items waiting.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes items of these sizes into a queue of 10 patches and 3 items a step; gives the steps.
    fn check(sizes: &[usize], steps: &[&[usize]]) {
        let mut queue = EncodeQueue::new(10, 3, 8);
        for (item_idx, &n_patches) in sizes.iter().enumerate() {
            queue.push(EncodeEntry { id: RequestId(1), item_idx, n_patches }).expect("room");
        }
        for expected in steps {
            let taken = queue.next_step();
            let taken: Vec<usize> = taken.iter().map(|entry| entry.item_idx).collect();
            assert_eq!(&taken, expected, "sizes {sizes:?}");
        }
    }

    #[test]
    fn steps_are_bounded_and_in_order() {
        check(&[4, 4, 4], &[&[0, 1], &[2], &[]]);
        check(&[1, 1, 1, 1], &[&[0, 1, 2], &[3]]);
        check(&[11, 1], &[&[0], &[1]]);
        check(&[1, 11], &[&[0], &[1]]);
        check(&[5, 5, 5], &[&[0, 1], &[2]]);
    }

    #[test]
    fn full_and_abort() {
        let mut queue = EncodeQueue::new(10, 3, 2);
        let entry = |id, item_idx| EncodeEntry { id: RequestId(id), item_idx, n_patches: 1 };
        queue.push(entry(1, 0)).expect("room");
        queue.push(entry(2, 0)).expect("room");
        let refused = queue.push(entry(1, 1)).expect_err("full");
        assert_eq!(refused.kind, ErrorKind::Overloaded);
        assert_eq!(queue.abort(RequestId(1)), [0]);
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.pop(), Some(entry(2, 0)));
        assert!(queue.is_empty());
    }
}
