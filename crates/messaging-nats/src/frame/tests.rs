//! Frames come back as they were sent, and no bytes do harm.

use super::*;

/// Messages of random bytes, and mutations of good ones.
const N_RANDOM: usize = 200_000;

/// A small random source with a seed, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn frames() -> Vec<Frame> {
    let beginning = |n_body_bytes| Beginning { n_body_bytes, bytes: Bytes::from_static(b"body") };
    let answer = |answer| Frame::Answer { stream: 300, number: 7, answer };
    let mut frames = vec![
        Frame::Open {
            stream: 1,
            deadline_ms: 30_000,
            trace: "00-1-2-01".into(),
            body: beginning(4),
        },
        Frame::Open { stream: u64::MAX, deadline_ms: 0, trace: "".into(), body: beginning(500) },
        Frame::OpenMore { stream: 1, offset: 4, bytes: Bytes::from_static(b"more") },
        answer(Answer::Reply(beginning(4))),
        answer(Answer::More(Bytes::from_static(&[7; 5000]))),
        answer(Answer::End),
        answer(Answer::Failure(Error::invalid("wrong").at("messages[3]"))),
        Frame::Credit { stream: 5, n_read: 1 << 40 },
        Frame::Cancel { stream: 6 },
    ];
    frames.extend(
        ErrorKind::ALL.map(|kind| answer(Answer::Failure(Error::new(kind, "so \u{fc}ber")))),
    );
    for side in [Side::Caller, Side::Callee] {
        let entries = vec![(3, 0), (4, 9), (1 << 50, u64::MAX)];
        frames.push(Frame::Roll(Roll { side, first: 3, last: u64::MAX, entries }));
        frames.push(Frame::Roll(Roll { side, first: 0, last: 9, entries: vec![] }));
    }
    frames
}

fn message(frames: &[Frame]) -> BytesMut {
    let mut out = BytesMut::new();
    put_header(&mut out, 42);
    for frame in frames {
        let before = out.len();
        frame.put(&mut out);
        assert!(out.len() - before <= frame.n_bytes_max(), "{frame:?}");
    }
    out
}

/// All frames of a message, until its end or the first bytes that are none.
fn read_all(message: Bytes) -> Vec<Frame> {
    let mut reader = Reader::new(message);
    let mut frames = Vec::new();
    if read_header(&mut reader).is_some() {
        while let Some(frame) = Frame::read(&mut reader) {
            frames.push(frame);
        }
    }
    frames
}

#[test]
fn every_frame_comes_back() {
    assert_eq!(read_all(message(&frames()).freeze()), frames());
}

#[test]
fn another_version_is_not_read() {
    let mut other = message(&frames());
    other[0] += 1;
    assert!(read_all(other.freeze()).is_empty());
}

#[test]
fn a_message_may_be_cut_anywhere() {
    let all = frames();
    let whole = message(&all).freeze();
    for n_bytes in 0..whole.len() {
        let read = read_all(whole.slice(..n_bytes));
        assert_eq!(read, all[..read.len()]);
        assert!(read.len() < all.len());
    }
}

#[test]
fn no_bytes_do_harm() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let good = message(&frames());
    let mut n_read = 0;
    for _ in 0..N_RANDOM {
        let mut bytes = good.clone();
        bytes.truncate(random.below(good.len()) + 1);
        for _ in 0..random.below(8) {
            let idx = random.below(bytes.len());
            bytes[idx] = random.next() as u8;
        }
        bytes[0] = VERSION;
        n_read += read_all(bytes.freeze()).len();
        let noise: Vec<u8> = (0..random.below(64)).map(|_| random.next() as u8).collect();
        n_read += read_all([&good[..N_HEADER_BYTES], &noise[..]].concat().into()).len();
    }
    assert!(n_read > N_RANDOM, "mutations must reach the insides of messages, {n_read}");
}

#[test]
fn a_length_is_no_promise() {
    // A roll that claims to have as many entries as there are numbers.
    let mut out = message(&[]);
    put_tag(&mut out, TAG_ROLL_OF_CALLEE, &[0, u64::MAX, u64::MAX]);
    assert!(read_all(out.freeze()).is_empty());
    // A body larger than any that is allowed.
    let mut out = message(&[]);
    put_tag(&mut out, TAG_REPLY, &[1, 0, N_BODY_BYTES_MAX as u64 + 1, 0]);
    assert!(read_all(out.freeze()).is_empty());
}

#[test]
fn a_long_sentence_is_cut_between_characters() {
    let long = Error::invalid("\u{20ac}".repeat(N_SENTENCE_BYTES_MAX)).at("p".repeat(9999));
    let sent = Frame::Answer { stream: 0, number: 0, answer: Answer::Failure(long) };
    let Frame::Answer { answer: Answer::Failure(read), .. } =
        read_all(message(&[sent]).freeze()).remove(0)
    else {
        panic!("a failure was sent")
    };
    assert_eq!(read.message.len(), N_SENTENCE_BYTES_MAX / 3 * 3);
    assert_eq!(read.param.map(|param| param.len()), Some(N_PARAM_BYTES_MAX));
}

#[test]
fn a_roll_denies_what_it_covers_and_does_not_list() {
    let roll = Roll { side: Side::Callee, first: 10, last: 20, entries: vec![(12, 3), (14, 0)] };
    assert_eq!([12, 13, 14].map(|stream| roll.count(stream)), [Some(3), None, Some(0)]);
    let denied = [9, 10, 12, 13, 20, 21].map(|stream| roll.denies(stream));
    assert_eq!(denied, [false, true, false, true, true, false]);
}
