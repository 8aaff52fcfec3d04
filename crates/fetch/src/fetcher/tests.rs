//! The fetcher against origins that misbehave, and names that change their address.

use super::*;
use crate::network::Network;
use crate::policy::Deadlines;
use crate::tls;
use futures::FutureExt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use types::ErrorKind;

const LIMIT: usize = 1000;
const SHORT: Duration = Duration::from_millis(200);

/// What an origin says to each request, and then whether it goes silent or closes.
#[derive(Clone)]
struct Script {
    answer: String,
    stays: bool,
}

fn says(answer: impl Into<String>) -> Script {
    Script { answer: answer.into(), stays: false }
}

fn stays(answer: &str) -> Script {
    Script { answer: answer.into(), stays: true }
}

/// Listens on `ip`; gives the address, and how many have connected.
async fn origin_at(ip: &str, script: Script) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let n_asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&n_asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let script = script.clone();
            tokio::spawn(async move {
                let mut asked = [0; 4096];
                let _ = stream.read(&mut asked).await;
                let _ = stream.write_all(script.answer.as_bytes()).await;
                if script.stays {
                    // Ends when the other side does.
                    let _ = stream.read(&mut asked).await;
                }
            });
        }
    });
    (address, n_asked)
}

async fn origin(script: Script) -> SocketAddr {
    origin_at("127.0.0.1", script).await.0
}

fn policy() -> Policy {
    let loopback = Network::new(IpAddr::from([127, 0, 0, 1]), 32).unwrap();
    Policy {
        domains: Vec::new(),
        networks: vec![loopback],
        n_bytes_max: LIMIT,
        deadlines: Deadlines { connect: SHORT, read: SHORT, total: 4 * SHORT },
    }
}

async fn fetch(fetcher: &Fetcher, address: &str) -> std::result::Result<Bytes, ErrorKind> {
    let fetched = fetcher.fetch(address, &mut |_| Ok(())).await;
    if let Err(failure) = &fetched {
        assert!(!failure.message.contains("127.0."), "{}", failure.message);
    }
    fetched.map_err(|failure| failure.kind)
}

fn moved(to: &str) -> Script {
    says(format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"))
}

const MEDIUM: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nmedium";

#[tokio::test]
async fn each_answer_has_its_outcome() {
    let check = async |script: Script, expected: std::result::Result<&[u8], ErrorKind>| {
        let shown: String = script.answer.chars().take(80).collect();
        let address = origin(script).await;
        let found = fetch(&Fetcher::new(policy()), &format!("http://{address}/a")).await;
        assert_eq!(found.as_deref(), expected.as_ref().copied(), "{shown}");
    };
    let broken = Err(ErrorKind::MediaOrigin);
    check(says(MEDIUM), Ok(b"medium")).await;
    check(says("HTTP/1.0 200 OK\r\n\r\nuntil the end"), Ok(b"until the end")).await;
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    check(says(chunked), Ok(b"abc")).await;
    check(says("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort"), broken).await;
    check(says("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nlong"), Ok(b"lo")).await;
    check(says("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"), broken).await;
    check(says("HTTP/1.1 206 Partial\r\ncontent-length: 1\r\n\r\na"), broken).await;
    check(says("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n"), broken).await;
    check(says(""), broken).await;
    check(says("SSH-2.0-x\r\n"), broken).await;
    let packed = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\na";
    check(says(packed), broken).await;
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(2 * READ_BYTES_MAX));
    check(says(long), broken).await;
    let announced = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", LIMIT + 1);
    check(stays(&announced), Err(ErrorKind::TooLarge)).await;
    let endless = format!("HTTP/1.0 200 OK\r\n\r\n{}", "x".repeat(LIMIT + 1));
    check(stays(&endless), Err(ErrorKind::TooLarge)).await;
    check(stays(""), Err(ErrorKind::Timeout)).await;
    check(stays("HTTP/1.1 200 OK\r\n"), Err(ErrorKind::Timeout)).await;
    check(stays("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx"), Err(ErrorKind::Timeout)).await;
}

#[tokio::test]
async fn who_drips_meets_the_total_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(SHORT / 4).await;
        }
    });
    let fetcher = Fetcher::new(policy());
    let failure = fetcher.fetch(&format!("http://{address}/"), &mut |_| Ok(())).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Timeout);
    assert!(failure.message.contains("0.8 s"), "{}", failure.message);
}

#[tokio::test]
async fn redirects_are_followed_three_times_and_checked_each_time() {
    let mut hops = vec![origin(says(MEDIUM)).await];
    for n in 0..4 {
        hops.push(origin(moved(&format!("http://{}/", hops[n]))).await);
    }
    let fetcher = Fetcher::new(policy());
    let ask = async |n: usize| fetch(&fetcher, &format!("http://{}/", hops[n])).await;
    assert_eq!(ask(3).await.as_deref(), Ok(b"medium".as_slice()));
    assert_eq!(ask(4).await, Err(ErrorKind::MediaOrigin));
    let (inside, n_asked) = origin_at("127.0.0.2", says(MEDIUM)).await;
    let check = async |to: &str, expected: ErrorKind| {
        let from = origin(moved(to)).await;
        assert_eq!(fetch(&fetcher, &format!("http://{from}/")).await, Err(expected), "{to}");
    };
    check(&format!("http://{inside}/"), ErrorKind::Forbidden).await;
    check("http://169.254.169.254/latest/meta-data/", ErrorKind::Forbidden).await;
    check("http://[::ffff:10.0.0.1]/", ErrorKind::Forbidden).await;
    check("file:///etc/passwd", ErrorKind::MediaOrigin).await;
    assert_eq!(n_asked.load(Ordering::SeqCst), 0);
}

/// A fetcher whose names have the addresses of `answers`, one answer after the other.
fn naming(policy: Policy, answers: Vec<&'static str>) -> (Fetcher, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (names, left) = (Arc::clone(&asked), Mutex::new(answers.into_iter()));
    let resolver = move |name: String| {
        names.lock().unwrap().push(name);
        let answer = left.lock().unwrap().next().unwrap_or_default();
        let addresses = answer.split_whitespace().map(|ip| ip.parse().unwrap()).collect();
        async move { Ok(addresses) }.boxed()
    };
    let connector = Connector { resolver: Arc::new(resolver), tls: OnceCell::new() };
    (Fetcher::with(policy, connector), asked)
}

#[tokio::test]
async fn a_name_that_changes_its_address_leads_nowhere_else() {
    let (outside, _) = origin_at("127.0.0.1", says(MEDIUM)).await;
    // The same port inside, where the second answer points.
    let inside = TcpListener::bind(("127.0.0.2", outside.port())).await.unwrap();
    let url = format!("http://rebinding.example:{}/", outside.port());
    let (fetcher, asked) = naming(policy(), vec!["127.0.0.1", "127.0.0.2"]);
    assert_eq!(fetch(&fetcher, &url).await.as_deref(), Ok(b"medium".as_slice()));
    assert_eq!(*asked.lock().unwrap(), ["rebinding.example"], "asked once, then connected");
    assert_eq!(fetch(&fetcher, &url).await, Err(ErrorKind::Forbidden), "the second answer");
    assert_eq!(asked.lock().unwrap().len(), 2);
    assert!(inside.accept().now_or_never().is_none(), "nobody came");
}

#[tokio::test]
async fn a_redirect_to_the_same_name_resolves_and_checks_it_anew() {
    let (outside, _) = origin_at("127.0.0.1", moved("/again")).await;
    let inside = TcpListener::bind(("127.0.0.2", outside.port())).await.unwrap();
    let (fetcher, asked) = naming(policy(), vec!["127.0.0.1", "127.0.0.2"]);
    let url = format!("http://rebinding.example:{}/", outside.port());
    assert_eq!(fetch(&fetcher, &url).await, Err(ErrorKind::Forbidden));
    assert_eq!(asked.lock().unwrap().len(), 2);
    assert!(inside.accept().now_or_never().is_none(), "nobody came");
}

#[tokio::test]
async fn permitted_addresses_are_tried_in_turn() {
    let (there, _) = origin_at("127.0.0.1", says(MEDIUM)).await;
    let url = format!("http://many.example:{}/", there.port());
    let mut two = policy();
    two.networks.push(Network::new(IpAddr::from([127, 0, 0, 3]), 32).unwrap());
    let (fetcher, _) = naming(two, vec!["10.0.0.1 127.0.0.3 127.0.0.1", "127.0.0.3", ""]);
    assert_eq!(fetch(&fetcher, &url).await.as_deref(), Ok(b"medium".as_slice()));
    assert_eq!(fetch(&fetcher, &url).await, Err(ErrorKind::MediaOrigin), "nobody listens");
    assert_eq!(fetch(&fetcher, &url).await, Err(ErrorKind::MediaOrigin), "no address at all");
}

#[tokio::test]
async fn unlisted_hosts_are_not_even_resolved() {
    let listed = Policy { domains: vec!["*.good.example".to_owned()], ..policy() };
    let (fetcher, asked) = naming(listed, vec!["127.0.0.1"]);
    for url in ["http://bad.example/", "http://good.example/", "http://127.0.0.1/"] {
        assert_eq!(fetch(&fetcher, url).await, Err(ErrorKind::Forbidden), "{url}");
    }
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn who_holds_the_bytes_may_refuse_them() {
    let address = origin(says(MEDIUM)).await;
    let mut told = Vec::new();
    let mut hold = |n_bytes| {
        told.push(n_bytes);
        if told.len() < 2 { Ok(()) } else { Err(Error::new(ErrorKind::Overloaded, "full")) }
    };
    let url = format!("http://{address}/");
    let failure = Fetcher::new(policy()).fetch(&url, &mut hold).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Overloaded);
    assert_eq!(told, [6, 6], "what is announced, and then what is there");
}

/// An origin that speaks TLS as `localhost`, and the authorities that trust it.
async fn encrypted() -> (SocketAddr, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(MEDIUM.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (address, roots)
}

#[tokio::test]
async fn https_is_spoken_with_whom_the_certificate_names() {
    let (address, roots) = encrypted().await;
    let check = async |roots, name: &str, expected: std::result::Result<&[u8], ErrorKind>| {
        let (mut fetcher, _) = naming(policy(), vec!["127.0.0.1"]);
        fetcher.connector.tls = OnceCell::new_with(Some(tls::connector(roots).unwrap()));
        let found = fetch(&fetcher, &format!("https://{name}:{}/", address.port())).await;
        assert_eq!(found.as_deref(), expected.as_ref().copied(), "{name}");
    };
    check(roots.clone(), "localhost", Ok(b"medium")).await;
    check(roots, "other.example", Err(ErrorKind::MediaOrigin)).await;
    check(RootCertStore::empty(), "localhost", Err(ErrorKind::MediaOrigin)).await;
}
