//! Decoded pixels, and conversions of single ones to RGB, as Pillow makes them.

use crate::image::CHANNELS;

/// Pixels as a decoder leaves them.
pub(crate) struct Pixels {
    /// Colours `[height, width, 3]`.
    pub(crate) rgb: Vec<u8>,
    /// Opacity `[height, width]`, where the picture has any.
    pub(crate) alpha: Option<Vec<u8>>,
}

impl Pixels {
    /// Pixels without transparency.
    pub(crate) fn opaque(rgb: Vec<u8>) -> Self {
        Self { rgb, alpha: None }
    }

    /// Pixels of RGB and opacity, interleaved.
    pub(crate) fn from_rgba(rgba: &[u8]) -> Self {
        let pixels = rgba.as_chunks::<4>().0;
        let mut rgb = vec![0; pixels.len() * CHANNELS];
        for (to, &[r, g, b, _]) in rgb.as_chunks_mut::<CHANNELS>().0.iter_mut().zip(pixels) {
            *to = [r, g, b];
        }
        Self { rgb, alpha: Some(pixels.iter().map(|pixel| pixel[3]).collect()) }
    }

    /// Blends with white, and forgets the opacity.
    pub(crate) fn blend_onto_white(&mut self) {
        let Some(alpha) = self.alpha.take() else { return };
        for (pixel, alpha) in self.rgb.as_chunks_mut::<CHANNELS>().0.iter_mut().zip(alpha) {
            *pixel = pixel.map(|value| over_white(value.into(), alpha.into()) as u8);
        }
    }
}

/// A grey ramp: what indices mean where there is no palette.
pub(crate) fn grey_ramp() -> Vec<[u8; CHANNELS]> {
    (0..=255).map(|level| [level; CHANNELS]).collect()
}

/// A palette of 256 colours from the bytes that name its first ones; the rest are black.
pub(crate) fn palette(rgb: &[u8]) -> Vec<[u8; CHANNELS]> {
    let mut colours = rgb.as_chunks::<CHANNELS>().0.to_vec();
    colours.resize(256, [0; CHANNELS]);
    colours
}

/// CMYK (255 is full ink) to RGB.
#[inline(always)]
pub(crate) fn cmyk_to_rgb([c, m, y, k]: [u8; 4]) -> [u8; CHANNELS] {
    let light = 255 - u32::from(k);
    [c, m, y].map(|ink| (light.saturating_sub(times_over_255(ink.into(), light))) as u8)
}

/// One channel over a white ground: weights have 7 fractional bits.
fn over_white(value: u32, alpha: u32) -> u32 {
    const WEIGHT_BITS: u32 = 7;
    let sum = (value * alpha + 255 * (255 - alpha)) << WEIGHT_BITS;
    over_255(sum + (0x80 << WEIGHT_BITS)) >> WEIGHT_BITS
}

/// `a * b / 255`, rounded, for bytes.
fn times_over_255(a: u32, b: u32) -> u32 {
    over_255(a * b + 128)
}

/// `value / 255` in shifts; exact for what it is used for.
fn over_255(value: u32) -> u32 {
    ((value >> 8) + value) >> 8
}
