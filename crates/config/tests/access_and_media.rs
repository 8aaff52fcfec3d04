//! Who may ask, and from where media come: each flag, and what is refused in words.

mod common;

use common::{Files, refused, serve};
use config::{CorsOrigins, LogFormat};
use std::net::IpAddr;
use std::time::Duration;

#[test]
fn keys_are_lines_of_a_file() {
    let files = Files::new("keys");
    let file = files.write("keys", "# of the team\n\n sk-one \nsk-two\n#sk-three\n");
    let keys = serve(&["--api-key-file", &file]).unwrap().frontend.access.api_keys.unwrap();
    assert_eq!(keys.iter().map(|key| key.text()).collect::<Vec<_>>(), ["sk-one", "sk-two"]);
    assert!(!format!("{keys:?}").contains("sk-"), "keys are not shown");
    assert_eq!(serve(&[]).unwrap().frontend.access.api_keys, None);
    for (words, expected) in [
        ("", "the file is empty"),
        ("# nothing but this", "expected 1 to"),
        ("sk-one\nsk two", "line 2: expected a key of printable ASCII"),
    ] {
        let file = files.write("no-keys", words);
        refused(&["--api-key-file", &file], &[expected]);
    }
    refused(&["--api-key-file", "/nowhere"], &["--api-key-file /nowhere"]);
}

#[test]
fn a_certificate_needs_its_key() {
    let files = Files::new("pem");
    let file = files.write("pem", "pem");
    let both = ["--tls-cert-path", &file, "--tls-key-path", &file];
    let tls = serve(&both).unwrap().frontend.access.tls.unwrap();
    assert_eq!((tls.certificates.bytes(), tls.key.bytes()), (&b"pem"[..], &b"pem"[..]));
    refused(&both[..2], &["--tls-cert-path: it needs --tls-key-path"]);
    refused(&both[2..], &["--tls-key-path: it needs --tls-cert-path"]);
    refused(
        &["--tls-cert-path", "/nowhere", "--tls-key-path", "/nowhere"],
        &["--tls-cert-path /no"],
    );
}

#[test]
fn origins_of_pages() {
    let cors =
        |word: &str| serve(&["--cors-allowed-origins", word]).map(|cfg| cfg.frontend.access.cors);
    let these = |origins: &[&str]| {
        CorsOrigins::These(origins.iter().map(|&origin| origin.to_owned()).collect())
    };
    assert_eq!(cors("*"), Ok(CorsOrigins::All));
    assert_eq!(cors(""), Ok(these(&[])));
    assert_eq!(
        cors("https://A.example, http://localhost:3000"),
        Ok(these(&["https://a.example", "http://localhost:3000"]))
    );
    for word in ["a.example", "https://a.example/", "https://", "*,https://a.example", "*.a"] {
        refused(&["--cors-allowed-origins", word], &["--cors-allowed-origins"]);
    }
}

#[test]
fn where_media_come_from() {
    let cfg = serve(&[]).unwrap().worker.media;
    assert!(cfg.domains.is_empty() && cfg.networks.is_empty());
    assert_eq!(cfg.fetch_deadline, Duration::from_secs(60));
    let cfg = serve(&[
        "--allowed-media-domains",
        "A.example,*.b.example.,127.0.0.1,::1,[FD00:0::1],web-1,3com.9a",
        "--allowed-media-networks",
        "10.0.0.0/8, ::1,fd00::/8",
        "--media-read-timeout-s",
        "3",
    ]);
    let cfg = cfg.unwrap().worker.media;
    let expected =
        ["a.example", "*.b.example", "127.0.0.1", "[::1]", "[fd00::1]", "web-1", "3com.9a"];
    assert_eq!(cfg.domains, expected);
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(cfg.networks, [(ip("10.0.0.0"), 8), (ip("::1"), 128), (ip("fd00::"), 8)]);
    assert_eq!(cfg.read_deadline, Duration::from_secs(3));
    for word in ["https://a.example", "a.example/b", "*", "*.", "bücher.example", "a b", "a..b"] {
        refused(&["--allowed-media-domains", word], &["--allowed-media-domains"]);
    }
    // Hosts that are never what a URL names, and so would match nothing.
    for word in ["a.example:8080", "127.0.0.1:80", "[::1]:80", "127.1", "0x7f.1", "1.2.3.4.5"] {
        refused(&["--allowed-media-domains", word], &["without scheme, port and path"]);
    }
    refused(&["--allowed-media-domains", "*.0.0.1"], &["without scheme, port and path"]);
    refused(&["--allowed-media-domains", "::ffff:10.0.0.1"], &["without scheme, port and path"]);
    for word in ["10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "::/129", "localhost", "10.0.0.0/-1"] {
        refused(&["--allowed-media-networks", word], &["--allowed-media-networks"]);
    }
    refused(&["--media-connect-timeout-s", "0"], &["from 1 to 3600"]);
    refused(&["--media-fetch-timeout-s", "3601"], &["from 1 to 3600"]);
}

#[test]
fn logs_are_for_people_or_programs() {
    assert_eq!(serve(&[]).unwrap().process.log_format, LogFormat::Text);
    let json = serve(&["--log-format", "json"]).unwrap();
    assert_eq!(json.process.log_format, LogFormat::Json);
    refused(&["--log-format", "xml"], &["possible values: text, json"]);
}
