//! A client by hand, on a connection of its own, that behaves as clients in the world do: it reads,
//! it dawdles, or it leaves at any moment.

use super::crowd::{Answer, Refusal, read_stream};
use bench::rng::Rng;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

/// An answer that is not whole by then hangs: long ones take a minute where others compile beside.
const ANSWER_TIME: Duration = Duration::from_secs(180);

/// A dawdler takes at most so many bytes at a time, and then pauses.
const N_BYTES_DAWDLED_MAX: u32 = 256;
const DAWDLING: Duration = Duration::from_millis(1);

/// A dawdler lets so little wait for it that long answers have to wait in the server.
const N_BYTES_BUFFERED: u32 = 4 << 10;

/// Who leaves before the answer waits no longer than this after asking.
const MS_BEFORE_LEAVING_MAX: u32 = 60;

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Reads the whole answer as it comes.
    Reads,
    /// Reads the whole answer, a few bytes at a time.
    Dawdles,
    /// Leaves in the middle of the request.
    LeavesAsking,
    /// Leaves after the request, without a look at the answer.
    LeavesWaiting,
    /// Leaves after some events of the answer.
    LeavesListening,
}

impl Manner {
    /// Seven of ten read, one dawdles, two leave.
    pub(crate) fn of(rng: &mut Rng) -> Self {
        match rng.below(30) {
            0..21 => Self::Reads,
            21..24 => Self::Dawdles,
            24..26 => Self::LeavesAsking,
            26..28 => Self::LeavesWaiting,
            _ => Self::LeavesListening,
        }
    }
}

/// Asks once; nothing comes back where the client left, however much it had seen.
///
/// Errors: the answer was no whole one, or did not come in time.
pub(crate) async fn ask(
    address: SocketAddr,
    body: &str,
    manner: Manner,
    rng: &mut Rng,
) -> Result<Option<Answer>, Refusal> {
    let asked = timeout(ANSWER_TIME, converse(address, body, manner, rng)).await;
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no whole answer in time");
    let read = asked.unwrap_or_else(|_| Err(late()));
    match read.map_err(|error| refusal(&error.to_string()))? {
        Some(bytes) => take_apart(&bytes).map(Some),
        None => Ok(None),
    }
}

fn refusal(words: &str) -> Refusal {
    Refusal { status: None, words: words.chars().take(400).collect() }
}

/// All that the server said, or nothing where the client left.
async fn converse(
    address: SocketAddr,
    body: &str,
    manner: Manner,
    rng: &mut Rng,
) -> io::Result<Option<Vec<u8>>> {
    let mut socket = connect(address, manner).await?;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: soak\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await?;
    if manner == Manner::LeavesAsking {
        socket.write_all(&body.as_bytes()[..rng.below(body.len())]).await?;
        return Ok(None);
    }
    socket.write_all(body.as_bytes()).await?;
    match manner {
        Manner::LeavesAsking => {}
        Manner::Reads => {
            let mut said = Vec::new();
            socket.read_to_end(&mut said).await?;
            return Ok(Some(said));
        }
        Manner::Dawdles => return dawdle(&mut socket, rng).await.map(Some),
        Manner::LeavesWaiting => {
            sleep(Duration::from_millis(rng.whole(0, MS_BEFORE_LEAVING_MAX).into())).await;
        }
        Manner::LeavesListening => listen(&mut socket, rng.whole(1, 12) as usize).await?,
    }
    Ok(None)
}

async fn connect(address: SocketAddr, manner: Manner) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if manner == Manner::Dawdles {
        socket.set_recv_buffer_size(N_BYTES_BUFFERED)?;
    }
    socket.connect(address).await
}

async fn dawdle(socket: &mut TcpStream, rng: &mut Rng) -> io::Result<Vec<u8>> {
    let mut said = Vec::new();
    let mut piece = [0; N_BYTES_DAWDLED_MAX as usize];
    loop {
        let most = rng.whole(1, N_BYTES_DAWDLED_MAX) as usize;
        match socket.read(&mut piece[..most]).await? {
            0 => return Ok(said),
            n => said.extend_from_slice(&piece[..n]),
        }
        sleep(DAWDLING).await;
    }
}

/// Reads until so many events have come, or all.
async fn listen(socket: &mut TcpStream, n_events: usize) -> io::Result<()> {
    let mut said = Vec::new();
    while String::from_utf8_lossy(&said).matches("data: ").count() < n_events {
        if socket.read_buf(&mut said).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// The answer in a whole response: a status, chunks to the last, and an end that comes once.
fn take_apart(said: &[u8]) -> Result<Answer, Refusal> {
    let said = std::str::from_utf8(said).map_err(|_| refusal("no UTF-8"))?;
    let (head, rest) = said.split_once("\r\n\r\n").ok_or_else(|| refusal(said))?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(refusal(said));
    }
    let body = joined(rest).ok_or_else(|| refusal("the response broke off inside its chunks"))?;
    read_stream(body.as_bytes())
}

/// The chunks of a body together; nothing where the last is missing or not the last.
fn joined(mut chunks: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, rest) = chunks.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        let chunk = rest.get(..size)?;
        let rest = rest.get(size..)?.strip_prefix("\r\n")?;
        if size == 0 {
            return rest.is_empty().then_some(body);
        }
        body.push_str(chunk);
        chunks = rest;
    }
}
