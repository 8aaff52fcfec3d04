//! Our declarations lie in memory as those of UCX's C headers do, and the constants are equal.
//!
//! The headers are those of `TRIPTYCH_UCX_INCLUDE`, or Debian's (`libucx-dev`).

use std::mem::{offset_of, size_of};
use std::path::{Path, PathBuf};
use std::process::Command;
use ucx_sys::*;

/// A C expression and what we think it is.
type Row = (String, i128);

macro_rules! offsets {
    ($rows:ident, $($type:ident { $($field:ident)* })*) => {$($(
        let c = format!("offsetof({}, {})", stringify!($type), stringify!($field));
        $rows.push((c, offset_of!($type, $field) as i128));
    )*)*};
}

macro_rules! constants {
    ($rows:ident, $($name:ident)*) => {
        $($rows.push((stringify!($name).into(), i128::from($name)));)*
    };
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    offsets!(rows,
        ucp_params_t { field_mask features request_size request_init request_cleanup
            tag_sender_mask mt_workers_shared estimated_num_eps estimated_num_ppn name }
        ucp_worker_params_t { field_mask thread_mode cpu_mask events user_data event_fd flags name
            am_alignment client_id }
        ucp_ep_params_t { field_mask address err_mode err_handler user_data flags sockaddr
            conn_request name local_sockaddr }
        ucp_err_handler_t { cb arg }
        ucs_sock_addr_t { addr addrlen }
        ucp_request_param_t { op_attr_mask flags request cb datatype user_data reply_buffer
            memory_type recv_info memh }
        ucp_am_handler_param_t { field_mask id flags cb arg }
        ucp_am_recv_param_t { recv_attr reply_ep }
        ucm_global_config_t { log_level enable_events }
    );
    constants!(rows,
        UCS_OK UCS_INPROGRESS UCS_ERR_BUSY UCS_ERR_CANCELED UCS_ERR_LAST
        UCS_MEMORY_TYPE_HOST UCS_THREAD_MODE_SINGLE
        UCP_PARAM_FIELD_FEATURES UCP_PARAM_FIELD_NAME UCP_FEATURE_WAKEUP UCP_FEATURE_AM
        UCP_WORKER_PARAM_FIELD_THREAD_MODE UCP_WORKER_PARAM_FIELD_EVENTS
        UCP_WAKEUP_TX UCP_WAKEUP_RX
        UCP_EP_PARAM_FIELD_REMOTE_ADDRESS UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE
        UCP_EP_PARAM_FIELD_ERR_HANDLER UCP_ERR_HANDLING_MODE_PEER UCP_EP_CLOSE_FLAG_FORCE
        UCP_OP_ATTR_FIELD_CALLBACK UCP_OP_ATTR_FIELD_USER_DATA UCP_OP_ATTR_FIELD_FLAGS
        UCP_OP_ATTR_FIELD_MEMORY_TYPE UCP_AM_SEND_FLAG_EAGER UCP_AM_SEND_FLAG_RNDV
        UCP_AM_HANDLER_PARAM_FIELD_ID UCP_AM_HANDLER_PARAM_FIELD_FLAGS
        UCP_AM_HANDLER_PARAM_FIELD_CB UCP_AM_HANDLER_PARAM_FIELD_ARG UCP_AM_FLAG_WHOLE_MSG
        UCP_AM_RECV_ATTR_FLAG_RNDV
    );
    let size = |c: &str, n_bytes: usize| (format!("sizeof({c})"), n_bytes as i128);
    rows.extend([
        size("ucs_status_t", size_of::<ucs_status_t>()),
        size("ucs_cpu_set_t", size_of::<ucs_cpu_set_t>()),
        size("ucs_sock_addr_t", size_of::<ucs_sock_addr_t>()),
        size("ucp_err_handler_t", size_of::<ucp_err_handler_t>()),
        size("((ucp_request_param_t*)0)->cb", size_of::<ucp_request_param_cb>()),
        size("ucs_memory_type_t", size_of::<ucs_memory_type_t>()),
        size("ucs_thread_mode_t", size_of::<ucs_thread_mode_t>()),
        size("ucp_err_handling_mode_t", size_of::<ucp_err_handling_mode_t>()),
    ]);
    rows
}

fn program(rows: &[Row]) -> String {
    let prints: String =
        rows.iter().map(|(c, _)| format!("printf(\"%lld\\n\", (long long)({c}));\n")).collect();
    format!(
        "#include <stddef.h>\n#include <stdio.h>\n#include <ucp/api/ucp.h>\n\
         #include <ucm/api/ucm.h>\nint main(void) {{\n{prints}return 0;\n}}\n"
    )
}

fn headers() -> Option<PathBuf> {
    let named = std::env::var_os("TRIPTYCH_UCX_INCLUDE").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| "/usr/include".into());
    folder.join("ucp/api/ucp.h").exists().then_some(folder)
}

/// What C says of the expressions, in order.
fn ask_c(rows: &[Row], headers: &Path) -> Vec<i128> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (source, binary) = (folder.join("layout.c"), folder.join("layout"));
    std::fs::write(&source, program(rows)).unwrap();
    let mut cc = Command::new("cc");
    cc.arg("-I").arg(headers).arg(&source).arg("-o").arg(&binary);
    assert!(cc.status().expect("a C compiler, `cc`").success(), "the headers do not compile");
    let printed = Command::new(&binary).output().unwrap().stdout;
    let printed = String::from_utf8(printed).unwrap();
    printed.lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn our_declarations_are_those_of_the_headers() {
    let Some(headers) = headers() else {
        println!("skipped: no UCX headers here (libucx-dev, or TRIPTYCH_UCX_INCLUDE)");
        return;
    };
    let rows = rows();
    let c = ask_c(&rows, &headers);
    assert_eq!(c.len(), rows.len());
    let differing: Vec<String> = rows
        .iter()
        .zip(&c)
        .filter(|((_, ours), theirs)| ours != *theirs)
        .map(|((what, ours), theirs)| format!("{what}: ours {ours}, C {theirs}"))
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    println!("{} facts of {} compared", rows.len(), headers.display());
}
