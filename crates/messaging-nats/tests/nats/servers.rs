//! Servers that ask who comes, that encrypt, that are narrow, or that lack something.

use crate::support::{Folder, Server, call, next, serve};
use bytes::Bytes;
use messaging_nats::{NatsAuth, NatsConfig, NatsTls};
use std::path::PathBuf;
use std::time::Duration;
use types::ErrorKind;

const HERE: &str = "test.servers";

/// Connects, and makes a call and a large one from the connection to itself.
async fn check(config: NatsConfig) {
    let messaging = messaging_nats::connect(config).await.unwrap();
    let _served = serve(&messaging, HERE).await;
    assert_eq!(next(&mut call(&messaging, HERE, "here")).await, Ok(Bytes::from("here")));
    let large = Bytes::from("large".repeat(100_000));
    assert_eq!(next(&mut call(&messaging, HERE, large.clone())).await, Ok(large));
}

async fn refused(config: NatsConfig) -> types::Error {
    messaging_nats::connect(config).await.err().expect("this cannot work")
}

fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/nats/keys", name].iter().collect()
}

fn user_password(user: &str, password: &str) -> NatsAuth {
    NatsAuth::UserPassword { user: user.into(), password: password.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_a_password() {
    let server = Server::start(&["--user", "me", "--pass", "p@ss"]);
    check(NatsConfig { auth: user_password("me", "p@ss"), ..server.config() }).await;
    let url = format!("nats://me:p%40ss@127.0.0.1:{}", server.port);
    check(NatsConfig { servers: vec![url], ..server.config() }).await;
    for auth in [user_password("me", "wrong"), NatsAuth::None, NatsAuth::Token("p@ss".into())] {
        let refusal = refused(NatsConfig { auth, ..server.config() }).await;
        assert_eq!(refusal.kind, ErrorKind::Forbidden);
        assert_eq!(refusal.message, "the NATS server does not take these credentials");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_enough() {
    let server = Server::start(&["--auth", "s3cret"]);
    check(NatsConfig { auth: NatsAuth::Token("s3cret".into()), ..server.config() }).await;
    let url = format!("nats://s3cret@127.0.0.1:{}", server.port);
    check(NatsConfig { servers: vec![url], ..server.config() }).await;
    let refusal =
        refused(NatsConfig { auth: NatsAuth::Token("other".into()), ..server.config() }).await;
    assert_eq!(refusal.kind, ErrorKind::Forbidden);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_proves_who_one_is() {
    let server = Server::start(&["-c", fixture("nkey.conf").to_str().unwrap()]);
    let seed = std::fs::read_to_string(fixture("user.nkey")).unwrap().trim().to_owned();
    check(NatsConfig { auth: NatsAuth::NKey(seed), ..server.config() }).await;
    let refusal =
        refused(NatsConfig { auth: NatsAuth::NKey("no seed".into()), ..server.config() }).await;
    assert_eq!(refusal.kind, ErrorKind::Forbidden);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credentials_file_proves_who_one_is() {
    let server = Server::start(&["-c", fixture("operator.conf").to_str().unwrap()]);
    let file = |name| NatsAuth::CredentialsFile(fixture(name));
    check(NatsConfig { auth: file("user.creds"), ..server.config() }).await;
    assert_eq!(refused(server.config()).await.kind, ErrorKind::Forbidden);
    let missing = refused(NatsConfig { auth: file("nobody.creds"), ..server.config() }).await;
    assert_eq!(missing.kind, ErrorKind::InvalidInput);
    assert!(missing.message.starts_with("the NATS credentials file"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_may_be_encrypted() {
    let folder = Folder::new();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let certificate = folder.write("cert.pem", &made.cert.pem());
    let key = folder.write("key.pem", &made.signing_key.serialize_pem());
    let server = Server::start(&[
        "--tlsverify",
        "--tlscert",
        &certificate,
        "--tlskey",
        &key,
        "--tlscacert",
        &certificate,
    ]);
    let ca = Some(PathBuf::from(&certificate));
    let identity = Some((PathBuf::from(&certificate), PathBuf::from(&key)));
    let tls = |ca, identity| NatsConfig {
        tls: Some(NatsTls { ca, identity }),
        start_deadline: Duration::from_millis(300),
        ..server.config()
    };
    check(tls(ca.clone(), identity.clone())).await;
    // Not trusted, and not known.
    assert_eq!(refused(tls(None, identity)).await.kind, ErrorKind::Unavailable);
    assert_eq!(refused(tls(ca, None)).await.kind, ErrorKind::Unavailable);
    let missing = refused(tls(Some(folder.0.join("none.pem")), None)).await;
    assert_eq!(missing.kind, ErrorKind::InvalidInput);
    assert!(missing.message.starts_with("the NATS certificates file"), "{missing}");
}

/// A server with a line of configuration.
fn configured(folder: &Folder, line: &str) -> Server {
    Server::start(&["-c", &folder.write("nats.conf", line)])
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_through_narrow_servers() {
    let folder = Folder::new();
    for n_bytes in [4096, 10_000] {
        check(configured(&folder, &format!("max_payload: {n_bytes}")).config()).await;
    }
    let narrow = configured(&folder, "max_payload: 4000");
    let refusal = refused(narrow.config()).await;
    assert_eq!(refusal.kind, ErrorKind::Unavailable);
    let end = "takes messages of 4000 bytes (max_payload); 4096 are needed";
    assert!(refusal.message.ends_with(end), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lacks_something_is_told_of() {
    let folder = Folder::new();
    let headless = configured(&folder, "no_header_support: true");
    let refusal = refused(headless.config()).await;
    assert_eq!(refusal.kind, ErrorKind::Unavailable);
    assert!(refusal.message.contains("has no headers"), "{refusal}");
    let strict = r#"authorization { users: [ { user: me, password: me,
        permissions: { publish: "test.>", subscribe: "test.>" } } ] }"#;
    let server = configured(&folder, strict);
    let config = NatsConfig { auth: user_password("me", "me"), ..server.config() };
    let refusal = refused(config).await;
    assert_eq!(refusal.kind, ErrorKind::Unavailable);
    assert!(refusal.message.contains("_INBOX.triptych.>"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_says_what_is_there() {
    let server = Server::start(&[]);
    let said = messaging_nats::check(server.config()).await.unwrap();
    assert!(said.starts_with("NATS 2."), "{said}");
    assert!(said.contains("messages of up to 1024 KiB, round trip 0."), "{said}");
}
