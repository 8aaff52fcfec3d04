//! What all `preprocessor_config.json` say in the same words: how bytes become numbers.

use crate::files::unusable;
use serde::Deserialize;
use tensor::ops::Normalisation;
use types::Result;
use types::content::CanonicalHasher;

/// Pillow's number of bicubic resizing.
const BICUBIC: u32 = 3;

/// Fields of `preprocessor_config.json`; absent ones are CLIP's.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct PixelConfig {
    image_mean: [f32; 3],
    image_std: [f32; 3],
    rescale_factor: f64,
    do_resize: bool,
    do_rescale: bool,
    do_normalize: bool,
    resample: u32,
}

impl Default for PixelConfig {
    fn default() -> Self {
        Self {
            image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            image_std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
            rescale_factor: 1.0 / 255.0,
            do_resize: true,
            do_rescale: true,
            do_normalize: true,
            resample: BICUBIC,
        }
    }
}

impl PixelConfig {
    /// What is done with bytes after resizing.
    ///
    /// Errors: pictures are not resized, or otherwise than here.
    pub(crate) fn normalisation(&self) -> Result<Normalisation> {
        if !self.do_resize || self.resample != BICUBIC {
            let why = "only bicubic resizing is supported";
            return Err(unusable("preprocessor_config.json", why));
        }
        let (mean, std) = match self.do_normalize {
            true => (self.image_mean, self.image_std),
            false => ([0.0; 3], [1.0; 3]),
        };
        let rescale = if self.do_rescale { self.rescale_factor } else { 1.0 };
        Ok(Normalisation { rescale, mean, std })
    }
}

/// Adds a normalisation to an identity.
pub(crate) fn hash_normalisation(hasher: &mut CanonicalHasher, normalisation: &Normalisation) {
    hasher.number(normalisation.rescale.to_bits());
    for value in normalisation.mean.iter().chain(&normalisation.std) {
        hasher.number(u64::from(value.to_bits()));
    }
}
