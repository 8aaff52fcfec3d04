//! Pictures on a larger ground, and pictures cut into squares.

use crate::image::CHANNELS;
use crate::{Image, Size, Window};

/// The picture in the middle of a black ground of `size`, which is as large at least; of an odd
/// rest the larger part is right and below.
pub fn padded(image: &Image, size: Size) -> Image {
    let place = Window::centred(image.size(), size);
    let mut rgb = vec![0; size.n_bytes()];
    let (stride, row_len) = (size.width as usize * CHANNELS, image.width as usize * CHANNELS);
    let rows = rgb.chunks_exact_mut(stride.max(1)).skip(place.top as usize);
    for (to, from) in rows.zip(image.rgb.chunks_exact(row_len.max(1))) {
        to[place.left as usize * CHANNELS..][..row_len].copy_from_slice(from);
    }
    Image { width: size.width, height: size.height, rgb }
}

/// The pixels of the squares of `side` pixels that a picture consists of, row by row, one square
/// after the other: `[n, side, side, 3]`. What is left over right and below is dropped.
pub fn tiles(image: &Image, side: u32) -> Vec<u8> {
    let side = side as usize;
    let (n_high, n_wide) = (image.height as usize / side, image.width as usize / side);
    let stride = image.width as usize * CHANNELS;
    let mut rgb = Vec::with_capacity(n_high * n_wide * side * side * CHANNELS);
    for tile in 0..n_high * n_wide {
        let corner = tile / n_wide * side * stride + tile % n_wide * side * CHANNELS;
        for row in 0..side {
            rgb.extend_from_slice(&image.rgb[corner + row * stride..][..side * CHANNELS]);
        }
    }
    rgb
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pixels are numbered row by row.
    fn numbered(width: u32, height: u32) -> Image {
        let rgb = (0..width * height).flat_map(|idx| [idx as u8 + 1; 3]).collect();
        Image { width, height, rgb }
    }

    fn reds(rgb: &[u8]) -> Vec<u8> {
        rgb.iter().step_by(CHANNELS).copied().collect()
    }

    #[test]
    fn an_odd_rest_of_the_ground_is_right_and_below() {
        let ground = padded(&numbered(2, 1), Size::new(5, 4));
        let expected = [[0; 5], [0, 1, 2, 0, 0], [0; 5], [0; 5]].concat();
        assert_eq!((ground.size(), reds(&ground.rgb)), (Size::new(5, 4), expected));
        let same = numbered(3, 2);
        assert_eq!(padded(&same, same.size()), same);
    }

    #[test]
    fn tiles_come_row_by_row() {
        let cut = tiles(&numbered(4, 4), 2);
        let expected = [[1, 2, 5, 6], [3, 4, 7, 8], [9, 10, 13, 14], [11, 12, 15, 16]].concat();
        assert_eq!(reds(&cut), expected);
        assert_eq!(reds(&tiles(&numbered(3, 5), 2)), [1, 2, 4, 5, 7, 8, 10, 11]);
    }
}
