//! The pictures keep their law, seen in numbers and in pixels.

use bench::eval::questions::{Expected, Kind, Question, question};
use bench::pictures::digits::{HEIGHT_SHARE, Typefaces};
use bench::pictures::law::{
    ASPECT_MAX, CENTRES_APART_SHARE, N_SHAPES_MAX, Rgb, SIDE_MAX, SIDE_MIN, Shape, TURN_MAX,
    WIDTH_SHARE,
};
use bench::pictures::render::{Content, Encoding, Picture};

const N_SEEDS: usize = 150;

fn typefaces() -> Typefaces {
    Typefaces::installed().unwrap_or_else(|error| panic!("{error}"))
}

/// Questions of every kind.
fn questions() -> Vec<Question> {
    let typefaces = typefaces();
    let of_kind = |kind| (0..N_SEEDS).map(move |idx| (kind, idx));
    Kind::ALL
        .into_iter()
        .flat_map(of_kind)
        .map(|(kind, idx)| question(kind, 7, idx, &typefaces))
        .collect()
}

fn pictures() -> Vec<Picture> {
    questions().into_iter().flat_map(|question| question.pictures).collect()
}

fn shapes_of(picture: &Picture) -> &[Shape] {
    match &picture.content {
        Content::Shapes(shapes) => shapes,
        Content::Number(_) => &[],
    }
}

/// Whether each pixel differs clearly from the background.
fn ink(picture: &Picture) -> Vec<bool> {
    let [red, green, blue] = picture.paper.background;
    let is_ink = |pixel: &tiny_skia::PremultipliedColorU8| {
        let differs = |channel: u8, ground: u8| channel.abs_diff(ground) > 2;
        differs(pixel.red(), red) || differs(pixel.green(), green) || differs(pixel.blue(), blue)
    };
    picture.pixels().pixels().iter().map(is_ink).collect()
}

#[test]
fn paper_is_within_the_law() {
    for Picture { paper, .. } in pictures() {
        let (long, short) = (paper.width.max(paper.height), paper.width.min(paper.height));
        assert!(short >= SIDE_MIN && long <= SIDE_MAX && long <= ASPECT_MAX * short, "{paper:?}");
        assert!(paper.background.iter().all(|&channel| channel >= 200), "{paper:?}");
    }
}

#[test]
fn shapes_are_within_the_law() {
    for picture in pictures() {
        let shapes = shapes_of(&picture);
        let short = picture.paper.width.min(picture.paper.height) as f32;
        let sideways = picture.paper.width as f32 * CENTRES_APART_SHARE;
        assert!(shapes.len() <= N_SHAPES_MAX);
        assert!(shapes.windows(2).all(|pair| pair[1].centre[0] - pair[0].centre[0] >= sideways));
        for shape in shapes {
            let share = shape.width / short;
            assert!(share >= WIDTH_SHARE.0 && share <= WIDTH_SHARE.1, "{shape:?}");
            assert!(shape.turn.abs() <= TURN_MAX, "{shape:?}");
        }
    }
}

#[test]
fn shapes_do_not_touch_each_other_or_the_edge() {
    for picture in pictures() {
        let shapes = shapes_of(&picture).to_vec();
        let alone = |shape: &Shape| Picture {
            content: Content::Shapes(vec![shape.clone()]),
            ..picture.clone()
        };
        let layers: Vec<Vec<bool>> = shapes.iter().map(|shape| ink(&alone(shape))).collect();
        let (width, height) = (picture.paper.width as usize, picture.paper.height as usize);
        for (pixel, (x, y)) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).enumerate()
        {
            let n_here = layers.iter().filter(|layer| layer[pixel]).count();
            let is_edge = x == 0 || y == 0 || x + 1 == width || y + 1 == height;
            assert!(n_here <= usize::from(!is_edge), "{shapes:?} at {x}, {y}");
        }
    }
}

#[test]
fn shapes_have_their_width_and_their_colour() {
    for picture in pictures() {
        for shape in shapes_of(&picture) {
            let middle = [picture.paper.width, picture.paper.height].map(|side| side as f32 / 2.0);
            let upright = Shape { turn: 0.0, centre: middle, ..shape.clone() };
            let alone = Picture { content: Content::Shapes(vec![upright]), ..picture.clone() };
            let (left, right) = extent(&columns(&alone));
            let width = (right - left) as f32;
            assert!((width - shape.width).abs() <= 2.5, "{shape:?} is {width} wide");
            let pixels = picture.pixels();
            let middle = pixels.pixel(shape.centre[0] as u32, shape.centre[1] as u32);
            let seen: Option<Rgb> = middle.map(|pixel| [pixel.red(), pixel.green(), pixel.blue()]);
            assert_eq!(seen, Some(shape.rgb), "{shape:?}");
        }
    }
}

fn columns(picture: &Picture) -> Vec<bool> {
    let (ink, width) = (ink(picture), picture.paper.width as usize);
    (0..width).map(|x| ink.iter().skip(x).step_by(width).any(|&is_ink| is_ink)).collect()
}

fn rows(picture: &Picture) -> Vec<bool> {
    let width = picture.paper.width as usize;
    ink(picture).chunks(width).map(|row| row.contains(&true)).collect()
}

/// First true and one past the last.
fn extent(flags: &[bool]) -> (usize, usize) {
    let first = flags.iter().position(|&flag| flag).expect("something is drawn");
    let last = flags.iter().rposition(|&flag| flag).expect("something is drawn");
    (first, last + 1)
}

#[test]
fn numbers_are_tall_enough_and_inside() {
    for picture in pictures() {
        let Content::Number(number) = &picture.content else { continue };
        let (top, bottom) = extent(&rows(&picture));
        let (left, right) = extent(&columns(&picture));
        let height = picture.paper.height as usize;
        let share = (bottom - top) as f32 / height as f32;
        assert!(share > HEIGHT_SHARE.0 - 0.01 && share < HEIGHT_SHARE.1 + 0.02, "{number:?}");
        assert!(top > 0 && bottom < height && left > 0 && right < picture.paper.width as usize);
        assert!(number.text == "0" || !number.text.starts_with('0'));
        assert!(number.ink.iter().all(|&channel| channel <= 90));
    }
}

#[test]
fn questions_are_fresh_and_repeatable() {
    let typefaces = typefaces();
    let files = |seed, idx| -> Vec<Vec<u8>> {
        question(Kind::Number, seed, idx, &typefaces).pictures.iter().map(Picture::file).collect()
    };
    assert_eq!(files(1, 0), files(1, 0));
    assert_ne!(files(1, 0), files(1, 1));
    assert_ne!(files(1, 0), files(2, 0));
}

#[test]
fn every_answer_and_both_encodings_occur() {
    let questions = questions();
    let answers = |kind: Kind| -> Vec<&str> {
        let of_kind = questions.iter().filter(|question| question.kind == kind);
        let texts = of_kind.map(|question| match &question.expected {
            Expected::Text(text) => text.as_str(),
            Expected::Words(_) => "",
        });
        texts.collect()
    };
    let check = |kind: Kind, expected: &[&str]| {
        let answers = answers(kind);
        let n_expected = answers.iter().filter(|answer| expected.contains(answer)).count();
        assert!(expected.iter().all(|text| answers.contains(text)), "{}", kind.name());
        assert_eq!(n_expected, answers.len(), "{}", kind.name());
    };
    check(Kind::Count, &["1", "2", "3", "4"]);
    check(Kind::Exists, &["Yes.", "No."]);
    check(Kind::Compare, &["The first.", "The second.", "Neither."]);
    check(Kind::Colour, &["Red.", "Green.", "Blue.", "Yellow.", "Purple.", "Orange.", "Black."]);
    assert!(answers(Kind::Leftmost).contains(&"An orange star."));
    assert!(
        answers(Kind::Describe).iter().all(|answer| answer.starts_with("From left to right: a"))
    );
    let is_png =
        |question: &Question| question.pictures.iter().any(|p| p.encoding == Encoding::Png);
    let n_png = questions.iter().filter(|question| is_png(question)).count();
    assert!(n_png > questions.len() / 3 && n_png < questions.len() * 2 / 3);
}

#[test]
fn the_model_was_told_how_it_will_be_asked() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/shapes/questions.py");
    let trained = std::fs::read_to_string(path).expect("the training script is in the tree");
    for phrasing in Kind::ALL.into_iter().flat_map(|kind| kind.phrasings()) {
        assert!(trained.contains(&format!("\"{phrasing}\"")), "{phrasing}");
    }
}
