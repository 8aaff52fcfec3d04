//! An origin of pictures: some as they should be, some as nobody should be.

use crate::common::demo_model;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Time between two bytes of an answer that drips.
const DRIP: Duration = Duration::from_millis(100);

/// How often each path was asked for.
type Paths = Arc<Mutex<HashMap<String, usize>>>;

/// An origin that ends with the test.
pub(crate) struct Origin {
    /// `http://…` without a path.
    pub(crate) url: String,
    /// How many have connected.
    n_asked: Arc<AtomicUsize>,
    /// How often each path was asked for.
    paths: Paths,
    /// A permit for each connection that the other side has closed.
    pub(crate) left: Arc<Semaphore>,
    serving: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Origin {
    pub(crate) async fn start(ip: &str) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let n_asked = Arc::new(AtomicUsize::new(0));
        let left = Arc::new(Semaphore::new(0));
        let paths = Paths::default();
        let (counted, seen) = (Arc::clone(&n_asked), Arc::clone(&left));
        let asked = Arc::clone(&paths);
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(answer(stream, Arc::clone(&asked), Arc::clone(&seen)));
            }
        });
        Self { url, n_asked, paths, left, serving }
    }

    pub(crate) fn n_asked(&self) -> usize {
        self.n_asked.load(Ordering::SeqCst)
    }

    /// How often `path` was asked for.
    pub(crate) fn n_asked_for(&self, path: &str) -> usize {
        self.paths.lock().unwrap().get(path).copied().unwrap_or(0)
    }
}

/// Answers one request as its path says.
async fn answer(mut stream: TcpStream, asked: Paths, left: Arc<Semaphore>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let n_before = {
        let mut asked = asked.lock().unwrap();
        let n = asked.entry(path.clone()).or_default();
        *n += 1;
        *n - 1
    };
    // Whoever asks may leave in the middle, which is their right.
    let _ = match path.as_str() {
        "/silent" => Ok(()),
        "/drip" => drip(&mut stream).await,
        "/endless" => endless(&mut stream).await,
        // Another picture from the second time on.
        path if path.starts_with("/changing/") && n_before == 0 => {
            stream.write_all(&whole("/two-shapes.png")).await
        }
        path if path.starts_with("/changing/") => {
            stream.write_all(&whole("/four-shapes.jpg")).await
        }
        path => stream.write_all(&whole(path)).await,
    };
    if ["/silent", "/stalled"].contains(&path.as_str()) {
        // Says nothing more until the other side leaves.
        let _ = stream.read_u8().await;
        left.add_permits(1);
    }
}

async fn drip(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").await?;
    loop {
        stream.write_all(b"x").await?;
        tokio::time::sleep(DRIP).await;
    }
}

async fn endless(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    loop {
        stream.write_all(&[b'x'; 4096]).await?;
    }
}

/// The answers that are said in one go.
fn whole(path: &str) -> Vec<u8> {
    let picture = |name: &str| std::fs::read(demo_model().join("samples").join(name)).unwrap();
    if let Some(to) = path.strip_prefix("/to/") {
        return head("302 Found", &format!("location: {to}\r\n"), 0);
    }
    if let Some(n_left) = path.strip_prefix("/hops/") {
        let n_left: u32 = n_left.parse().unwrap();
        let to =
            if n_left == 0 { "/two-shapes.png".into() } else { format!("/hops/{}", n_left - 1) };
        return head("307 Temporary Redirect", &format!("location: {to}\r\n"), 0);
    }
    let two = picture("two-shapes.png");
    match path {
        "/two-shapes.png" | "/four-shapes.jpg" => body("", &picture(&path[1..])),
        "/mislabelled" => body("content-type: text/plain\r\n", &two),
        "/page" => body("content-type: text/html\r\n", b"<html>no picture</html>"),
        "/nothing" => body("", b""),
        "/bomb" => body("content-type: image/png\r\n", &bomb(&two)),
        "/broken" => body("", &two[..two.len() / 2]),
        "/cut-off" => [head("200 OK", "", two.len()), two[..two.len() / 2].to_vec()].concat(),
        "/says-less" => [head("200 OK", "", two.len() / 2), two].concat(),
        "/says-huge" => head("200 OK", "", 1 << 40),
        "/stalled" => [head("200 OK", "", two.len()), two[..100].to_vec()].concat(),
        "/chunked" => chunked(&two),
        "/compressed" => body("content-encoding: gzip\r\n", &two),
        "/no-http" => b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        "/hang-up" => Vec::new(),
        _ => head("404 Not Found", "", 0),
    }
}

fn head(status: &str, lines: &str, n_bytes: usize) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{lines}content-length: {n_bytes}\r\n\r\n").into_bytes()
}

fn body(lines: &str, bytes: &[u8]) -> Vec<u8> {
    [head("200 OK", lines, bytes.len()), bytes.to_vec()].concat()
}

fn chunked(bytes: &[u8]) -> Vec<u8> {
    let mut answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for piece in bytes.chunks(1000) {
        answer.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        answer.extend_from_slice(piece);
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"0\r\n\r\n");
    answer
}

/// A PNG whose header promises 60,000 x 60,000 pixels.
fn bomb(png: &[u8]) -> Vec<u8> {
    let mut bomb = png.to_vec();
    bomb[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
    let checksum = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&checksum.to_be_bytes());
    bomb
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 }
        })
    };
    !bytes.iter().fold(u32::MAX, step)
}
