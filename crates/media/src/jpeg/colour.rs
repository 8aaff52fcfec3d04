//! From a JPEG's components to RGB.

use super::frame::Frame;
use super::segments::marker;
use super::unsupported;
use super::upsample::Upsampler;
use crate::image::CHANNELS;
use crate::pixels;
use types::Result;

/// What the components mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    Grey,
    Rgb,
    YCbCr,
    Cmyk,
    Ycck,
}

/// What the file says of its colours before its first scan.
#[derive(Default)]
pub(super) struct Hints {
    has_jfif: bool,
    /// The transform that Adobe's marker names.
    adobe_transform: Option<u8>,
}

/// Fixed point of the conversion: 16 fractional bits.
const FRACTION_BITS: u32 = 16;
const HALF: i32 = 1 << (FRACTION_BITS - 1);

impl Hints {
    /// Notes what a segment says of colours.
    pub(super) fn read(&mut self, marker: u8, payload: &[u8]) {
        match marker {
            marker::APP0 if payload.starts_with(b"JFIF\0") => self.has_jfif = true,
            marker::APP14 if payload.starts_with(b"Adobe") => {
                self.adobe_transform = payload.get(11).copied();
            }
            _ => {}
        }
    }

    /// Decides as libjpeg does.
    pub(super) fn space(&self, frame: &Frame) -> Result<Space> {
        let ids: Vec<u8> = frame.components.iter().map(|component| component.id).collect();
        match (ids.len(), self.adobe_transform) {
            (1, _) => Ok(Space::Grey),
            (3, _) if self.has_jfif => Ok(Space::YCbCr),
            (3, Some(0)) => Ok(Space::Rgb),
            (3, None) if ids == *b"RGB" => Ok(Space::Rgb),
            (3, _) => Ok(Space::YCbCr),
            (4, None | Some(0)) => Ok(Space::Cmyk),
            (4, Some(_)) => Ok(Space::Ycck),
            _ => Err(unsupported("neither 1, 3 nor 4 components")),
        }
    }
}

/// Interpolates and converts all rows.
pub(super) fn to_rgb(frame: &Frame, space: Space) -> Vec<u8> {
    let mut rgb = vec![0; frame.size.n_bytes()];
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, it was just asked.
        unsafe { convert_avx2(frame, space, &mut rgb) };
        return rgb;
    }
    convert(frame, space, &mut rgb);
    rgb
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn convert_avx2(frame: &Frame, space: Space, rgb: &mut [u8]) {
    convert(frame, space, rgb);
}

#[inline(always)]
fn convert(frame: &Frame, space: Space, rgb: &mut [u8]) {
    let components = frame.components.iter();
    let mut parts: Vec<_> = components.map(|part| Upsampler::new(frame, part)).collect();
    let mut rows: Vec<_> = parts.iter().map(|part| vec![0; part.width()]).collect();
    let out_rows = rgb.chunks_exact_mut(frame.size.width as usize * CHANNELS);
    for (idx, out) in out_rows.enumerate() {
        for (part, row) in parts.iter_mut().zip(&mut rows) {
            part.row(idx, row);
        }
        convert_row(space, &rows, out);
    }
}

#[inline(always)]
fn convert_row(space: Space, rows: &[Vec<u8>], out: &mut [u8]) {
    let pixels = out.as_chunks_mut::<CHANNELS>().0;
    match (space, rows) {
        (Space::Grey, [grey]) => fill(pixels, |x| [grey[x]; CHANNELS]),
        (Space::Rgb, [r, g, b]) => fill(pixels, |x| [r[x], g[x], b[x]]),
        (Space::YCbCr, [y, cb, cr]) => ycbcr_row(y, cb, cr, pixels),
        // The values are stored inverted, whoever wrote them; so assumes Pillow.
        (Space::Cmyk, [c, m, y, k]) => {
            fill(pixels, |x| pixels::cmyk_to_rgb([c[x], m[x], y[x], k[x]].map(|byte| 255 - byte)));
        }
        (Space::Ycck, [y, cb, cr, k]) => fill(pixels, |x| {
            // The transform gives RGB, which is CMY inverted, and it is stored inverted.
            let [c, m, y] = ycbcr_to_rgb(y[x], cb[x], cr[x]);
            pixels::cmyk_to_rgb([c, m, y, 255 - k[x]])
        }),
        _ => {}
    }
}

#[inline(always)]
fn fill(pixels: &mut [[u8; CHANNELS]], colour: impl Fn(usize) -> [u8; CHANNELS]) {
    pixels.iter_mut().enumerate().for_each(|(x, pixel)| *pixel = colour(x));
}

#[inline(always)]
fn ycbcr_row(y: &[u8], cb: &[u8], cr: &[u8], pixels: &mut [[u8; CHANNELS]]) {
    let samples = y.iter().zip(cb).zip(cr);
    for (pixel, ((&y, &cb), &cr)) in pixels.iter_mut().zip(samples) {
        *pixel = ycbcr_to_rgb(y, cb, cr);
    }
}

#[inline(always)]
fn ycbcr_to_rgb(y: u8, cb: u8, cr: u8) -> [u8; CHANNELS] {
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let r = y + ((fixed(1.40200) * cr + HALF) >> FRACTION_BITS);
    let g = y + ((HALF - fixed(0.34414) * cb - fixed(0.71414) * cr) >> FRACTION_BITS);
    let b = y + ((fixed(1.77200) * cb + HALF) >> FRACTION_BITS);
    [r, g, b].map(|value| value.clamp(0, 255) as u8)
}

const fn fixed(value: f64) -> i32 {
    (value * (1 << FRACTION_BITS) as f64 + 0.5) as i32
}
