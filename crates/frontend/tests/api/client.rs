//! A server on a free port, and as much of an HTTP client as the tests need to see every byte.

use crate::fake::Fake;
use config::FrontendConfig;
use frontend::{Door, Shutdown, ShutdownTrigger};
use router::Backend;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use telemetry::Telemetry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longest that any exchange of these tests may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) trigger: ShutdownTrigger,
    pub(crate) serving: JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub(crate) async fn start(fake: &Arc<Fake>) -> Self {
        Self::configured(fake, FrontendConfig::default()).await
    }

    pub(crate) async fn configured(fake: &Arc<Fake>, config: FrontendConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let telemetry = Arc::new(Telemetry::new());
        let (trigger, shutdown) = Shutdown::new();
        let backend: Arc<dyn Backend> = fake.clone();
        let door = Door::new(listener, config.access.tls.as_ref()).unwrap();
        let serve = frontend::serve(door, backend, config, Arc::clone(&telemetry), shutdown);
        Self { address, telemetry, trigger, serving: tokio::spawn(serve) }
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.exchange(&request("GET", path, &[], b"")).await
    }

    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.exchange(&request("POST", path, headers, body)).await
    }

    /// Sends bytes, and reads until the server closes.
    pub(crate) async fn exchange(&self, bytes: &[u8]) -> Response {
        let mut connection = self.open(bytes).await;
        let mut answer = Vec::new();
        timeout(PATIENCE, connection.read_to_end(&mut answer)).await.unwrap().unwrap();
        Response::parse(&answer)
    }

    /// Sends bytes and leaves the connection open.
    pub(crate) async fn open(&self, bytes: &[u8]) -> TcpStream {
        let mut connection = TcpStream::connect(self.address).await.unwrap();
        connection.write_all(bytes).await.unwrap();
        connection
    }

    /// Whether the metrics have this line.
    pub(crate) fn counts(&self, line: &str) -> bool {
        self.telemetry.exposition().lines().any(|found| found == line)
    }
}

/// The bytes of a request; `content-type` is JSON unless `headers` say otherwise.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
    let has_type = headers.iter().any(|(name, _)| *name == "content-type");
    if !has_type && method == "POST" {
        head += "content-type: application/json\r\n";
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut bytes = format!("{head}content-length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Reads until `text` has come.
pub(crate) async fn read_until(connection: &mut TcpStream, text: &str) -> String {
    let mut seen = String::new();
    let reading = async {
        while !seen.contains(text) {
            let mut piece = [0; 4096];
            let n_bytes = connection.read(&mut piece).await.unwrap();
            assert!(n_bytes > 0, "closed before {text:?}; it said {seen:?}");
            seen += &String::from_utf8_lossy(&piece[..n_bytes]);
        }
    };
    timeout(PATIENCE, reading).await.unwrap();
    seen
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// Pieces in which the body was sent, where it was sent in pieces.
    pub(crate) n_chunks: usize,
}

impl Response {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, rest) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let header = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_ascii_lowercase(), value.to_owned()))
        };
        let headers: Vec<_> = lines.filter_map(header).collect();
        let is_chunked = headers.iter().any(|(name, _)| name == "transfer-encoding");
        let (body, n_chunks) = if is_chunked { unchunk(rest) } else { (rest.to_owned(), 0) };
        Self { status: status.unwrap_or(0), headers, body, n_chunks }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name)?;
        Some(&found.1)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    /// The text of a streamed answer, all pieces together.
    pub(crate) fn streamed_text(&self) -> String {
        let text = |(_, data): (String, String)| {
            let chunk: Value = serde_json::from_str(&data).ok()?;
            Some(chunk["choices"][0]["delta"]["content"].as_str()?.to_owned())
        };
        self.events().into_iter().filter_map(text).collect()
    }

    /// The server-sent events, as they were written: `name` (empty for most) and data.
    pub(crate) fn events(&self) -> Vec<(String, String)> {
        let field = |event: &str, name: &str| {
            let line = event.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().to_owned()
        };
        let whole = self.body.strip_suffix("\n\n").expect("events end with an empty line");
        whole.split("\n\n").map(|e| (field(e, "event: "), field(e, "data: "))).collect()
    }
}

fn unchunk(mut rest: &str) -> (String, usize) {
    let (mut body, mut n_chunks) = (String::new(), 0);
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        body += &after[..size];
        n_chunks += 1;
        rest = after[size..].strip_prefix("\r\n").unwrap();
    }
    (body, n_chunks)
}
