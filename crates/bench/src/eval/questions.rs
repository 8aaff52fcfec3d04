//! The kinds of questions that the demo model answers, how they are put, and the right answers.

use crate::pictures::digits::{N_DIGITS_MAX, Typefaces};
use crate::pictures::law::{self, Colour, N_SHAPES_MAX, Shape, ShapeKind};
use crate::pictures::render::{Content, Encoding, Picture};
use crate::rng::Rng;

/// Draws until a picture fits the question; more tries mean a broken law.
const N_DRAWS_MAX: usize = 1000;
/// The question is put in the first of its phrasings in this share of cases.
const FIRST_PHRASING_SHARE: f32 = 0.4;

/// A kind of question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// All shapes from left to right.
    Describe,
    /// How many shapes.
    Count,
    /// The colour of a shape that is the only one of its kind.
    Colour,
    /// Whether a certain shape is there.
    Exists,
    /// The first shape from the left.
    Leftmost,
    /// The first shape from the right.
    Rightmost,
    /// Which number is written.
    Number,
    /// Which of two pictures has more shapes.
    Compare,
    /// No picture, a greeting.
    Greeting,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Describe,
        Self::Count,
        Self::Colour,
        Self::Exists,
        Self::Leftmost,
        Self::Rightmost,
        Self::Number,
        Self::Compare,
        Self::Greeting,
    ];

    /// Its name in tables and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Describe => "describe",
            Self::Count => "count",
            Self::Colour => "colour",
            Self::Exists => "exists",
            Self::Leftmost => "leftmost",
            Self::Rightmost => "rightmost",
            Self::Number => "number",
            Self::Compare => "compare",
            Self::Greeting => "greeting",
        }
    }

    /// How it may be put; `{kind}`, `{colour}` and the colour's article `{a}` are filled in.
    pub fn phrasings(self) -> &'static [&'static str] {
        match self {
            Self::Describe => &[
                "What is in the picture?",
                "What do you see?",
                "Describe the picture.",
                "Which shapes are in the picture?",
            ],
            Self::Count => &[
                "How many shapes are there?",
                "How many shapes are in the picture?",
                "Count the shapes.",
            ],
            Self::Colour => &[
                "What colour is the {kind}?",
                "Which colour is the {kind}?",
                "What colour does the {kind} have?",
            ],
            Self::Exists => &[
                "Is there {a} {colour} {kind}?",
                "Is there {a} {colour} {kind} in the picture?",
                "Do you see {a} {colour} {kind}?",
            ],
            Self::Leftmost => &[
                "Which shape is furthest left?",
                "Which shape is furthest to the left?",
                "What is the leftmost shape?",
            ],
            Self::Rightmost => &[
                "Which shape is furthest right?",
                "Which shape is furthest to the right?",
                "What is the rightmost shape?",
            ],
            Self::Number => &[
                "What number is written?",
                "Which number is in the picture?",
                "What number do you see?",
            ],
            Self::Compare => &[
                "Which picture has more shapes?",
                "Which picture shows more shapes?",
                "In which picture are there more shapes?",
            ],
            Self::Greeting => &["Hello!", "Hi", "Good morning!", "What can you do?"],
        }
    }
}

/// What counts as right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// This text, spaces around it aside.
    Text(String),
    /// A sentence with all these words.
    Words(&'static [&'static str]),
}

impl Expected {
    /// Whether `answer` is right.
    pub fn is_met_by(&self, answer: &str) -> bool {
        match self {
            Self::Text(text) => answer.trim() == text,
            Self::Words(words) => words.iter().all(|word| answer.contains(word)),
        }
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Words(words) => write!(f, "a sentence with: {}", words.join(", ")),
        }
    }
}

/// One question with its pictures.
#[derive(Debug, Clone)]
pub struct Question {
    /// What is asked.
    pub kind: Kind,
    /// In these words.
    pub text: String,
    /// About these pictures.
    pub pictures: Vec<Picture>,
    /// What counts as right.
    pub expected: Expected,
}

/// Question number `idx` of a kind; depends on nothing but its arguments.
pub fn question(kind: Kind, seed: u64, idx: usize, typefaces: &Typefaces) -> Question {
    let rng = &mut Rng::of(seed, kind.name(), idx as u64);
    match kind {
        Kind::Number => number(rng, typefaces),
        Kind::Compare => compare(rng),
        Kind::Greeting => Question {
            kind,
            text: phrase(rng, kind),
            pictures: Vec::new(),
            expected: Expected::Words(&["picture", "shapes", "count", "number"]),
        },
        Kind::Describe
        | Kind::Count
        | Kind::Colour
        | Kind::Exists
        | Kind::Leftmost
        | Kind::Rightmost => about_shapes(rng, kind),
    }
}

/// "a red circle", "an orange star".
pub fn with_article(colour: Colour, kind: ShapeKind) -> String {
    format!("{} {} {}", article(colour), colour.name(), kind.name())
}

fn article(colour: Colour) -> &'static str {
    if colour == Colour::Orange { "an" } else { "a" }
}

fn phrase(rng: &mut Rng, kind: Kind) -> String {
    let phrasings = kind.phrasings();
    let first = rng.chance(FIRST_PHRASING_SHARE);
    if first { phrasings[0].into() } else { (*rng.pick(phrasings)).into() }
}

fn number(rng: &mut Rng, typefaces: &Typefaces) -> Question {
    let n_digits = rng.whole(1, N_DIGITS_MAX);
    let (picture, expected) = drawn(|| {
        let paper = law::paper(rng);
        let number = typefaces.number(rng, &paper, n_digits)?;
        let expected = Expected::Text(number.text.clone());
        Some((
            Picture { paper, content: Content::Number(number), encoding: encoding(rng) },
            expected,
        ))
    });
    let text = phrase(rng, Kind::Number);
    Question { kind: Kind::Number, text, pictures: vec![picture], expected }
}

fn compare(rng: &mut Rng) -> Question {
    let first = rng.whole(1, N_SHAPES_MAX as u32) as usize;
    let same = rng.chance(1.0 / 3.0);
    let second = if same { first } else { rng.whole(1, N_SHAPES_MAX as u32) as usize };
    let answer = match first.cmp(&second) {
        std::cmp::Ordering::Greater => "The first.",
        std::cmp::Ordering::Less => "The second.",
        std::cmp::Ordering::Equal => "Neither.",
    };
    Question {
        kind: Kind::Compare,
        text: phrase(rng, Kind::Compare),
        pictures: [first, second].map(|n_shapes| picture_of(rng, n_shapes).0).to_vec(),
        expected: Expected::Text(answer.into()),
    }
}

fn about_shapes(rng: &mut Rng, kind: Kind) -> Question {
    let ((picture, shapes), asked) = drawn(|| {
        let n_shapes = rng.whole(1, N_SHAPES_MAX as u32) as usize;
        let (picture, shapes) = picture_of(rng, n_shapes);
        let asked = asked_about(rng, kind, &shapes)?;
        Some(((picture, shapes), asked))
    });
    let text = phrase(rng, kind)
        .replace("{a}", article(asked.0))
        .replace("{colour}", asked.0.name())
        .replace("{kind}", asked.1.name());
    let expected = Expected::Text(right_answer(kind, &shapes, asked));
    Question { kind, text, pictures: vec![picture], expected }
}

/// The colour and kind that a question names; of a colour question only the kind is named, and a
/// picture without a kind that occurs once cannot be asked.
fn asked_about(rng: &mut Rng, kind: Kind, shapes: &[Shape]) -> Option<(Colour, ShapeKind)> {
    let look = |shape: &Shape| (shape.colour, shape.kind);
    if kind == Kind::Exists && rng.chance(0.5) {
        return absent(rng, shapes);
    }
    if kind == Kind::Colour {
        let is_only = |shape: &&Shape| shapes.iter().filter(|s| s.kind == shape.kind).count() == 1;
        let only: Vec<_> = shapes.iter().filter(is_only).map(look).collect();
        return (!only.is_empty()).then(|| *rng.pick(&only));
    }
    Some(look(rng.pick(shapes)))
}

/// A look that is not there; half of the time one that shares colour or kind with what is.
fn absent(rng: &mut Rng, shapes: &[Shape]) -> Option<(Colour, ShapeKind)> {
    let near = rng.pick(shapes);
    let (colour, kind) = (*rng.pick(&Colour::ALL), *rng.pick(&ShapeKind::ALL));
    let look = match rng.below(4) {
        0 => (near.colour, kind),
        1 => (colour, near.kind),
        _ => (colour, kind),
    };
    let is_there = shapes.iter().any(|shape| (shape.colour, shape.kind) == look);
    (!is_there).then_some(look)
}

fn right_answer(kind: Kind, shapes: &[Shape], asked: (Colour, ShapeKind)) -> String {
    let look = |shape: &Shape| with_article(shape.colour, shape.kind);
    match kind {
        Kind::Describe => {
            let looks: Vec<String> = shapes.iter().map(look).collect();
            format!("From left to right: {}.", looks.join(", "))
        }
        Kind::Count => shapes.len().to_string(),
        Kind::Colour => sentence(asked.0.name()),
        Kind::Exists => {
            let is_there = shapes.iter().any(|shape| (shape.colour, shape.kind) == asked);
            if is_there { "Yes.".into() } else { "No.".into() }
        }
        Kind::Leftmost => sentence(&look(&shapes[0])),
        Kind::Rightmost => sentence(&look(&shapes[shapes.len() - 1])),
        Kind::Number | Kind::Compare | Kind::Greeting => {
            unreachable!("not about one picture's shapes")
        }
    }
}

fn sentence(words: &str) -> String {
    let (first, rest) = words.split_at(1);
    format!("{}{rest}.", first.to_uppercase())
}

/// A picture of so many shapes, and the shapes.
pub fn picture_of(rng: &mut Rng, n_shapes: usize) -> (Picture, Vec<Shape>) {
    drawn(|| {
        let paper = law::paper(rng);
        let shapes = law::shapes(rng, &paper, n_shapes)?;
        let content = Content::Shapes(shapes.clone());
        Some((Picture { paper, content, encoding: encoding(rng) }, shapes))
    })
}

fn encoding(rng: &mut Rng) -> Encoding {
    if rng.chance(0.5) {
        return Encoding::Png;
    }
    Encoding::Jpeg { quality: rng.whole(75, 95) as u8, subsampled: rng.chance(0.5) }
}

/// Draws until something fits.
fn drawn<T>(mut draw: impl FnMut() -> Option<T>) -> T {
    (0..N_DRAWS_MAX).find_map(|_| draw()).expect("the law leaves room for every question")
}
