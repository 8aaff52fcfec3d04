//! How a read is cut into messages, on both sides, as plain arithmetic.
//!
//! The reader says which of its regions follow each other in memory: such a stretch is a *run*.
//! The owner sees which sources of a run follow each other in its own memory. What is adjacent on
//! both sides moves as one piece, and a piece says where in which run it belongs.

use crate::limits::PIECE_BYTES_MAX;
use planes::{LeasedMemory, Region, Source};
use std::collections::VecDeque;
use types::Result;

/// One source of a read, as the owner is asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) source: Source,
    pub(crate) n_bytes: usize,
    /// Whether its bytes do not follow those of the segment before in the reader's memory.
    pub(crate) begins_run: bool,
}

/// Where a piece belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Index of the run.
    pub(crate) run: u32,
    /// First byte within the run.
    pub(crate) offset: u64,
}

/// What to ask for, and the runs of memory that it fills.
pub(crate) fn plan(sources: &[Source], regions: &[Region]) -> (Vec<Segment>, Vec<Region>) {
    let mut segments: Vec<Segment> = Vec::with_capacity(sources.len());
    let mut runs: Vec<Region> = Vec::new();
    for (&source, region) in sources.iter().zip(regions) {
        let n_bytes = region.n_bytes();
        let follows = runs.last().is_some_and(|run| end(run) == region.ptr());
        if !follows {
            runs.push(*region);
        } else if let Some(run) = runs.last_mut() {
            *run = longer(run, n_bytes);
        }
        match segments.last_mut() {
            Some(last) if follows && is_next(last, source) => last.n_bytes += n_bytes,
            _ => segments.push(Segment { source, n_bytes, begins_run: !follows }),
        }
    }
    (segments, runs)
}

fn is_next(last: &Segment, source: Source) -> bool {
    let end = last.source.offset.checked_add(last.n_bytes);
    last.source.region_idx == source.region_idx && end == Some(source.offset)
}

fn end(region: &Region) -> *mut u8 {
    region.ptr().wrapping_add(region.n_bytes())
}

fn longer(region: &Region, n_bytes: usize) -> Region {
    // SAFETY: what is added follows directly and is handed over together with the region, so both
    // are valid for as long.
    unsafe { Region::new(region.ptr(), region.n_bytes() + n_bytes) }
}

/// What an owner still has to send for one read.
#[derive(Default)]
pub(crate) struct Outbox(VecDeque<(Place, Region)>);

impl Outbox {
    /// Looks up all segments. Errors: one of them is outside of the lease (`NotFound`).
    pub(crate) fn fill(memory: &LeasedMemory, segments: &[Segment]) -> Result<Self> {
        let mut spans: VecDeque<(Place, Region)> = VecDeque::new();
        let mut next = Place { run: 0, offset: 0 };
        for (i, segment) in segments.iter().enumerate() {
            if segment.begins_run && i > 0 {
                next = Place { run: next.run + 1, offset: 0 };
            }
            let region = memory.locate(segment.source, segment.n_bytes)?.on_host()?;
            match spans.back_mut() {
                _ if segment.n_bytes == 0 => {}
                Some((place, last)) if place.run == next.run && end(last) == region.ptr() => {
                    *last = longer(last, segment.n_bytes);
                }
                _ => spans.push_back((next, region)),
            }
            next.offset += segment.n_bytes as u64;
        }
        Ok(Self(spans))
    }

    /// Whether all is taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the next piece.
    pub(crate) fn next(&mut self) -> Option<(Place, Region)> {
        let (place, span) = self.0.front_mut()?;
        if span.n_bytes() <= PIECE_BYTES_MAX {
            return self.0.pop_front();
        }
        let piece = (*place, part(span, 0, PIECE_BYTES_MAX));
        *span = part(span, PIECE_BYTES_MAX, span.n_bytes() - PIECE_BYTES_MAX);
        place.offset += PIECE_BYTES_MAX as u64;
        Some(piece)
    }
}

fn part(region: &Region, offset: usize, n_bytes: usize) -> Region {
    // SAFETY: the part lies within the region by the arithmetic of the callers, who hold on to
    // what keeps the region.
    unsafe { Region::new(region.ptr().wrapping_add(offset), n_bytes) }
}

/// Where in the reader's memory `n_bytes` at `place` go; none if they were not asked for.
pub(crate) fn landing(runs: &[Region], place: Place, n_bytes: usize) -> Option<Region> {
    let run = runs.get(place.run as usize)?;
    let offset = usize::try_from(place.offset).ok()?;
    let is_inside = offset.checked_add(n_bytes)? <= run.n_bytes();
    is_inside.then(|| part(run, offset, n_bytes))
}

/// Whether the pieces that have landed cover all runs, each byte once.
pub(crate) fn is_whole(runs: &[Region], mut landed: Vec<(Place, usize)>) -> bool {
    landed.sort_unstable();
    let mut landed = landed.into_iter().peekable();
    for (run, region) in (0..).zip(runs) {
        let mut offset = 0;
        while let Some((_, n_bytes)) = landed.next_if(|(at, _)| *at == Place { run, offset }) {
            offset += n_bytes as u64;
        }
        if offset != region.n_bytes() as u64 {
            return false;
        }
    }
    landed.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(bytes: &mut [u8], start: usize, n_bytes: usize) -> Region {
        // SAFETY: the tests compare addresses and never go through them.
        unsafe { Region::new(bytes.as_mut_ptr().wrapping_add(start), n_bytes) }
    }

    fn source(region_idx: usize, offset: usize) -> Source {
        Source { region_idx, offset }
    }

    #[test]
    fn regions_that_follow_each_other_are_one_run() {
        let mut bytes = [0; 100];
        let regions: Vec<Region> = [(0, 10), (10, 5), (15, 0), (20, 4), (24, 4), (90, 1)]
            .map(|(start, n_bytes)| region(&mut bytes, start, n_bytes))
            .into();
        let sources =
            [source(0, 0), source(0, 10), source(3, 3), source(1, 0), source(2, 0), source(2, 9)];
        let (segments, runs) = plan(&sources, &regions);
        let n_bytes: Vec<usize> = runs.iter().map(Region::n_bytes).collect();
        assert_eq!(n_bytes, [15, 8, 1]);
        let asked: Vec<_> =
            segments.iter().map(|s| (s.source.region_idx, s.n_bytes, s.begins_run)).collect();
        assert_eq!(
            asked,
            [(0, 15, true), (3, 0, false), (1, 4, true), (2, 4, false), (2, 1, true)],
            "the first two sources follow each other on both sides"
        );
    }

    #[test]
    fn pieces_are_adjacent_on_both_sides() {
        let mut bytes = vec![0; 1000];
        let regions = [(0, 100), (100, 100), (500, 100)];
        let regions = regions.map(|(start, n_bytes)| region(&mut bytes, start, n_bytes)).into();
        let memory = LeasedMemory { regions, keep: Box::new(()) };
        let segment = |region_idx, begins_run| Segment {
            source: source(region_idx, 0),
            n_bytes: 100,
            begins_run,
        };
        let segments = [segment(0, true), segment(1, false), segment(2, false), segment(0, true)];
        let mut outbox = Outbox::fill(&memory, &segments).unwrap();
        let pieces: Vec<_> = std::iter::from_fn(|| outbox.next())
            .map(|(place, region)| (place.run, place.offset, region.n_bytes()))
            .collect();
        assert_eq!(pieces, [(0, 0, 200), (0, 200, 100), (1, 0, 100)]);
        assert!(Outbox::fill(&memory, &[segment(3, true)]).is_err());
    }

    #[test]
    fn a_long_piece_is_cut() {
        let n_bytes = 2 * PIECE_BYTES_MAX + 1;
        let region = region(&mut [], 0, n_bytes);
        let mut outbox = Outbox([(Place { run: 7, offset: 5 }, region)].into());
        let cut: Vec<_> = std::iter::from_fn(|| outbox.next()).collect();
        let found: Vec<_> = cut.iter().map(|(at, part)| (at.offset, part.n_bytes())).collect();
        let (max, start) = (PIECE_BYTES_MAX, PIECE_BYTES_MAX as u64 + 5);
        assert_eq!(found, [(5, max), (start, max), (start + max as u64, 1)]);
        assert_eq!(cut[1].1.ptr(), region.ptr().wrapping_add(max));
    }

    #[test]
    fn only_what_covers_every_byte_once_is_whole() {
        let mut bytes = [0; 100];
        let runs = [(0, 10), (20, 5)].map(|(start, n_bytes)| region(&mut bytes, start, n_bytes));
        let check = |landed: &[(u32, u64, usize)], expected| {
            let places = landed.iter().map(|&(run, offset, n)| (Place { run, offset }, n));
            assert_eq!(is_whole(&runs, places.collect()), expected, "{landed:?}");
        };
        check(&[(1, 0, 5), (0, 4, 6), (0, 0, 4)], true);
        check(&[(0, 0, 10)], false);
        check(&[(0, 0, 10), (1, 0, 4)], false);
        check(&[(0, 0, 6), (0, 4, 6), (1, 0, 5)], false);
        check(&[(0, 0, 10), (1, 0, 5), (1, 0, 5)], false);
        check(&[(0, 0, 10), (1, 0, 5), (2, 0, 1)], false);
    }

    #[test]
    fn nothing_lands_outside_of_a_run() {
        let mut bytes = [0; 100];
        let runs = [region(&mut bytes, 0, 10)];
        let check = |run, offset, n_bytes, is_inside| {
            let found = landing(&runs, Place { run, offset }, n_bytes);
            assert_eq!(found.is_some(), is_inside, "{run} {offset} {n_bytes}");
        };
        check(0, 0, 10, true);
        check(0, 9, 1, true);
        check(0, 1, 10, false);
        check(0, u64::MAX, 2, false);
        check(1, 0, 1, false);
    }
}
