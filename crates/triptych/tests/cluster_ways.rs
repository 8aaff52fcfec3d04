//! By which way bytes and traces go between processes: the transport that was chosen, opened before
//! anybody asks; the largest picture there may be; a request's trace in every role's log.

mod common;

use common::cluster::{Cluster, Meeting, post_chat_as_part_of};
use common::crowd::Asker;
use common::fleet::{Fleet, Turn};
use common::process::{PATIENCE, becomes_true};
use common::questions::{about_padded, two_samples};
use common::servers::are_installed;
use std::time::Instant;

/// What `--max-file-size-mb` is where nobody says otherwise, in bytes.
const FILE_BYTES_MAX: usize = 50 << 20;

/// Ways that are opened, and stages that end, are said.
const LOG: &str = "info,worker=debug,planes=debug";

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

#[test]
fn bytes_go_the_way_that_was_chosen() {
    if !are_installed() {
        return;
    }
    let _turn = Turn::beside_others();
    let transports: &[_] = if transport_ucx::check().is_ok() { &["ucx", "tcp"] } else { &["tcp"] };
    for transport in transports {
        let Some(mut cluster) = Cluster::start(transport) else { return };
        cluster.place.log = Some(LOG);
        let mut fleet = Fleet::start_in(cluster, "epd", &[]);
        ways_are_open_before_anybody_asks(&fleet, transport);
        the_largest_picture_arrives(&fleet);
        a_trace_is_in_the_log_of_each_role(&fleet);
        if *transport == "ucx" {
            who_has_no_ucx_is_read_from_and_reads(&mut fleet);
        }
    }
}

/// Prefill has one to the encoder's memory, decode one to prefill's.
fn ways_are_open_before_anybody_asks(fleet: &Fleet, transport: &str) {
    for letter in ['p', 'd'] {
        let process = &fleet.look_at(letter).role.process;
        process.expect_line(&format!("is reached at {transport}://"));
        process.expect_line("connected to the memory of ");
    }
}

fn the_largest_picture_arrives(fleet: &Fleet) {
    let (asker, began) = (Asker::new(&fleet.url), Instant::now());
    let ask = |n_bytes| {
        let words = "What number is written?";
        asker.ask(&about_padded(words, "forty-two.png", "42", n_bytes))
    };
    assert_eq!(ask(FILE_BYTES_MAX).map(|answer| answer.text).unwrap(), "42");
    println!("a picture of {FILE_BYTES_MAX} bytes, answered after {:.2?}", began.elapsed());
    let refusal = ask(FILE_BYTES_MAX + 1).unwrap_err();
    assert_eq!(refusal.status, Some(413), "{refusal:?}");
    assert!(refusal.words.contains("\"too_large\""), "{refusal:?}");
}

fn a_trace_is_in_the_log_of_each_role(fleet: &Fleet) {
    let [shapes, _] = two_samples();
    let mut body = shapes.body.clone();
    body["stream"] = false.into();
    body.as_object_mut().unwrap().remove("stream_options");
    let parent = format!("00-{TRACE_ID}-b7ad6b7169203331-01");
    let (status, answer) = post_chat_as_part_of(&fleet.url, &body, Some(&parent));
    assert_eq!(status, 200, "{answer}");
    for (letter, stage) in [('e', "encode.run"), ('p', "prefill.run"), ('d', "decode.run")] {
        let log = &fleet.look_at(letter).role.process;
        let line = log.expect_line(&format!("{TRACE_ID}-"));
        assert!(line.contains("call{trace=00-"), "{line}");
        // The last of a stage's lines may come after the answer.
        log.expect_line(&format!(":{stage}: "));
    }
    // Prefill asked the encoder for the rows, as part of the same.
    let encoder = &fleet.look_at('e').role.process;
    let is_end = |line: &&str| line.contains(TRACE_ID) && line.contains("worker::handler: close");
    let n_calls = || encoder.log().lines().filter(is_end).count();
    assert!(becomes_true(PATIENCE, || n_calls() == 2), "{} calls: {}", n_calls(), encoder.log());
}

/// Prefill starts anew without UCX: it reads the encoder's memory over TCP and decode its own.
fn who_has_no_ucx_is_read_from_and_reads(fleet: &mut Fleet) {
    let without = Meeting { transport: "tcp", ..fleet.cluster.place.clone() };
    fleet.first('p').start_again(&without);
    let [encoder, prefill, decoder] = ['e', 'p', 'd'].map(|letter| fleet.look_at(letter));
    assert!(encoder.memory()[0].starts_with("ucx://"), "{:?}", encoder.memory());
    assert!(prefill.memory()[0].starts_with("tcp://"), "{:?}", prefill.memory());
    for reader in [prefill, decoder] {
        reader.role.process.expect_line("is reached at tcp://");
    }
    fleet.frontend.expect_health();
    let asker = Asker::new(&fleet.url);
    for question in two_samples() {
        let answer = asker.ask(&question).map(|answer| answer.text);
        assert_eq!(answer.ok(), question.expected);
    }
}
