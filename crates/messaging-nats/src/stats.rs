//! What has gone through a connection, counted from its start.

/// Counters of one connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames put into messages.
    pub n_frames_sent: u64,
    /// Messages that carried them.
    pub n_messages_sent: u64,
    /// Bytes of those messages.
    pub n_bytes_sent: u64,
    /// Frames read.
    pub n_frames_received: u64,
    /// Messages that brought them.
    pub n_messages_received: u64,
    /// Bytes of those messages.
    pub n_bytes_received: u64,
    /// Messages that were not ours, or not whole.
    pub n_messages_refused: u64,
    /// Times that the connection to the server came back.
    pub n_reconnects: u64,
}
