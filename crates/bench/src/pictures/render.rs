//! From numbers to an encoded picture: anti-aliased paths, then PNG or JPEG.

use super::digits::Number;
use super::law::{Paper, Rgb, Shape, ShapeKind};
use super::outline;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use tiny_skia::{Color, FillRule, Paint, Path, PathBuilder, Pixmap, Transform};

/// What is on a picture.
#[derive(Debug, Clone)]
pub enum Content {
    /// Shapes from left to right.
    Shapes(Vec<Shape>),
    /// A number.
    Number(Number),
}

/// How a picture's file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Lossless.
    Png,
    /// Lossy; colour at full or at half resolution.
    Jpeg {
        /// 1 to 100.
        quality: u8,
        /// Colour at half the resolution both ways.
        subsampled: bool,
    },
}

/// A picture before it is drawn.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Its size and background.
    pub paper: Paper,
    /// What is on it.
    pub content: Content,
    /// How its file is written.
    pub encoding: Encoding,
}

impl Encoding {
    /// The media type of its files.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg { .. } => "image/jpeg",
        }
    }

    /// The usual ending of its files' names.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg { .. } => "jpg",
        }
    }
}

impl Picture {
    /// The picture's file.
    ///
    /// # Panics
    /// When the paper is empty.
    pub fn file(&self) -> Vec<u8> {
        let pixels = self.pixels();
        match self.encoding {
            Encoding::Png => pixels.encode_png().expect("memory is the only limit"),
            Encoding::Jpeg { quality, subsampled } => jpeg(&pixels, quality, subsampled),
        }
    }

    /// The drawn pixels, without loss.
    pub fn pixels(&self) -> Pixmap {
        let Paper { width, height, background } = self.paper;
        let mut pixels = Pixmap::new(width, height).expect("paper has an extent");
        pixels.fill(colour(background));
        match &self.content {
            Content::Shapes(shapes) => {
                shapes.iter().for_each(|shape| fill(&mut pixels, &path_of(shape), shape.rgb));
            }
            Content::Number(number) => fill(&mut pixels, &number.glyphs, number.ink),
        }
        pixels
    }
}

fn colour([red, green, blue]: Rgb) -> Color {
    Color::from_rgba8(red, green, blue, 255)
}

fn fill(pixels: &mut Pixmap, path: &Path, rgb: Rgb) {
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color(colour(rgb));
    pixels.fill_path(path, &paint, FillRule::Winding, Transform::identity(), None);
}

fn path_of(shape: &Shape) -> Path {
    let [x, y] = shape.centre;
    match shape.kind {
        ShapeKind::Circle => PathBuilder::from_circle(x, y, shape.width / 2.0),
        ShapeKind::Square | ShapeKind::Triangle | ShapeKind::Star => {
            polygon(&outline::corners(shape))
        }
    }
    .expect("a shape has an extent")
}

fn polygon(corners: &[outline::Point]) -> Option<Path> {
    let mut path = PathBuilder::new();
    path.move_to(corners[0][0], corners[0][1]);
    corners[1..].iter().for_each(|[x, y]| path.line_to(*x, *y));
    path.close();
    path.finish()
}

fn jpeg(pixels: &Pixmap, quality: u8, subsampled: bool) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, quality);
    let sampling = if subsampled { SamplingFactor::F_2_2 } else { SamplingFactor::F_1_1 };
    encoder.set_sampling_factor(sampling);
    let (width, height) = (pixels.width() as u16, pixels.height() as u16);
    encoder
        .encode(pixels.data(), width, height, ColorType::Rgba)
        .expect("memory is the only limit");
    file
}
