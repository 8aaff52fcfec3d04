//! Who may ask: API keys, TLS, and pages of other origins.

use crate::body;
use crate::client::{Response, Server, request};
use crate::fake::{Fake, hello};
use config::secret::{Hidden, HiddenText};
use config::{AccessConfig, CorsOrigins, FrontendConfig, ServerTls};
use serde_json::json;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

async fn server(access: AccessConfig) -> Server {
    let cfg = FrontendConfig { access, ..FrontendConfig::default() };
    Server::configured(&Fake::new(hello()), cfg).await
}

fn with_keys() -> AccessConfig {
    let keys = ["sk-first", "sk-second"].map(HiddenText::new);
    AccessConfig { api_keys: Some(keys.to_vec()), ..AccessConfig::default() }
}

#[tokio::test]
async fn every_route_but_health_needs_a_key() {
    let server = server(with_keys()).await;
    let ask = async |method: &str, path: &str, key: Option<&str>| {
        let line = key.map(|key| ("authorization", key));
        let bytes = if method == "POST" { body(json!({})).to_string() } else { String::new() };
        server.exchange(&request(method, path, line.as_slice(), bytes.as_bytes())).await
    };
    let guarded = [
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/tiny/vl"),
        ("GET", "/metrics"),
    ];
    let wrong = [
        "Bearer sk-third",
        "Bearer sk-firs",
        "Bearer sk-first2",
        "Bearer",
        "Bearer ",
        "Basic sk-first",
        "sk-first",
        "",
    ];
    for (method, path) in guarded.into_iter().chain([("GET", "/v1/nothing"), ("GET", "//health")]) {
        for key in wrong.map(Some).into_iter().chain([None]) {
            let refused = ask(method, path, key).await;
            assert_eq!(refused.status, 401, "{path} with {key:?}");
            assert_eq!(refused.json()["error"]["code"], "invalid_api_key", "{path} with {key:?}");
            assert_eq!(refused.json()["error"]["type"], "invalid_request_error");
            assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
            assert!(refused.header("x-request-id").is_some());
            assert!(!refused.body.contains("sk-"), "no key is repeated: {}", refused.body);
        }
    }
    for (method, path) in guarded {
        for key in ["Bearer sk-first", "bearer sk-second", "Bearer  sk-first "] {
            assert_eq!(ask(method, path, Some(key)).await.status, 200, "{path} with {key:?}");
        }
    }
    for path in ["/health", "/live"] {
        assert_eq!(ask("GET", path, None).await.status, 200, "{path}");
    }
}

async fn ask_as(server: &Server, method: &str, origin: &str, more: &[(&str, &str)]) -> Response {
    let headers = [&[("origin", origin)], more].concat();
    server.exchange(&request(method, "/v1/models", &headers, b"")).await
}

#[tokio::test]
async fn listed_origins_may_ask_from_a_page() {
    let page = "https://chat.example.com";
    let cors = CorsOrigins::These(vec![page.to_owned()]);
    let server = server(AccessConfig { cors, ..with_keys() }).await;
    let asks = [
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    let question = ask_as(&server, "OPTIONS", page, &asks).await;
    assert_eq!(question.status, 204, "a question carries no key");
    assert_eq!(question.header("access-control-allow-origin"), Some(page));
    assert_eq!(question.header("access-control-allow-methods"), Some("GET, POST"));
    assert_eq!(question.header("access-control-allow-headers"), Some(asks[1].1));
    let key = [("authorization", "Bearer sk-first")];
    let asked = ask_as(&server, "GET", page, &key).await;
    assert_eq!((asked.status, asked.header("access-control-allow-origin")), (200, Some(page)));
    assert_eq!(asked.header("access-control-expose-headers"), Some("x-request-id, retry-after"));
    assert_eq!(asked.header("vary"), Some("origin"));
    let refused = ask_as(&server, "GET", page, &[]).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.header("access-control-allow-origin"), Some(page), "a page may read why");
    for other in ["https://chat.example.com.evil", "http://chat.example.com", "null"] {
        let asked = ask_as(&server, "GET", other, &key).await;
        assert_eq!((asked.status, asked.header("access-control-allow-origin")), (200, None));
        let question = ask_as(&server, "OPTIONS", other, &asks).await;
        assert_eq!(question.header("access-control-allow-methods"), None, "{other}");
    }
}

#[tokio::test]
async fn all_origins_or_none() {
    let asks = [("access-control-request-method", "GET")];
    let check = async |cors: CorsOrigins, status: u16, expected: Option<&str>| {
        let server = server(AccessConfig { cors, ..AccessConfig::default() }).await;
        let question = ask_as(&server, "OPTIONS", "https://any.example", &asks).await;
        assert_eq!(question.status, status);
        assert_eq!(question.header("access-control-allow-origin"), expected);
    };
    check(CorsOrigins::All, 204, Some("*")).await;
    check(CorsOrigins::default(), 405, None).await;
}

/// A certificate for `localhost`, its key, and a client that trusts it.
fn certificate() -> (ServerTls, TlsConnector) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tls = ServerTls {
        certificates: Hidden::new(made.cert.pem().into_bytes()),
        key: Hidden::new(made.signing_key.serialize_pem().into_bytes()),
    };
    (tls, TlsConnector::from(Arc::new(client)))
}

#[tokio::test]
async fn with_a_certificate_the_port_speaks_https() {
    let (tls, connector) = certificate();
    let server = server(AccessConfig { tls: Some(tls), ..AccessConfig::default() }).await;
    let chat = body(json!({"stream": true})).to_string();
    let bytes = request("POST", "/v1/chat/completions", &[], chat.as_bytes());
    let socket = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = connector.connect(name, socket).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut answer = String::new();
    // A server that closes without TLS's own goodbye has said all that HTTP needs.
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("\"content\":\"H\"") && answer.contains("data: [DONE]"), "{answer}");
    // Who speaks plain HTTP, or says nothing, is not answered and hinders nobody.
    let _silent = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(server.exchange(&request("GET", "/live", &[], b"")).await.status, 0);
    server.trigger.begin();
}

#[tokio::test]
async fn unusable_certificates_are_refused_by_flag() {
    let (good, _) = certificate();
    let (other, _) = certificate();
    let check = async |certificates: &Hidden, key: &Hidden, words: &str| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tls = ServerTls { certificates: certificates.clone(), key: key.clone() };
        let error = frontend::Door::new(listener, Some(&tls)).err().unwrap();
        assert!(error.message.contains(words), "{}", error.message);
    };
    let nonsense = Hidden::new(b"nonsense".to_vec());
    check(&nonsense, &good.key, "--tls-cert-path: expected certificates").await;
    check(&good.certificates, &nonsense, "--tls-key-path: expected a private key").await;
    check(&good.certificates, &other.key, "do not fit").await;
}
