//! Resizing of 8-bit RGB with the very bits of Pillow's `Image.resize`.
//!
//! Pillow resamples the columns first, rounds to 8 bits, then resamples the rows. Weights are
//! computed in f64 and rounded to 22 fractional bits, products are summed in i32. Since the sums
//! are exact integers, their order is free, and wide instructions give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod pass;
mod taps;

use crate::{Image, Size, Window};
use taps::{Filter, Taps};

/// Bicubic (a = -0.5), antialiased when shrinking: support 2 pixels times the ratio.
///
/// An empty `size` gives a picture without pixels.
pub fn bicubic(image: &Image, size: Size) -> Image {
    resample(image, size, Window::whole(size), &Filter::BICUBIC)
}

/// The part inside `window` of what [`bicubic`] gives, at the cost of that part alone.
///
/// The window lies inside `size`.
pub fn bicubic_window(image: &Image, size: Size, window: Window) -> Image {
    resample(image, size, window, &Filter::BICUBIC)
}

/// Bilinear, antialiased when shrinking: support 1 pixel times the ratio.
///
/// An empty `size` gives a picture without pixels.
pub fn bilinear(image: &Image, size: Size) -> Image {
    resample(image, size, Window::whole(size), &Filter::BILINEAR)
}

fn resample(image: &Image, size: Size, window: Window, filter: &Filter) -> Image {
    let Size { width, height } = window.size;
    let mut rgb = None;
    if size.width != image.width || width != size.width {
        let taps = Taps::new((image.width, size.width), window.columns(), filter);
        rgb = Some(pass::columns(&image.rgb, image.width as usize, &taps));
    }
    if size.height != image.height || height != size.height {
        let taps = Taps::new((image.height, size.height), window.rows(), filter);
        rgb = Some(pass::rows(rgb.as_ref().unwrap_or(&image.rgb), width as usize, &taps));
    }
    Image { width, height, rgb: rgb.unwrap_or_else(|| image.rgb.clone()) }
}
