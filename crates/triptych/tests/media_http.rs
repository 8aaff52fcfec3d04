//! Pictures by HTTP, through the whole of a server: which are fetched, and what each way of failing
//! looks like to the client.

mod common;
#[path = "media_http/origin.rs"]
mod origin;

use common::{TOPOLOGIES, TestServer};
use origin::Origin;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The origin of most tests may be asked; short deadlines, so that the tests are.
const FLAGS: [&str; 8] = [
    "--allowed-media-networks",
    "127.0.0.1",
    "--max-file-size-mb",
    "1",
    "--media-read-timeout-s",
    "1",
    "--media-fetch-timeout-s",
    "2",
];

const TWO: &str = "From left to right: a red circle, a blue square.";

/// What a client sees of an answer.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    status: u16,
    body: Value,
}

impl Seen {
    fn words(&self) -> &str {
        let words = match self.status {
            200 => &self.body["choices"][0]["message"]["content"],
            _ => &self.body["error"]["message"],
        };
        words.as_str().unwrap()
    }
}

fn body(urls: &[String], more: Value) -> Value {
    let part = |url: &String| json!({"type": "image_url", "image_url": {"url": url}});
    let mut content: Vec<Value> = urls.iter().map(part).collect();
    content.push(json!({"type": "text", "text": "What is in the picture?"}));
    let messages = json!([{"role": "user", "content": content}]);
    let mut body = json!({"model": "shapes", "messages": messages, "temperature": 0});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

async fn ask(server: &TestServer, urls: &[String]) -> Seen {
    ask_for(server, body(urls, json!({"max_tokens": 60}))).await
}

async fn ask_for(server: &TestServer, body: Value) -> Seen {
    let url = format!("{}/v1/chat/completions", server.url);
    let body = body.to_string();
    let asked = move || {
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
        let agent = config.build().new_agent();
        let mut response =
            agent.post(&url).header("content-type", "application/json").send(&body).unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        let body = serde_json::from_str(&text).unwrap();
        Seen { status: response.status().as_u16(), body }
    };
    tokio::task::spawn_blocking(asked).await.unwrap()
}

/// Asks about one address, which must be refused in these words.
async fn check_refused(server: &TestServer, address: String, status: u16, code: &str, words: &str) {
    let seen = ask(server, std::slice::from_ref(&address)).await;
    assert_eq!(seen.status, status, "{address}: {seen:?}");
    let error = &seen.body["error"];
    assert_eq!(error["code"], code, "{address}: {error}");
    assert_eq!(error["param"], "messages[0].content[0].image_url", "{address}: {error}");
    assert!(seen.words().contains(words), "{address}: {error}");
    for inside in ["127.0.", "169.254", "os error", "hyper", "rustls", "connection closed"] {
        assert!(!seen.words().contains(inside), "{address}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_come_over_http_in_every_topology() {
    let origin = Origin::start("127.0.0.1").await;
    for roles in TOPOLOGIES {
        let server = TestServer::start(roles, &FLAGS[..4]).await;
        for path in ["two-shapes.png", "mislabelled", "chunked", "hops/2", "to//two-shapes.png"] {
            let seen = ask(&server, &[format!("{}/{path}", origin.url)]).await;
            assert_eq!((seen.status, seen.words()), (200, TWO), "{path}, {roles}");
        }
        let four = ask(&server, &[format!("{}/four-shapes.jpg", origin.url)]).await;
        assert!(four.words().contains("a yellow star"), "{four:?}");
        server.wait_until_idle(Duration::from_secs(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_of_failing_has_its_status() {
    let origin = Origin::start("127.0.0.1").await;
    let server = TestServer::start("agg", &FLAGS).await;
    let check = async |path: &str, status: u16, code: &str, words: &str| {
        check_refused(&server, format!("{}/{path}", origin.url), status, code, words).await;
    };
    check("absent", 502, "media_origin_failed", "answered with status 404").await;
    check("cut-off", 502, "media_origin_failed", "broke off").await;
    check("hang-up", 502, "media_origin_failed", "broke off").await;
    check("no-http", 502, "media_origin_failed", "broke off").await;
    check("compressed", 502, "media_origin_failed", "compressed").await;
    check("hops/3", 502, "media_origin_failed", "more than 3 times").await;
    check("to/file:///etc/passwd", 502, "media_origin_failed", "cannot be fetched").await;
    check("says-huge", 413, "too_large", "1048576 bytes").await;
    check("endless", 413, "too_large", "1048576 bytes").await;
    check("bomb", 413, "too_large", "60000x60000").await;
    check("page", 415, "unsupported_media_type", "not a picture").await;
    check("nothing", 415, "unsupported_media_type", "not a picture").await;
    check("silent", 504, "timeout", "did not answer within 1 s").await;
    check("stalled", 504, "timeout", "sent nothing more within 1 s").await;
    check("drip", 504, "timeout", "did not send the medium within 2 s").await;
    for path in ["broken", "says-less"] {
        let seen = ask(&server, &[format!("{}/{path}", origin.url)]).await;
        assert_eq!(seen.status, 400, "{path}: {seen:?}");
        assert!(seen.words().contains("broken or cut off"), "{path}: {seen:?}");
    }
    let good = format!("{}/two-shapes.png", origin.url);
    let second = ask(&server, &[good.clone(), format!("{}/absent", origin.url)]).await;
    assert_eq!(second.body["error"]["param"], "messages[0].content[1].image_url");
    assert_eq!(ask(&server, &[good]).await.words(), TWO, "the worker serves on");
    server.wait_until_idle(Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_inside_are_refused_unless_allowed() {
    let allowed = Origin::start("127.0.0.1").await;
    let inside = Origin::start("127.0.0.2").await;
    let port = inside.url.rsplit(':').next().unwrap();
    let server = TestServer::start("agg", &FLAGS).await;
    let check = async |address: String| {
        check_refused(&server, address, 403, "forbidden", "not fetched from this address").await;
    };
    for host in ["127.0.0.2", "[::1]", "[::ffff:127.0.0.2]", "[::ffff:7f00:2]", "2130706434", "0"] {
        check(format!("http://{host}:{port}/two-shapes.png")).await;
    }
    for host in ["169.254.169.254", "10.0.0.1", "192.168.1.1", "100.64.0.1", "224.0.0.1"] {
        check(format!("http://{host}/latest/meta-data/")).await;
    }
    for host in ["[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fd00:ec2::254]", "[fe80::1]"] {
        check(format!("http://{host}/")).await;
    }
    check(format!("{}/to/{}/two-shapes.png", allowed.url, inside.url)).await;
    check(format!("{}/to/http://169.254.169.254/", allowed.url)).await;
    assert_eq!(inside.n_asked(), 0, "nobody has even connected");
    let credentials = format!("http://me:word@{}/", &allowed.url["http://".len()..]);
    let refused = ask(&server, &[credentials]).await;
    assert_eq!(refused.status, 400, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_may_be_listed() {
    let origin = Origin::start("127.0.0.1").await;
    let port = origin.url.rsplit(':').next().unwrap();
    let listed = ["--allowed-media-domains", "localhost"];
    let flags = [&FLAGS[..4], &listed].concat();
    let server = TestServer::start("agg", &flags).await;
    let seen = ask(&server, &[format!("http://localhost:{port}/two-shapes.png")]).await;
    assert_eq!((seen.status, seen.words()), (200, TWO));
    let words = "not fetched from this address";
    for address in [
        format!("http://127.0.0.1:{port}/two-shapes.png"),
        format!("http://localhost:{port}/to/http://127.0.0.1:{port}/two-shapes.png"),
        "http://localhost.evil.example/".to_owned(),
    ] {
        check_refused(&server, address, 403, "forbidden", words).await;
    }
}

/// 16 media that could each be as large as a quarter of the memory do not fill it before they are.
#[tokio::test(flavor = "multi_thread")]
async fn many_small_pictures_fit_whatever_they_might_have_been() {
    let origin = Origin::start("127.0.0.1").await;
    let flags = [&FLAGS[..2], &["--media-memory-mb", "128", "--max-file-size-mb", "32"]].concat();
    let server = TestServer::start("agg", &flags).await;
    let url = format!("{}/two-shapes.png", origin.url);
    let seen = ask(&server, &vec![url; 16]).await;
    assert_eq!(seen.status, 200, "{seen:?}");
    assert_eq!(origin.n_asked(), 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_the_fetch_along() {
    let origin = Origin::start("127.0.0.1").await;
    for roles in TOPOLOGIES {
        let server = TestServer::start(roles, &FLAGS[..2]).await;
        let body = body(&[format!("{}/silent", origin.url)], json!({})).to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        let n_before = origin.n_asked_for("/silent");
        let mut socket = TcpStream::connect(server.served.address).await.unwrap();
        socket.write_all((head + &body).as_bytes()).await.unwrap();
        common::eventually("the origin is asked", Duration::from_secs(5), || {
            origin.n_asked_for("/silent") > n_before
        })
        .await;
        assert_eq!(origin.left.available_permits(), 0, "the fetch waits");
        drop(socket);
        let left = timeout(Duration::from_secs(1), origin.left.acquire()).await;
        left.expect("within a second").unwrap().forget();
        server.wait_until_idle(Duration::from_secs(1)).await;
    }
}

/// Answers that do not fit into the cache together: some are given up and begun again, and their
/// pictures are fetched again.
#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_changes_fails_its_request() {
    let origin = Origin::start("127.0.0.1").await;
    let small = r#"{"kv_cache_config": {"max_tokens": 512}}"#;
    let flags = [&FLAGS[..2], &["--override-engine-args", small]].concat();
    let server = TestServer::start("e,p,d", &flags).await;
    let paths = ["a", "b", "c", "d"].map(|name| format!("/changing/{name}"));
    let answers = paths.each_ref().map(|path| {
        let more = json!({"max_tokens": 400, "ignore_eos": true});
        ask_for(&server, body(&[format!("{}{path}", origin.url)], more))
    });
    for (seen, path) in futures::future::join_all(answers).await.into_iter().zip(paths) {
        match origin.n_asked_for(&path) {
            1 => assert_eq!(seen.status, 200, "{path}: {seen:?}"),
            _ => {
                assert_eq!(seen.status, 502, "{path}: {seen:?}");
                assert!(seen.words().contains("had changed meanwhile"), "{seen:?}");
                assert_eq!(seen.body["error"]["param"], "messages[0].content[0].image_url");
            }
        }
    }
    assert!(origin.n_asked() > 4, "one of them was begun again");
    server.wait_until_idle(Duration::from_secs(2)).await;
}
