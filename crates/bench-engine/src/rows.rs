//! What is measured, by name.

use std::fmt;
use std::str::FromStr;
use types::{Error, Result};

/// Tokens of a prompt whose length no name says.
const PROMPT_LEN: usize = 128;
/// Answers between which steps of decode are counted: short prompts, and long ones.
const SPAN_SHORT: (u32, u32) = (17, 145);
const SPAN_LONG: (u32, u32) = (1, 65);
/// Tokens of an answer about a picture, where there is more than the first.
const ANSWER_LEN: u32 = 64;
/// Largest number in a name.
const NUMBER_MAX: usize = 1 << 20;

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// A step of `batch` sequences behind prompts of `context` tokens: the time of answers of `to`
    /// tokens less that of `from` tokens, a step; while the tower sees pictures, if there are any.
    Decode {
        /// Sequences.
        batch: usize,
        /// Tokens of each prompt.
        context: usize,
        /// Tokens of the shorter answers.
        from: u32,
        /// Tokens of the longer answers.
        to: u32,
        /// Width and height in pixels of pictures that the tower sees one after another meanwhile.
        beside: Option<u32>,
    },
    /// The first tokens of `batch` prompts of `len` tokens that come at once.
    Prefill {
        /// Prompts.
        batch: usize,
        /// Tokens of each.
        len: usize,
    },
    /// The first token about one picture, from its decoded pixels on.
    Image {
        /// Width and height in pixels.
        side: u32,
    },
    /// Requests a second, of `n` with a picture each that come at once.
    Images {
        /// Requests.
        n: usize,
        /// Width and height of each picture in pixels.
        side: u32,
        /// Tokens of each answer.
        n_tokens: u32,
    },
}

/// What a request of a row brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    /// Tokens of a prompt, those of its picture included.
    pub(crate) prompt_len: usize,
    /// Patches of its picture.
    pub(crate) n_patches: usize,
}

/// The rows that are measured unless others are named.
const ROWS: &[&str] = &[
    "decode-1",
    "decode-8",
    "decode-32",
    "decode-64",
    "decode-128",
    "decode-256",
    "decode-32x4096",
    "decode-64x4096",
    "decode-64+1008",
    "prefill-1x128",
    "prefill-1x1024",
    "prefill-1x2048",
    "prefill-1x8192",
    "prefill-16x2048",
    "image-336",
    "image-672",
    "image-1008",
    "images-64x336",
    "images-64x1008",
];

impl Row {
    /// The rows that `names` (groups and rows) mean; all of them where there are none.
    ///
    /// Errors: a name that means nothing.
    pub fn selected(names: &[String]) -> Result<Vec<Self>> {
        let all = || ROWS.iter().map(|name| name.parse::<Self>());
        if names.is_empty() {
            return all().collect();
        }
        let mut rows = Vec::new();
        for name in names {
            let group: Vec<Self> = all()
                .filter(|row| row.as_ref().is_ok_and(|row| row.group() == name))
                .collect::<Result<_>>()?;
            if group.is_empty() {
                rows.push(name.parse()?);
            }
            rows.extend(group);
        }
        Ok(rows)
    }

    /// What it has in common with others.
    pub fn group(&self) -> &'static str {
        match self {
            Self::Decode { .. } => "decode",
            Self::Prefill { .. } => "prefill",
            Self::Image { .. } => "image",
            Self::Images { .. } => "images",
        }
    }

    /// The unit of its figures.
    pub(crate) fn unit(&self) -> &'static str {
        match self {
            Self::Images { .. } => "req/s",
            Self::Decode { .. } | Self::Prefill { .. } | Self::Image { .. } => "ms",
        }
    }

    /// Sequences at a time.
    pub(crate) fn n_seqs(&self) -> usize {
        match *self {
            Self::Decode { batch, .. } | Self::Prefill { batch, .. } => batch,
            Self::Image { .. } => 1,
            Self::Images { n, .. } => n,
        }
    }

    /// Tokens of the longest answer.
    pub(crate) fn n_answer_tokens(&self) -> usize {
        match *self {
            Self::Decode { to, .. } => to as usize,
            Self::Prefill { .. } | Self::Image { .. } => 1,
            Self::Images { n_tokens, .. } => n_tokens as usize,
        }
    }

    /// Width and height of its pictures, or of those beside it.
    pub(crate) fn picture_side(&self) -> Option<u32> {
        match *self {
            Self::Decode { beside, .. } => beside,
            Self::Prefill { .. } => None,
            Self::Image { side } | Self::Images { side, .. } => Some(side),
        }
    }
}

impl FromStr for Row {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let parsed = name.split_once('-').and_then(|(group, sizes)| parse(group, sizes));
        parsed.ok_or_else(|| {
            let known = "decode-8, decode-64x4096, decode-64+1008, prefill-16x2048, image-336, \
                         images-64x336";
            Error::invalid(format!(
                "--rows {name}: expected decode, prefill, image, images, or a \
                                    row such as {known}"
            ))
        })
    }
}

fn parse(group: &str, sizes: &str) -> Option<Row> {
    let number = |text: &str| text.parse().ok().filter(|n| (1..=NUMBER_MAX).contains(n));
    let (sizes, beside) = match sizes.split_once('+') {
        Some((sizes, side)) if group == "decode" => (sizes, Some(number(side)? as u32)),
        _ => (sizes, None),
    };
    let sizes: Vec<usize> = sizes.split('x').map(number).collect::<Option<_>>()?;
    let decode = |batch, context, (from, to)| Row::Decode { batch, context, from, to, beside };
    match (group, sizes[..].iter().as_slice()) {
        ("decode", &[batch]) => Some(decode(batch, PROMPT_LEN, SPAN_SHORT)),
        ("decode", &[batch, context]) => Some(decode(batch, context, SPAN_LONG)),
        ("prefill", &[batch, len]) => Some(Row::Prefill { batch, len }),
        ("image", &[side]) => Some(Row::Image { side: side as u32 }),
        ("images", &[n, side]) => Some(Row::Images { n, side: side as u32, n_tokens: ANSWER_LEN }),
        _ => None,
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Decode { batch, context, from, to, beside } => {
                write!(f, "decode-{batch}")?;
                if (from, to) == SPAN_LONG {
                    write!(f, "x{context}")?;
                }
                beside.map_or(Ok(()), |side| write!(f, "+{side}"))
            }
            Self::Prefill { batch, len } => write!(f, "prefill-{batch}x{len}"),
            Self::Image { side } => write!(f, "image-{side}"),
            Self::Images { n, side, .. } => write!(f, "images-{n}x{side}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(selected: &[&str]) -> Vec<String> {
        let selected: Vec<String> = selected.iter().map(|name| (*name).to_owned()).collect();
        Row::selected(&selected).unwrap().iter().map(Row::to_string).collect()
    }

    #[test]
    fn rows_have_names_and_names_rows() {
        assert_eq!(names(&[]), ROWS);
        assert_eq!(names(&["image"]), ["image-336", "image-672", "image-1008"]);
        assert_eq!(names(&["decode"]).len(), 9);
        let thin =
            ["decode-2", "decode-3x70", "decode-4x70+56", "prefill-2x9", "image-56", "images-3x28"];
        assert_eq!(names(&thin), thin);
        assert_eq!(names(&["prefill-1x128", "images"]).len(), 3);
    }

    #[test]
    fn other_names_are_refused_in_words() {
        for name in [
            "",
            "decode-",
            "decode-0",
            "decode-1x2x3",
            "image-1x2",
            "image-1+2",
            "speed",
            "images-4",
        ] {
            let error = Row::selected(&[name.to_owned()]).unwrap_err();
            assert!(error.message.contains("decode-64x4096"), "{name}: {error}");
        }
    }
}
