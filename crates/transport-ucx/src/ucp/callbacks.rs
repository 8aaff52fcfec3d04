//! What UCX calls: each puts an event into the worker's inbox, and enters UCX no further.

use super::{Announced, Body, Event, Inbox};
use crate::wire::BODY_BYTES_MAX;
use std::ffi::c_void;
use ucx_sys::*;

/// Given to UCX with an operation, taken back by its callback.
pub(super) struct Ticket {
    pub(super) op: u64,
    pub(super) inbox: *const Inbox,
    pub(super) library: &'static Library,
}

/// Takes the ticket of an operation that has ended, and frees UCX's request for it.
///
/// # Safety
/// Called once by the callback of the operation, with what it was given.
unsafe fn redeem(request: *mut c_void, status: ucs_status_t, ticket: *mut c_void) {
    // SAFETY: the pointer was made by `Worker::ticket`, and a callback is called once.
    let ticket = unsafe { Box::from_raw(ticket.cast::<Ticket>()) };
    // SAFETY: UCX calls back while its worker lives, and so the inbox does; it is borrowed for
    // this one statement, in which UCX is not entered.
    unsafe { &*ticket.inbox }.borrow_mut().push_back(Event::Done { op: ticket.op, status });
    // SAFETY: the request of this operation, to which nobody else has a pointer. UCX allows it to
    // be freed from its callback.
    unsafe { (ticket.library.ucp_request_free)(request) };
}

pub(super) unsafe extern "C" fn on_sent(
    request: *mut c_void,
    status: ucs_status_t,
    ticket: *mut c_void,
) {
    // SAFETY: this is the callback of the operation that the ticket was made for.
    unsafe { redeem(request, status, ticket) };
}

pub(super) unsafe extern "C" fn on_received(
    request: *mut c_void,
    status: ucs_status_t,
    _n_bytes: usize,
    ticket: *mut c_void,
) {
    // SAFETY: this is the callback of the operation that the ticket was made for.
    unsafe { redeem(request, status, ticket) };
}

pub(super) unsafe extern "C" fn on_failed(
    inbox: *mut c_void,
    endpoint: ucp_ep_h,
    status: ucs_status_t,
) {
    // SAFETY: the inbox that the endpoint was made with; it outlives the worker.
    let inbox = unsafe { &*inbox.cast::<Inbox>() };
    inbox.borrow_mut().push_back(Event::Failed { endpoint: endpoint as usize, status });
}

/// One callback for each kind of message, because UCX does not tell a callback the kind.
macro_rules! on_message {
    ($($name:ident = $kind:ident;)*) => {$(
        pub(super) unsafe extern "C" fn $name(
            inbox: *mut c_void,
            header: *const c_void,
            n_header_bytes: usize,
            data: *mut c_void,
            n_bytes: usize,
            param: *const ucp_am_recv_param_t,
        ) -> ucs_status_t {
            // SAFETY: UCX gives a header and parameters that are valid during the call.
            let (header, param) = unsafe { (bytes(header, n_header_bytes), &*param) };
            let is_announced = param.recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV != 0;
            let body = if is_announced {
                Body::Announced(Announced { descriptor: data, n_bytes })
            } else if n_bytes <= BODY_BYTES_MAX {
                // SAFETY: without an announcement UCX gives the data itself.
                Body::Bytes(unsafe { bytes(data, n_bytes) })
            } else {
                return UCS_OK;
            };
            // SAFETY: the inbox outlives the worker; it is borrowed for this one statement.
            let inbox = unsafe { &*inbox.cast::<Inbox>() };
            let event = Event::Message { kind: crate::wire::$kind, header, body };
            inbox.borrow_mut().push_back(event);
            if is_announced { UCS_INPROGRESS } else { UCS_OK }
        }
    )*};
}

on_message! {
    on_request = REQUEST;
    on_cancel = CANCEL;
    on_data = DATA;
    on_reply = REPLY;
}

/// A copy of what UCX shows a callback.
///
/// # Safety
/// `n_bytes` can be read from `start`, unless there are none.
unsafe fn bytes(start: *const c_void, n_bytes: usize) -> Vec<u8> {
    if n_bytes == 0 {
        return Vec::new();
    }
    // SAFETY: by this function's contract.
    unsafe { std::slice::from_raw_parts(start.cast(), n_bytes) }.to_vec()
}
