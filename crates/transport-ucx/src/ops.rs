//! Operations under way in UCX, each with the memory it uses. The memory is let go of when UCX
//! says that the operation has ended, whoever has lost interest in it meanwhile.

use crate::ucp::{Announced, Endpoint, Outgoing, Protocol, Worker};
use crate::wire::{DATA, Header, N_HEADER_BYTES};
use planes::{Destination, LeasedMemory, Region};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// An operation, and what must stay where it is until it has ended.
pub(crate) enum Op {
    /// A message that is no data.
    Message { pair: u64, _header: Box<[u8; N_HEADER_BYTES]>, _body: Vec<u8> },
    /// A piece of leased memory on its way to a reader.
    Piece {
        pair: u64,
        read: u64,
        n_bytes: usize,
        _header: Box<[u8; N_HEADER_BYTES]>,
        _pin: Arc<LeasedMemory>,
    },
    /// A piece that is being fetched into a destination.
    Receive { pair: u64, read: u64, n_bytes: usize, _into: Rc<Destination> },
    /// The end of an endpoint.
    Close { pair: u64 },
}

impl Op {
    fn is_receive(&self) -> bool {
        matches!(self, Self::Receive { .. })
    }
}

/// See the file's description.
pub(crate) struct Ops {
    // Dropped before the memory of what is still under way.
    pub(crate) worker: Worker,
    under_way: HashMap<u64, Op>,
    n_begun: u64,
    /// How many of those under way are of pieces being fetched.
    n_fetching: usize,
}

/// Which read of which pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadId {
    /// Our name for the pair.
    pub(crate) pair: u64,
    pub(crate) read: u64,
}

impl Ops {
    pub(crate) fn new(worker: Worker) -> Self {
        Self { worker, under_way: HashMap::new(), n_begun: 0, n_fetching: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// How many pieces are being fetched.
    pub(crate) fn n_fetching(&self) -> usize {
        self.n_fetching
    }

    /// Whether anything is under way for a pair that is no more.
    pub(crate) fn has_orphans(&self, is_there: impl Fn(u64) -> bool) -> bool {
        self.under_way.values().any(|op| match op {
            Op::Message { pair, .. }
            | Op::Piece { pair, .. }
            | Op::Receive { pair, .. }
            | Op::Close { pair } => !is_there(*pair),
        })
    }

    /// Takes an operation that has ended.
    pub(crate) fn finish(&mut self, op: u64) -> Option<Op> {
        let op = self.under_way.remove(&op)?;
        self.n_fetching -= usize::from(op.is_receive());
        Some(op)
    }

    fn begin(&mut self, op: Op) -> u64 {
        self.n_begun += 1;
        self.n_fetching += usize::from(op.is_receive());
        self.under_way.insert(self.n_begun, op);
        self.n_begun
    }

    /// Sends a message that is no data to the peer of a pair.
    pub(crate) fn tell(&mut self, to: (&Endpoint, u64), kind: u32, header: Header, body: Vec<u8>) {
        let (to, pair) = to;
        let header = Box::new(header.encode());
        let (header_bytes, body_ptr, n_bytes) = (&raw const *header, body.as_ptr(), body.len());
        let op = self.begin(Op::Message { pair, _header: header, _body: body });
        // SAFETY: the operation has the header in a box of its own until it has ended.
        let header = unsafe { &*header_bytes };
        let protocol = Protocol::Eager;
        let message = Outgoing { kind, header, body: body_ptr, n_bytes, protocol };
        // SAFETY: the operation has both until it has ended, and nobody changes them.
        unsafe { self.worker.send(to, &message, op) };
    }

    /// Sends a piece of leased memory.
    pub(crate) fn offer(
        &mut self,
        to: &Endpoint,
        id: ReadId,
        header: Header,
        (piece, pin): (Region, Arc<LeasedMemory>),
    ) {
        let header = Box::new(header.encode());
        let header_bytes = &raw const *header;
        let ReadId { pair, read } = id;
        let op = self.begin(Op::Piece {
            pair,
            read,
            n_bytes: piece.n_bytes(),
            _header: header,
            _pin: pin,
        });
        // SAFETY: the operation has the header in a box of its own until it has ended.
        let header = unsafe { &*header_bytes };
        let (body, n_bytes) = (piece.ptr().cast_const(), piece.n_bytes());
        let protocol = Protocol::of_piece(n_bytes);
        let message = Outgoing { kind: DATA, header, body, n_bytes, protocol };
        // SAFETY: the operation has header and pin until it has ended; pinned memory lies still.
        unsafe { self.worker.send(to, &message, op) };
    }

    /// Fetches an announced piece to `at`, which is part of `into`.
    ///
    /// # Safety
    /// `at` is part of `into`, and as long as what was announced.
    pub(crate) unsafe fn fetch(
        &mut self,
        announced: Announced,
        id: ReadId,
        (at, into): (Region, Rc<Destination>),
    ) {
        let n_bytes = announced.n_bytes;
        let op = Op::Receive { pair: id.pair, read: id.read, n_bytes, _into: into };
        let op = self.begin(op);
        // SAFETY: by this function's contract; the operation has the destination until it ended.
        unsafe { self.worker.receive(announced, at.ptr(), op) };
    }

    /// Closes an endpoint; what is under way on it ends soon.
    pub(crate) fn close(&mut self, endpoint: Endpoint, pair: u64) {
        let op = self.begin(Op::Close { pair });
        self.worker.close(endpoint, op);
    }
}
