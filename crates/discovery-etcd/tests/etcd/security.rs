//! Who may come in: users with passwords, and TLS both ways.

use crate::server::Etcd;
use crate::{instance, next_event};
use discovery_etcd::{EtcdConfig, Tls, connect};
use etcd_client::{Client, Permission};
use planes::MembershipEvent::{Joined, Left, Snapshot};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use types::{Error, ErrorKind};

/// Registers, sees it, withdraws, sees that.
async fn check_works(config: EtcdConfig) {
    let discovery = connect(config).await.unwrap();
    let mut watch = discovery.watch();
    assert_eq!(next_event(&mut watch).await, Snapshot(vec![]));
    let one = instance("one");
    let lease = discovery.register(one.clone()).await.unwrap();
    assert_eq!(next_event(&mut watch).await, Joined(one.clone()));
    drop(lease);
    assert_eq!(next_event(&mut watch).await, Left(one.id));
}

async fn refusal(config: EtcdConfig) -> Error {
    connect(config).await.err().expect("it is refused")
}

/// One user who may do everything, and one who may use the namespace `tests`.
async fn enable_users(client: &mut Client) -> Result<(), etcd_client::Error> {
    client.user_add("root", "sesame", None).await?;
    client.role_add("root").await?;
    client.user_grant_role("root", "root").await?;
    client.role_add("tests").await?;
    let permission = Permission::read_write("/triptych/v1/tests/").with_prefix();
    client.role_grant_permission("tests", permission).await?;
    client.user_add("worker", "poppy", None).await?;
    client.user_grant_role("worker", "tests").await?;
    client.auth_enable().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_a_password_may_come_in() {
    let Some(etcd) = Etcd::start().await else { return };
    enable_users(&mut etcd.client().await).await.unwrap();
    let as_user = |name: &str, password: &str| {
        let user = Some((name.into(), password.into()));
        EtcdConfig { user, ..etcd.config() }
    };
    check_works(as_user("worker", "poppy")).await;
    let elsewhere = EtcdConfig { namespace: "other".into(), ..as_user("worker", "poppy") };
    for config in [as_user("worker", "rose"), etcd.config(), elsewhere] {
        let begun = Instant::now();
        let failure = refusal(config.clone()).await;
        assert_eq!(failure.kind, ErrorKind::Forbidden, "{config:?}: {failure}");
        assert!(failure.message.contains(&config.endpoints[0]), "{failure}");
        assert!(!failure.message.contains("rose"), "{failure}");
        assert!(begun.elapsed() < config.start_deadline / 2, "{:?}", begun.elapsed());
    }
}

/// A certificate authority.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// PEM of a certificate and of its key.
    fn issue(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// What a client needs that this authority lets in.
    fn client(&self) -> Tls {
        let (certificate, key) = self.issue("worker");
        Tls {
            ca: Some(self.pem.clone().into()),
            identity: Some((certificate.into(), key.into())),
            domain: None,
        }
    }
}

/// Arguments for an etcd that shows a certificate for `name` and asks for one.
fn server_arguments(authority: &Authority, name: &str, folder: &Path) -> Vec<String> {
    let write = |file: &str, pem: &str| {
        let path = folder.join(file);
        fs::write(&path, pem).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (certificate, key) = authority.issue(name);
    vec![
        format!("--cert-file={}", write("server.pem", &certificate)),
        format!("--key-file={}", write("server.key", &key)),
        format!("--trusted-ca-file={}", write("ca.pem", &authority.pem)),
        "--client-cert-auth".into(),
    ]
}

/// Why a client with this TLS is not let in.
async fn refused(etcd: &Etcd, tls: Tls) -> String {
    let start_deadline = Duration::from_secs(1);
    let failure = refusal(EtcdConfig { tls: Some(tls), start_deadline, ..etcd.config() }).await;
    failure.message
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked_on_both_sides() {
    let authority = Authority::new("ours");
    let serve = |folder: &PathBuf| {
        (server_arguments(&authority, "127.0.0.1", folder), Some(authority.client()))
    };
    let Some(etcd) = Etcd::start_with(serve).await else { return };
    check_works(etcd.config()).await;
    let other = Authority::new("another");
    let known = authority.client();
    let wrong_ca = Tls { ca: other.client().ca, ..known.clone() };
    let reason = refused(&etcd, wrong_ca).await;
    assert!(reason.contains("UnknownIssuer") && reason.contains("https://127"), "{reason}");
    let wrong_name = Tls { domain: Some("elsewhere.example".into()), ..known.clone() };
    let reason = refused(&etcd, wrong_name).await;
    assert!(reason.contains("elsewhere.example"), "{reason}");
    refused(&etcd, Tls { ca: None, ..known.clone() }).await;
    refused(&etcd, Tls { identity: None, ..known.clone() }).await;
    refused(&etcd, Tls { identity: other.client().identity, ..known }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_may_have_another_name_than_the_endpoint() {
    let authority = Authority::new("ours");
    let serve = |folder: &PathBuf| {
        let tls = Tls { domain: Some("etcd.cluster".into()), ..authority.client() };
        (server_arguments(&authority, "etcd.cluster", folder), Some(tls))
    };
    let Some(etcd) = Etcd::start_with(serve).await else { return };
    check_works(etcd.config()).await;
}
