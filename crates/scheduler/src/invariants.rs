//! What must hold after every call. Tests check it each time, the engine whenever it falls idle.

use crate::blocks::{Block, BlockCounts, BlockState};
use crate::scheduler::Scheduler;
use crate::sequence::Sequence;

impl Scheduler {
    /// Counts everything again and compares. Errors: a sentence on the first thing that is wrong.
    pub fn check(&self) -> Result<(), String> {
        self.check_states()?;
        self.check_owners()?;
        self.check_seqs()
    }

    /// free + cached + owned + leased + quarantined = total, each counted block by block.
    fn check_states(&self) -> Result<(), String> {
        let mut counted = BlockCounts::default();
        let mut n_keys = 0;
        for block in self.pool.blocks() {
            *count_of(&mut counted, block.state()) += 1;
            n_keys += usize::from(block.key.is_some());
        }
        let kept = self.pool.counts();
        expect(counted == kept, || format!("blocks are {counted:?}, accounts say {kept:?}"))?;
        expect(kept.total() == self.cfg.n_blocks, || format!("{kept:?} is not the whole pool"))?;
        let n_found = self.pool.prefix.n_keys();
        expect(n_keys == n_found, || format!("{n_keys} blocks have keys, {n_found} are found"))?;
        let blocks = self.pool.blocks().iter().enumerate();
        for (idx, key) in blocks.filter_map(|(idx, block)| Some((idx, block.key?))) {
            let found = self.pool.prefix.get(&key);
            expect(found == Some(idx as u32), || format!("the key of block {idx} is another's"))?;
        }
        Ok(())
    }

    /// Reference counts equal owners.
    fn check_owners(&self) -> Result<(), String> {
        let mut n_owners = vec![0; self.cfg.n_blocks];
        let mut n_leases = vec![0; self.cfg.n_blocks];
        let arriving = self.imports.arriving.values().map(|arrival| &arrival.trunk);
        for &block in self.seqs.values().chain(arriving).flat_map(|seq| &seq.blocks) {
            n_owners[block as usize] += 1;
        }
        for &block in self.exports.values().flatten() {
            n_leases[block as usize] += 1;
        }
        let same = |(idx, block): (usize, &Block)| {
            expect((block.n_owners, block.n_leases) == (n_owners[idx], n_leases[idx]), || {
                let found = (n_owners[idx], n_leases[idx]);
                format!("block {idx} counts {block:?}, it has (owners, leases) {found:?}")
            })
        };
        self.pool.blocks().iter().enumerate().try_for_each(same)
    }

    fn check_seqs(&self) -> Result<(), String> {
        for (rank, seq) in &self.seqs {
            let request = self.requests.get(&seq.request);
            let listed = request.is_some_and(|request| request.live.contains(rank));
            expect(listed, || format!("{rank:?} belongs to no request"))?;
            let places = (self.running.contains(rank), self.waiting.contains(*rank));
            expect(places == (seq.running, !seq.running), || format!("{rank:?} is {places:?}"))?;
            let holds = !seq.blocks.is_empty();
            let noted = seq.running || self.waiting.holds_blocks(*rank) == holds;
            expect(noted, || format!("{rank:?} waits with blocks: {holds}"))?;
            let n_needed = self.cfg.blocks_for(seq.n_computed);
            expect(seq.blocks.len() >= n_needed, || format!("{rank:?} lacks blocks"))?;
            let is_in_order = progress_is_in_order(seq, self.n_in_flight() > 0);
            expect(is_in_order, || format!("{rank:?} ran ahead: {seq:?}"))?;
        }
        let n_listed: usize = self.requests.values().map(|request| request.live.len()).sum();
        expect(n_listed == self.seqs.len(), || format!("{n_listed} sequences are listed"))?;
        let n_taken = self.running.len() + self.waiting.len();
        expect(n_taken == self.seqs.len(), || format!("{n_taken} sequences have a place"))?;
        let max = self.cfg.max_batch_size;
        expect(self.running.len() <= max, || format!("more than {max} sequences run"))
    }
}

fn progress_is_in_order(seq: &Sequence, is_in_flight: bool) -> bool {
    let is_caught_up = seq.n_computed == seq.n_launched && seq.n_unknown == 0;
    seq.n_computed <= seq.n_launched
        && seq.n_launched <= seq.tokens.len()
        && seq.n_computed <= seq.known().len()
        && (is_in_flight || is_caught_up)
        && (seq.running || is_caught_up)
}

fn count_of(counts: &mut BlockCounts, state: BlockState) -> &mut usize {
    match state {
        BlockState::Free => &mut counts.free,
        BlockState::Cached => &mut counts.cached,
        BlockState::Owned => &mut counts.owned,
        BlockState::Leased => &mut counts.leased,
        BlockState::Quarantined => &mut counts.quarantined,
    }
}

fn expect(holds: bool, words: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(words()) }
}
