//! What the thread of UCX does when a peer says something, or an operation ends.

use super::Core;
use crate::lost;
use crate::ops::{Op, ReadId};
use crate::pair::Side;
use crate::ucp::Body;
use crate::wire::{CANCEL, DATA, Header, REPLY, REQUEST, Request, decode_reply, encode_reply};
use std::time::Instant;
use types::Result;
use ucx_sys::{UCS_OK, ucs_status_t};

impl Core {
    pub(super) fn hear(&mut self, kind: u32, header: &[u8], body: Body) {
        let header = Header::decode(header).filter(|header| self.pairs.contains_key(&header.pair));
        match (kind, header, body) {
            (REQUEST, Some(header), Body::Bytes(body)) => self.on_request(header, &body),
            (CANCEL, Some(header), Body::Bytes(_)) => self.on_cancel(header),
            (DATA, Some(header), body) => self.on_data(header, body),
            (REPLY, Some(header), Body::Bytes(body)) => self.on_reply(header, &body),
            // Of a pair that is no more, or from somebody who speaks otherwise.
            (_, _, Body::Announced(announced)) => self.ops.worker.refuse(announced),
            (_, _, Body::Bytes(_)) => {}
        }
    }

    fn on_request(&mut self, Header { pair: name, read, .. }: Header, body: &[u8]) {
        let Some(pair) = self.pairs.get_mut(&name) else { return };
        let Side::Owner(owner) = &mut pair.side else { return };
        let table = self.desk.shared.tables().get(&owner.table).cloned();
        let asked = Request::decode(body)
            .and_then(|request| owner.ask(read, &request, table.as_deref()))
            .unwrap_or_else(|refusal| Some(Err(refusal)));
        self.reply(name, read, asked);
        self.pump(name);
    }

    fn reply(&mut self, name: u64, read: u64, outcome: Option<Result<()>>) {
        let (Some(pair), Some(outcome)) = (self.pairs.get(&name), outcome) else { return };
        let header = Header::about(pair.theirs, read);
        self.ops.tell((&pair.endpoint, name), REPLY, header, encode_reply(&outcome));
    }

    fn on_cancel(&mut self, Header { pair: name, read, .. }: Header) {
        let Some(pair) = self.pairs.get_mut(&name) else { return };
        if let Side::Owner(owner) = &mut pair.side {
            owner.cancel(read);
        }
    }

    fn on_data(&mut self, Header { pair: name, read, place }: Header, body: Body) {
        let n_bytes = match &body {
            Body::Bytes(bytes) => bytes.len(),
            Body::Announced(announced) => announced.n_bytes,
        };
        let side = self.pairs.get_mut(&name).map(|pair| &mut pair.side);
        let landing = match side {
            Some(Side::Reader(reader)) => reader.land(read, place, n_bytes),
            _ => Ok(None),
        };
        match (landing, body) {
            (Ok(Some((at, into))), Body::Announced(announced)) => {
                // SAFETY: `land` gave a part of `into` of that length. That memory is written only
                // by UCX until the read ends, even where a faulty owner sends a part twice.
                unsafe { self.ops.fetch(announced, ReadId { pair: name, read }, (at, into)) };
            }
            (Ok(Some((at, into))), Body::Bytes(bytes)) => {
                // SAFETY: `land` gave a part of `into` of that length, which `into` keeps.
                unsafe { at.ptr().copy_from_nonoverlapping(bytes.as_ptr(), n_bytes) };
                drop(into);
                self.landed(ReadId { pair: name, read }, n_bytes);
            }
            (landing, body) => {
                if let Body::Announced(announced) = body {
                    self.ops.worker.refuse(announced);
                }
                if let Err(failure) = landing {
                    self.close(name, &failure.message);
                }
            }
        }
    }

    fn landed(&mut self, id: ReadId, n_bytes: usize) {
        let side = self.pairs.get_mut(&id.pair).map(|pair| &mut pair.side);
        if let Some(Side::Reader(reader)) = side {
            let finished = reader.landed(id.read, n_bytes, Instant::now());
            self.answers.extend(finished);
            self.pump(id.pair);
        }
    }

    fn on_reply(&mut self, Header { pair: name, read, .. }: Header, body: &[u8]) {
        let side = self.pairs.get_mut(&name).map(|pair| &mut pair.side);
        if let Some(Side::Reader(reader)) = side {
            let finished = reader.replied(read, decode_reply(body));
            self.answers.extend(finished);
            self.pump(name);
        }
    }

    pub(super) fn done(&mut self, op: u64, status: ucs_status_t) {
        let outcome = || match status {
            UCS_OK => Ok(()),
            _ => Err(lost(&self.ops.worker.words(status))),
        };
        let outcome = outcome();
        match (self.ops.finish(op), outcome) {
            (Some(Op::Piece { pair, read, n_bytes, .. }), outcome) => {
                let side = self.pairs.get_mut(&pair).map(|pair| &mut pair.side);
                let Some(Side::Owner(owner)) = side else { return };
                let reply = owner.sent((read, n_bytes), outcome, Instant::now());
                self.reply(pair, read, reply);
                self.pump(pair);
            }
            (Some(Op::Receive { pair, read, n_bytes, _into }), Ok(())) => {
                drop(_into);
                self.landed(ReadId { pair, read }, n_bytes);
            }
            (Some(Op::Receive { pair, .. }), Err(failure)) => self.died(pair, &failure.message),
            // Whoever cannot be told anything is noticed by the endpoint's failure.
            (Some(Op::Message { .. } | Op::Close { .. }) | None, _) => {}
        }
    }
}
