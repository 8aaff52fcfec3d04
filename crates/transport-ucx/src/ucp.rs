//! A worker of UCX and its endpoints: the one place that calls UCX while bytes move.
//!
//! Callbacks only put events into an inbox, which is read when no call into UCX is under way, so
//! nothing is entered twice. Values of this module stay in the thread that made them (they are
//! not `Send`). Must not know what messages mean.

mod callbacks;
mod context;

pub(crate) use context::Context;

use crate::limits::{DRAIN_MAX, EAGER_BYTES_MAX, N_IDLE_CALLS};
use crate::wire::KINDS;
use callbacks::{
    Ticket, on_cancel, on_data, on_failed, on_received, on_reply, on_request, on_sent,
};
use context::check;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::os::fd::RawFd;
use std::ptr;
use std::time::Instant;
use types::Result;
use ucx_sys::*;

/// Something that happened.
pub(crate) enum Event {
    /// A message came.
    Message { kind: u32, header: Vec<u8>, body: Body },
    /// An operation ended; UCX touches its memory no more.
    Done { op: u64, status: ucs_status_t },
    /// The peer of an endpoint is gone.
    Failed { endpoint: usize, status: ucs_status_t },
}

/// What a message carries.
pub(crate) enum Body {
    /// The bytes themselves.
    Bytes(Vec<u8>),
    /// An announcement: to be received or refused.
    Announced(Announced),
}

/// Bytes that a peer offers. Whoever has it gives it to [`Worker::receive`] or
/// [`Worker::refuse`].
pub(crate) struct Announced {
    descriptor: *mut c_void,
    pub(crate) n_bytes: usize,
}

type Inbox = RefCell<VecDeque<Event>>;

/// A place where messages come and go.
pub(crate) struct Worker {
    context: Context,
    worker: ucp_worker_h,
    /// Callbacks have its address, so it lives until the worker is destroyed.
    inbox: Box<Inbox>,
}

/// The way to a peer. Whoever has it gives it to [`Worker::close`].
pub(crate) struct Endpoint(ucp_ep_h);

/// Bytes to send: their header, and where they are.
pub(crate) struct Outgoing<'a> {
    pub(crate) kind: u32,
    pub(crate) header: &'a [u8],
    pub(crate) body: *const u8,
    pub(crate) n_bytes: usize,
    pub(crate) protocol: Protocol,
}

/// How bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Inside the message, copied on both sides.
    Eager,
    /// Announced, then fetched by the receiver from where they are.
    Rendezvous,
}

impl Protocol {
    /// For a piece of a transfer.
    pub(crate) fn of_piece(n_bytes: usize) -> Self {
        if n_bytes <= EAGER_BYTES_MAX { Self::Eager } else { Self::Rendezvous }
    }
}

/// What is said of the memory of an operation: the one place that other kinds of memory, and
/// handles of registered memory, are to be named.
fn describe_memory(param: &mut ucp_request_param_t) {
    param.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMORY_TYPE;
    param.memory_type = UCS_MEMORY_TYPE_HOST;
}

impl Worker {
    /// Errors: UCX has no memory or devices for it (`Unavailable`).
    pub(crate) fn create(context: Context) -> Result<Self> {
        let mut params = ucp_worker_params_t::zeroed();
        params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE | UCP_WORKER_PARAM_FIELD_EVENTS;
        params.thread_mode = UCS_THREAD_MODE_SINGLE;
        params.events = UCP_WAKEUP_TX | UCP_WAKEUP_RX;
        let (library, mut worker) = (context.library, ptr::null_mut());
        // SAFETY: the context is open; the parameters say which of their fields are set.
        let status = unsafe { (library.ucp_worker_create)(context.context, &params, &mut worker) };
        check(library, status, "make a worker")?;
        let worker = Self { context, worker, inbox: Box::default() };
        KINDS.iter().try_for_each(|kind| worker.listen(*kind))?;
        Ok(worker)
    }

    fn listen(&self, kind: u32) -> Result<()> {
        let callbacks = [on_request, on_cancel, on_data, on_reply];
        let mut param = ucp_am_handler_param_t::zeroed();
        param.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID
            | UCP_AM_HANDLER_PARAM_FIELD_FLAGS
            | UCP_AM_HANDLER_PARAM_FIELD_CB
            | UCP_AM_HANDLER_PARAM_FIELD_ARG;
        param.id = kind;
        param.flags = UCP_AM_FLAG_WHOLE_MSG;
        param.cb = Some(callbacks[kind as usize]);
        param.arg = self.inbox();
        // SAFETY: the inbox lives longer than the worker, which calls back while it lives.
        let status = unsafe { (self.ucx().ucp_worker_set_am_recv_handler)(self.worker, &param) };
        check(self.ucx(), status, "take messages")
    }

    fn ucx(&self) -> &'static Library {
        self.context.library
    }

    fn inbox(&self) -> *mut c_void {
        (&raw const *self.inbox).cast_mut().cast()
    }

    /// UCX's words for a status.
    pub(crate) fn words(&self, status: ucs_status_t) -> String {
        self.ucx().words(status)
    }

    /// What a peer needs to reach this worker. Errors: UCX has no memory (`Unavailable`).
    pub(crate) fn address(&self) -> Result<Vec<u8>> {
        let (mut address, mut n_bytes) = (ptr::null_mut(), 0);
        // SAFETY: the worker lives, and the places for the answer are ours.
        let status =
            unsafe { (self.ucx().ucp_worker_get_address)(self.worker, &mut address, &mut n_bytes) };
        check(self.ucx(), status, "tell its address")?;
        // SAFETY: UCX gave the address and length of bytes that live until they are released.
        let bytes = unsafe { std::slice::from_raw_parts(address.cast::<u8>(), n_bytes) }.to_vec();
        // SAFETY: released once; the copy above is another one.
        unsafe { (self.ucx().ucp_worker_release_address)(self.worker, address) };
        Ok(bytes)
    }

    /// The descriptor that is ready to read when there is work after [`Worker::may_sleep`].
    pub(crate) fn fd(&self) -> Result<RawFd> {
        let mut fd = -1;
        // SAFETY: the worker lives, and the place for the answer is ours.
        let status = unsafe { (self.ucx().ucp_worker_get_efd)(self.worker, &mut fd) };
        check(self.ucx(), status, "be waited for")?;
        Ok(fd)
    }

    /// Lets UCX work; says whether it did any.
    pub(crate) fn progress(&self) -> bool {
        // SAFETY: the worker lives, this is its thread, and no callback calls this.
        unsafe { (self.ucx().ucp_worker_progress)(self.worker) != 0 }
    }

    /// The next thing that happened.
    pub(crate) fn next_event(&self) -> Option<Event> {
        self.inbox.borrow_mut().pop_front()
    }

    /// Whether all is done for now, so that the next event will make the descriptor ready.
    pub(crate) fn may_sleep(&self) -> bool {
        // SAFETY: the worker lives, and this is its thread.
        unsafe { (self.ucx().ucp_worker_arm)(self.worker) == UCS_OK }
    }

    /// An endpoint to the worker with this address, whose loss is an event.
    ///
    /// Errors: no way leads there (`PeerLost`).
    pub(crate) fn connect(&self, address: &[u8]) -> Result<Endpoint> {
        let mut params = ucp_ep_params_t::zeroed();
        params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS
            | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE
            | UCP_EP_PARAM_FIELD_ERR_HANDLER;
        params.address = address.as_ptr().cast();
        params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
        params.err_handler = ucp_err_handler_t { cb: Some(on_failed), arg: self.inbox() };
        let mut endpoint = ptr::null_mut();
        // SAFETY: the worker lives; the address is one that a peer with our key got from its UCX;
        // the inbox outlives the worker and with it the endpoint.
        let status = unsafe { (self.ucx().ucp_ep_create)(self.worker, &params, &mut endpoint) };
        if status == UCS_OK {
            return Ok(Endpoint(endpoint));
        }
        Err(crate::lost(&format!("UCX finds no way to it ({})", self.words(status))))
    }

    /// Begins to send; [`Event::Done`] with `op` follows in any case.
    ///
    /// # Safety
    /// Header and body stay valid and unchanged until that event.
    pub(crate) unsafe fn send(&self, to: &Endpoint, message: &Outgoing, op: u64) {
        let mut param = ucp_request_param_t::zeroed();
        param.op_attr_mask =
            UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
        param.cb = ucp_request_param_cb { send: on_sent };
        param.user_data = self.ticket(op);
        param.flags = match message.protocol {
            Protocol::Eager => UCP_AM_SEND_FLAG_EAGER,
            Protocol::Rendezvous => UCP_AM_SEND_FLAG_RNDV,
        };
        describe_memory(&mut param);
        // SAFETY: by this function's contract; the ticket lives until the callback takes it.
        let begun = unsafe {
            (self.ucx().ucp_am_send_nbx)(
                to.0,
                message.kind,
                message.header.as_ptr().cast(),
                message.header.len(),
                message.body.cast(),
                message.n_bytes,
                &param,
            )
        };
        self.settle(begun, param.user_data);
    }

    /// Begins to receive what was announced; [`Event::Done`] with `op` follows in any case.
    ///
    /// # Safety
    /// `into` has room for all the bytes announced, and is nobody else's until that event.
    pub(crate) unsafe fn receive(&self, announced: Announced, into: *mut u8, op: u64) {
        let mut param = ucp_request_param_t::zeroed();
        param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
        param.cb = ucp_request_param_cb { recv_am: on_received };
        param.user_data = self.ticket(op);
        describe_memory(&mut param);
        let Announced { descriptor, n_bytes } = announced;
        // SAFETY: by this function's contract; the descriptor came from a callback that kept it,
        // and is given back here once.
        let begun = unsafe {
            (self.ucx().ucp_am_recv_data_nbx)(self.worker, descriptor, into.cast(), n_bytes, &param)
        };
        self.settle(begun, param.user_data);
    }

    /// Declines what was announced; the sender hears that it need not keep it any longer.
    pub(crate) fn refuse(&self, announced: Announced) {
        // SAFETY: the descriptor came from a callback that kept it, and is given back here once.
        unsafe { (self.ucx().ucp_am_data_release)(self.worker, announced.descriptor) };
    }

    /// Closes at once: whatever is under way ends, with an error. [`Event::Done`] with `op`
    /// follows.
    pub(crate) fn close(&self, endpoint: Endpoint, op: u64) {
        let mut param = ucp_request_param_t::zeroed();
        param.op_attr_mask =
            UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
        param.cb = ucp_request_param_cb { send: on_sent };
        param.user_data = self.ticket(op);
        param.flags = UCP_EP_CLOSE_FLAG_FORCE;
        // SAFETY: the endpoint was made by this worker, and is given up here once.
        let begun = unsafe { (self.ucx().ucp_ep_close_nbx)(endpoint.0, &param) };
        self.settle(begun, param.user_data);
    }

    /// What a callback needs to report the end of `op`. A worker that is destroyed with operations
    /// under way leaves their tickets behind, a few bytes each.
    fn ticket(&self, op: u64) -> *mut c_void {
        Box::into_raw(Box::new(Ticket { op, inbox: &raw const *self.inbox, library: self.ucx() }))
            .cast()
    }

    /// Reports an operation that has ended without a callback.
    fn settle(&self, begun: ucs_status_ptr_t, ticket: *mut c_void) {
        let status = match Outcome::of(begun) {
            Outcome::Pending => return,
            Outcome::Done => UCS_OK,
            Outcome::Failed(status) => status,
        };
        // SAFETY: made by `ticket` a moment ago; without a callback nobody else takes it.
        let ticket = unsafe { Box::from_raw(ticket.cast::<Ticket>()) };
        self.inbox.borrow_mut().push_back(Event::Done { op: ticket.op, status });
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // UCX ends the process if a worker is destroyed while CMA still has something to copy. It
        // copies a part in every call, and what is announced meanwhile is not taken up.
        let give_up = Instant::now() + DRAIN_MAX;
        while (0..N_IDLE_CALLS).any(|_| self.progress()) && Instant::now() < give_up {}
        // What was announced and not looked at is given back before the worker goes.
        while let Some(event) = self.next_event() {
            if let Event::Message { body: Body::Announced(announced), .. } = event {
                self.refuse(announced);
            }
        }
        // SAFETY: made in `create`, destroyed once, and before its context and its inbox.
        unsafe { (self.ucx().ucp_worker_destroy)(self.worker) };
    }
}

impl Endpoint {
    /// What [`Event::Failed`] calls it.
    pub(crate) fn id(&self) -> usize {
        self.0 as usize
    }
}
