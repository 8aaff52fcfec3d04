//! UCX's types and constants under their own names, as C lays them out.
//!
//! Only the fields that version 1.13 has; later ones are behind the mask. Constants that no call
//! of ours needs are left out.

#![allow(non_camel_case_types)]
#![allow(missing_docs, reason = "UCX's own documentation has these names; ours would only age")]

use std::ffi::{c_char, c_int, c_uint, c_ulong, c_void};

/// A C `enum` of one byte: 0 is success, 1 is "in progress", errors are negative.
pub type ucs_status_t = i8;

pub const UCS_OK: ucs_status_t = 0;
pub const UCS_INPROGRESS: ucs_status_t = 1;
pub const UCS_ERR_BUSY: ucs_status_t = -15;
pub const UCS_ERR_CANCELED: ucs_status_t = -16;
pub const UCS_ERR_LAST: ucs_status_t = -100;

/// Null (done), an error in the shape of a pointer, or a request under way.
pub type ucs_status_ptr_t = *mut c_void;

/// What a call that may go on in the background gave back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is done already; no callback comes.
    Done,
    /// It failed at once; no callback comes.
    Failed(ucs_status_t),
    /// The callback will come, or has come.
    Pending,
}

impl Outcome {
    /// Reads the pointer as UCX's macros `UCS_PTR_IS_ERR` and `UCS_PTR_STATUS` do.
    pub fn of(pointer: ucs_status_ptr_t) -> Self {
        let value = pointer as isize;
        match value {
            0 => Self::Done,
            _ if (isize::from(UCS_ERR_LAST)..0).contains(&value) => Self::Failed(value as i8),
            _ => Self::Pending,
        }
    }
}

/// Handles: pointers to what only UCX can look into.
pub type ucp_context_h = *mut c_void;
pub type ucp_worker_h = *mut c_void;
pub type ucp_ep_h = *mut c_void;
pub type ucp_config_t = c_void;
pub type ucp_address_t = c_void;

pub type ucs_memory_type_t = c_uint;
pub const UCS_MEMORY_TYPE_HOST: ucs_memory_type_t = 0;

pub type ucs_thread_mode_t = c_uint;
pub const UCS_THREAD_MODE_SINGLE: ucs_thread_mode_t = 0;

pub const UCP_PARAM_FIELD_FEATURES: u64 = 1 << 0;
pub const UCP_PARAM_FIELD_NAME: u64 = 1 << 8;
pub const UCP_FEATURE_WAKEUP: u64 = 1 << 4;
pub const UCP_FEATURE_AM: u64 = 1 << 6;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ucp_params_t {
    pub field_mask: u64,
    pub features: u64,
    pub request_size: usize,
    pub request_init: Option<unsafe extern "C" fn(*mut c_void)>,
    pub request_cleanup: Option<unsafe extern "C" fn(*mut c_void)>,
    pub tag_sender_mask: u64,
    pub mt_workers_shared: c_int,
    pub estimated_num_eps: usize,
    pub estimated_num_ppn: usize,
    pub name: *const c_char,
}

pub const UCP_WORKER_PARAM_FIELD_THREAD_MODE: u64 = 1 << 0;
pub const UCP_WORKER_PARAM_FIELD_EVENTS: u64 = 1 << 2;
pub const UCP_WAKEUP_TX: c_uint = 1 << 10;
pub const UCP_WAKEUP_RX: c_uint = 1 << 11;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ucs_cpu_set_t {
    pub ucs_bits: [c_ulong; 1024 / c_ulong::BITS as usize],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ucp_worker_params_t {
    pub field_mask: u64,
    pub thread_mode: ucs_thread_mode_t,
    pub cpu_mask: ucs_cpu_set_t,
    pub events: c_uint,
    pub user_data: *mut c_void,
    pub event_fd: c_int,
    pub flags: u64,
    pub name: *const c_char,
    pub am_alignment: usize,
    pub client_id: u64,
}

pub const UCP_EP_PARAM_FIELD_REMOTE_ADDRESS: u64 = 1 << 0;
pub const UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE: u64 = 1 << 1;
pub const UCP_EP_PARAM_FIELD_ERR_HANDLER: u64 = 1 << 2;

pub type ucp_err_handling_mode_t = c_uint;
pub const UCP_ERR_HANDLING_MODE_PEER: ucp_err_handling_mode_t = 1;

pub type ucp_err_handler_cb_t =
    unsafe extern "C" fn(arg: *mut c_void, ep: ucp_ep_h, status: ucs_status_t);

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ucp_err_handler_t {
    pub cb: Option<ucp_err_handler_cb_t>,
    pub arg: *mut c_void,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ucs_sock_addr_t {
    pub addr: *const c_void,
    pub addrlen: c_uint,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ucp_ep_params_t {
    pub field_mask: u64,
    pub address: *const ucp_address_t,
    pub err_mode: ucp_err_handling_mode_t,
    pub err_handler: ucp_err_handler_t,
    pub user_data: *mut c_void,
    pub flags: c_uint,
    pub sockaddr: ucs_sock_addr_t,
    pub conn_request: *mut c_void,
    pub name: *const c_char,
    pub local_sockaddr: ucs_sock_addr_t,
}

pub const UCP_EP_CLOSE_FLAG_FORCE: u32 = 1 << 0;

pub const UCP_OP_ATTR_FIELD_CALLBACK: u32 = 1 << 1;
pub const UCP_OP_ATTR_FIELD_USER_DATA: u32 = 1 << 2;
pub const UCP_OP_ATTR_FIELD_FLAGS: u32 = 1 << 4;
pub const UCP_OP_ATTR_FIELD_MEMORY_TYPE: u32 = 1 << 6;

pub type ucp_send_nbx_callback_t =
    unsafe extern "C" fn(request: *mut c_void, status: ucs_status_t, user_data: *mut c_void);
pub type ucp_am_recv_data_nbx_callback_t = unsafe extern "C" fn(
    request: *mut c_void,
    status: ucs_status_t,
    length: usize,
    user_data: *mut c_void,
);

/// The callback of an operation; which one is said by the operation.
#[repr(C)]
#[derive(Clone, Copy)]
pub union ucp_request_param_cb {
    pub send: ucp_send_nbx_callback_t,
    pub recv_am: ucp_am_recv_data_nbx_callback_t,
    pub none: *const c_void,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ucp_request_param_t {
    pub op_attr_mask: u32,
    pub flags: u32,
    pub request: *mut c_void,
    pub cb: ucp_request_param_cb,
    pub datatype: u64,
    pub user_data: *mut c_void,
    pub reply_buffer: *mut c_void,
    pub memory_type: ucs_memory_type_t,
    pub recv_info: *mut c_void,
    pub memh: *mut c_void,
}

pub const UCP_AM_SEND_FLAG_EAGER: u32 = 1 << 1;
pub const UCP_AM_SEND_FLAG_RNDV: u32 = 1 << 2;

pub const UCP_AM_HANDLER_PARAM_FIELD_ID: u64 = 1 << 0;
pub const UCP_AM_HANDLER_PARAM_FIELD_FLAGS: u64 = 1 << 1;
pub const UCP_AM_HANDLER_PARAM_FIELD_CB: u64 = 1 << 2;
pub const UCP_AM_HANDLER_PARAM_FIELD_ARG: u64 = 1 << 3;
pub const UCP_AM_FLAG_WHOLE_MSG: u32 = 1 << 0;
pub const UCP_AM_RECV_ATTR_FLAG_RNDV: u64 = 1 << 17;

pub type ucp_am_recv_callback_t = unsafe extern "C" fn(
    arg: *mut c_void,
    header: *const c_void,
    header_length: usize,
    data: *mut c_void,
    length: usize,
    param: *const ucp_am_recv_param_t,
) -> ucs_status_t;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ucp_am_handler_param_t {
    pub field_mask: u64,
    pub id: c_uint,
    pub flags: u32,
    pub cb: Option<ucp_am_recv_callback_t>,
    pub arg: *mut c_void,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ucp_am_recv_param_t {
    pub recv_attr: u64,
    pub reply_ep: ucp_ep_h,
}

/// The beginning of UCX's settings of its memory hooks.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ucm_global_config_t {
    pub log_level: c_uint,
    pub enable_events: c_int,
}

/// A structure of C for which all zeros is a value: no field set.
///
/// # Safety
/// Every field is a number, a raw pointer, an optional function or made of such.
pub unsafe trait Plain: Copy {
    /// The structure with no field set.
    fn zeroed() -> Self {
        // SAFETY: by the contract of this trait, zeros are a value of every field.
        unsafe { std::mem::zeroed() }
    }
}

// SAFETY: numbers, raw pointers and optional functions only.
unsafe impl Plain for ucp_params_t {}
// SAFETY: numbers and raw pointers only.
unsafe impl Plain for ucp_worker_params_t {}
// SAFETY: numbers, raw pointers and an optional function only.
unsafe impl Plain for ucp_ep_params_t {}
// SAFETY: numbers and raw pointers, and a union for which a null pointer is one of its variants.
unsafe impl Plain for ucp_request_param_t {}
// SAFETY: numbers, a raw pointer and an optional function only.
unsafe impl Plain for ucp_am_handler_param_t {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_read_as_the_macros_of_ucx_do() {
        let check = |value: isize, expected| {
            assert_eq!(Outcome::of(value as *mut c_void), expected, "{value}");
        };
        check(0, Outcome::Done);
        check(-1, Outcome::Failed(-1));
        check(-100, Outcome::Failed(UCS_ERR_LAST));
        check(-101, Outcome::Pending);
        check(0x7f00_0000_1000, Outcome::Pending);
    }
}
