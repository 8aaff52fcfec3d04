//! Numbers in typefaces that the demo model was not trained on, laid out as outlines.

use super::law::{GAP, Paper, Rgb};
use crate::rng::Rng;
use std::path::Path as FilePath;
use tiny_skia::{Path, PathBuilder, Rect, Transform};
use ttf_parser::{Face, OutlineBuilder};

/// A digit's height as a share of the picture's.
pub const HEIGHT_SHARE: (f32, f32) = (0.25, 0.65);
/// Most digits of a number.
pub const N_DIGITS_MAX: u32 = 3;
/// With fewer faces than this an evaluation of numbers says little.
const N_FACES_MIN: usize = 8;
/// Where Debian's packages put their fonts.
const FONTS_FOLDER: &str = "/usr/share/fonts";
/// Brightest channel of the ink.
const INK_MAX: u32 = 90;

/// Upright faces kept out of training: Debian package, file under [`FONTS_FOLDER`].
const FACES: &[(&str, &str)] = &[
    ("fonts-dejavu-core", "truetype/dejavu/DejaVuSans.ttf"),
    ("fonts-dejavu-core", "truetype/dejavu/DejaVuSans-Bold.ttf"),
    ("fonts-dejavu-core", "truetype/dejavu/DejaVuSerif.ttf"),
    ("fonts-dejavu-core", "truetype/dejavu/DejaVuSansMono.ttf"),
    ("fonts-liberation", "truetype/liberation/LiberationSans-Regular.ttf"),
    ("fonts-liberation", "truetype/liberation/LiberationSans-Bold.ttf"),
    ("fonts-liberation", "truetype/liberation/LiberationSerif-Regular.ttf"),
    ("fonts-liberation", "truetype/liberation/LiberationMono-Regular.ttf"),
    ("fonts-open-sans", "truetype/open-sans/OpenSans-Regular.ttf"),
    ("fonts-open-sans", "truetype/open-sans/OpenSans-Bold.ttf"),
    ("fonts-cantarell", "opentype/cantarell/Cantarell-Regular.otf"),
    ("fonts-crosextra-carlito", "truetype/crosextra/Carlito-Regular.ttf"),
    ("fonts-crosextra-caladea", "truetype/crosextra/Caladea-Regular.ttf"),
    ("fonts-crosextra-caladea", "truetype/crosextra/Caladea-Bold.ttf"),
    ("fonts-firacode", "truetype/firacode/FiraCode-Regular.ttf"),
    ("fonts-paratype", "truetype/paratype/PTF55F.ttf"),
    ("fonts-paratype", "truetype/paratype/PTS55F.ttf"),
    ("fonts-go", "fonts-go/Go-Regular.ttf"),
    ("fonts-ebgaramond", "opentype/ebgaramond/EBGaramond12-Regular.otf"),
];

/// A number on paper.
#[derive(Debug, Clone)]
pub struct Number {
    /// Its digits.
    pub text: String,
    /// Dark.
    pub ink: Rgb,
    /// Where the ink goes.
    pub glyphs: Path,
    /// File name of the typeface.
    pub face: String,
}

/// The typefaces found on this machine, as the bytes of their files.
#[derive(Debug, Clone)]
pub struct Typefaces(Vec<(String, Vec<u8>)>);

impl Typefaces {
    /// Reads every face of the list that is installed.
    ///
    /// Errors: too few are; the message says what to install.
    pub fn installed() -> Result<Self, String> {
        let read = |file: &str| Some((file.to_string(), std::fs::read(path_of(file)).ok()?));
        let faces: Vec<_> = FACES.iter().filter_map(|(_, file)| read(file)).collect();
        if faces.len() >= N_FACES_MIN {
            return Ok(Self(faces));
        }
        let found = faces.len();
        Err(format!(
            "only {found} of the typefaces for numbers are installed, at least {N_FACES_MIN} are \
             needed: apt-get install {}",
            missing_packages().join(" ")
        ))
    }

    /// A number of `n_digits` on `paper`, no leading zero; `None` when it does not fit.
    ///
    /// # Panics
    /// When a font file is broken.
    pub fn number(&self, rng: &mut Rng, paper: &Paper, n_digits: u32) -> Option<Number> {
        let (name, bytes) = rng.pick(&self.0);
        let face = Face::parse(bytes, 0).unwrap_or_else(|error| panic!("{name}: {error}"));
        let lowest = if n_digits == 1 { 0 } else { 10u32.pow(n_digits - 1) };
        let text = rng.whole(lowest, 10u32.pow(n_digits) - 1).to_string();
        let line = line_of(&face, &text)?;
        let height = paper.height as f32 * rng.between(HEIGHT_SHARE.0, HEIGHT_SHARE.1);
        let glyphs = placed(rng, line, height, paper)?;
        let ink = [0; 3].map(|_: u8| rng.whole(0, INK_MAX) as u8);
        Some(Number { text, ink, glyphs, face: name.clone() })
    }
}

/// The Debian packages of the list that are not installed, in order.
pub fn missing_packages() -> Vec<&'static str> {
    let missing = FACES.iter().filter(|(_, file)| !path_of(file).exists());
    let mut packages: Vec<_> = missing.map(|(package, _)| *package).collect();
    packages.dedup();
    packages
}

fn path_of(file: &str) -> std::path::PathBuf {
    FilePath::new(FONTS_FOLDER).join(file)
}

/// A line of text in font units, y downwards, from the origin.
fn line_of(face: &Face<'_>, text: &str) -> Option<Path> {
    let mut line = Line { path: PathBuilder::new(), pen: 0.0 };
    for digit in text.chars() {
        let glyph = face.glyph_index(digit)?;
        face.outline_glyph(glyph, &mut line)?;
        line.pen += f32::from(face.glyph_hor_advance(glyph)?);
    }
    line.path.finish()
}

/// Scales a line to `height` and puts it somewhere on the paper; `None` when it is too wide.
fn placed(rng: &mut Rng, line: Path, height: f32, paper: &Paper) -> Option<Path> {
    let ink = line.compute_tight_bounds()?;
    let scale = height / ink.height();
    let place = |rng: &mut Rng, side: u32, extent: f32| {
        let room = side as f32 - 2.0 * GAP - extent;
        (room >= 0.0).then(|| GAP + rng.between(0.0, room))
    };
    let left = place(rng, paper.width, ink.width() * scale)?;
    let top = place(rng, paper.height, height)?;
    line.transform(onto(ink, scale, left, top))
}

fn onto(ink: Rect, scale: f32, left: f32, top: f32) -> Transform {
    let (dx, dy) = (left - ink.left() * scale, top - ink.top() * scale);
    Transform::from_row(scale, 0.0, 0.0, scale, dx, dy)
}

/// Turns a face's outlines (y upwards) into one path, glyph after glyph.
struct Line {
    path: PathBuilder,
    pen: f32,
}

impl OutlineBuilder for Line {
    fn move_to(&mut self, x: f32, y: f32) {
        self.path.move_to(self.pen + x, -y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        self.path.line_to(self.pen + x, -y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        self.path.quad_to(self.pen + x1, -y1, self.pen + x, -y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        self.path.cubic_to(self.pen + x1, -y1, self.pen + x2, -y2, self.pen + x, -y);
    }

    fn close(&mut self) {
        self.path.close();
    }
}
