//! The operations, a file each: contract, checks and dispatch, CPU code, cases.
