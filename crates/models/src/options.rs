//! What a request may override of a processor's configuration, as canonical JSON.

use serde_json::Value;
use types::{Error, Result};

/// Overrides for pictures; an absent one leaves the configuration as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ImageOptions {
    /// Fewest pixels after resizing.
    pub(crate) min_pixels: Option<u64>,
    /// Most pixels after resizing.
    pub(crate) max_pixels: Option<u64>,
    /// As few pixels as the model allows (`"detail": "low"`).
    pub(crate) is_low_detail: bool,
}

impl ImageOptions {
    /// Reads `options`, an object.
    ///
    /// Errors: not an object; an option that no model has or of another type, by name.
    pub(crate) fn parse(options: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(options)
            .map_err(|_| Error::invalid("the processor options are not JSON"))?;
        let object = value.as_object().ok_or_else(|| {
            Error::invalid("the processor options must be an object of names and values")
        })?;
        let mut parsed = Self::default();
        for (name, value) in object {
            parsed.set(name, value)?;
        }
        Ok(parsed)
    }

    /// The same, for a model whose pictures have one size.
    ///
    /// Errors: it says how many pixels there should be.
    pub(crate) fn refuse_pixel_limits(self) -> Result<Self> {
        if self.min_pixels.or(self.max_pixels).is_none() {
            return Ok(self);
        }
        let message = "min_pixels and max_pixels mean nothing to this model";
        Err(Error::invalid(message))
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<()> {
        match name {
            "min_pixels" => self.min_pixels = Some(count(name, value)?),
            "max_pixels" => self.max_pixels = Some(count(name, value)?),
            "detail" => self.is_low_detail = is_low(value)?,
            _ => {
                let message = format!(
                    "unknown processor option {name}; known are min_pixels, max_pixels, detail"
                );
                return Err(Error::invalid(message));
            }
        }
        Ok(())
    }
}

fn count(name: &str, value: &Value) -> Result<u64> {
    let count = value.as_u64().filter(|&count| count > 0);
    count.ok_or_else(|| {
        Error::invalid(format!("processor option {name} must be a positive integer"))
    })
}

fn is_low(value: &Value) -> Result<bool> {
    match value.as_str() {
        Some("low") => Ok(true),
        Some("high" | "auto" | "original") => Ok(false),
        _ => Err(Error::invalid("processor option detail must be low, high or auto")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: &str, expected: std::result::Result<ImageOptions, &str>) {
        match (ImageOptions::parse(options), expected) {
            (Ok(parsed), Ok(expected)) => assert_eq!(parsed, expected, "{options}"),
            (Err(error), Err(part)) => assert!(error.message.contains(part), "{options}: {error}"),
            (parsed, _) => panic!("{options}: {parsed:?}"),
        }
    }

    #[test]
    fn known_options_are_read_and_others_named() {
        let none = ImageOptions::default();
        check("{}", Ok(none));
        check(r#"{"min_pixels": 10}"#, Ok(ImageOptions { min_pixels: Some(10), ..none }));
        check(r#"{"max_pixels": 10}"#, Ok(ImageOptions { max_pixels: Some(10), ..none }));
        check(r#"{"detail": "low"}"#, Ok(ImageOptions { is_low_detail: true, ..none }));
        check(r#"{"detail": "high"}"#, Ok(none));
        check(r#"{"detail": "tiny"}"#, Err("detail"));
        check(r#"{"crop": true}"#, Err("crop"));
        check(r#"{"max_pixels": -1}"#, Err("max_pixels"));
        check(r#"{"max_pixels": "many"}"#, Err("max_pixels"));
        check("[]", Err("object"));
        check("nonsense", Err("JSON"));
    }
}
