//! From the address in a content part to where the bytes of a medium are.
//!
//! Nothing is fetched and no file is opened here: that is the encoding worker's, under its policy.

use super::error::ApiError;
use super::fields::{Parsed, shorten, wrong_value};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use types::media::{MediaKind, MediaSource};
use types::{Error, ErrorKind};

/// Longest address that is not a data URL.
const ADDRESS_BYTES_MAX: usize = 8 << 10;

const FORMS: &str = "an http(s) URL, a base64 data URL, or the path of a local file";

/// What the names of files of tensors end in; no picture is called so.
const TENSOR_FILES: [&str; 3] = [".safetensors", ".pt", ".pth"];

/// Clients pad base64 or do not; both are read.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads the address of a medium. `path` is the field it came from.
pub(crate) fn source(
    url: &str,
    kind: MediaKind,
    file_bytes_max: u64,
    path: &str,
) -> Parsed<MediaSource> {
    if let Some(rest) = strip_scheme(url, "data:") {
        return data_url(rest, kind, file_bytes_max, path);
    }
    if url.len() > ADDRESS_BYTES_MAX {
        let got = format!("an address of {} bytes", url.len());
        return Err(wrong_value(path, &got, &format!("at most {ADDRESS_BYTES_MAX} bytes")));
    }
    if names_tensors(url) {
        return Err(embeddings(kind, path));
    }
    if let Some(rest) = strip_scheme(url, "file://") {
        return file_url(rest, path);
    }
    let is_http = |scheme| strip_scheme(url, scheme).is_some_and(|rest| !rest.is_empty());
    if is_http("http://") || is_http("https://") {
        return Ok(MediaSource::Url(url.to_owned()));
    }
    if url.starts_with('/') && !url.contains('\0') {
        return Ok(MediaSource::Path(url.to_owned()));
    }
    Err(wrong_value(path, "an address of another form", FORMS))
}

/// Whether the address, without query and fragment, ends as the names of files of tensors do.
fn names_tensors(url: &str) -> bool {
    let name = url.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    TENSOR_FILES.iter().any(|ending| name.ends_with(ending))
}

fn embeddings(kind: MediaKind, path: &str) -> ApiError {
    let wanted = kind.name();
    let message = format!(
        "The address in '{path}' is of a file of tensors. Embeddings that were computed elsewhere \
         are not accepted yet; send the {wanted} itself."
    );
    Error::new(ErrorKind::UnsupportedMedia, message).at(path).into()
}

/// Decodes base64 after checking how much it would be.
pub(crate) fn base64(text: &str, file_bytes_max: u64, path: &str) -> Parsed<MediaSource> {
    let n_bytes = text.trim_end_matches('=').len() as u64 * 3 / 4;
    if n_bytes > file_bytes_max {
        let message = format!(
            "The medium in '{path}' has {n_bytes} bytes; at most {file_bytes_max} are accepted."
        );
        return Err(Error::new(ErrorKind::TooLarge, message).at(path).into());
    }
    let bytes = BASE64
        .decode(text)
        .map_err(|_| wrong_value(path, "text that is not base64", "standard base64"))?;
    Ok(MediaSource::Bytes(bytes.into()))
}

/// `[<type>/<subtype>][;<parameter>]*;base64,<data>`
fn data_url(rest: &str, kind: MediaKind, file_bytes_max: u64, path: &str) -> Parsed<MediaSource> {
    let expected = "data:<type>;base64,<data>";
    let (head, data) = rest
        .split_once(',')
        .ok_or_else(|| wrong_value(path, "a data URL without a comma", expected))?;
    let mut parameters = head.split(';');
    let media_type = parameters.next().unwrap_or_default();
    if !parameters.any(|parameter| parameter.trim().eq_ignore_ascii_case("base64")) {
        return Err(wrong_value(path, "a data URL that is not base64", expected));
    }
    if !is_of_kind(media_type, kind) {
        return Err(unsupported_type(media_type, kind, path));
    }
    base64(data, file_bytes_max, path)
}

/// The bytes decide in the end; an absent or opaque type leaves it to them.
fn is_of_kind(media_type: &str, kind: MediaKind) -> bool {
    let media_type = media_type.trim().to_ascii_lowercase();
    let family = media_type.split('/').next().unwrap_or_default();
    media_type.is_empty() || media_type == "application/octet-stream" || family == kind.name()
}

fn unsupported_type(media_type: &str, kind: MediaKind, path: &str) -> ApiError {
    let shown = shorten(media_type);
    let wanted = kind.name();
    let message =
        format!("The data URL in '{path}' is of type '{shown}', not of an {wanted} type.");
    Error::new(ErrorKind::UnsupportedMedia, message).at(path).into()
}

/// `[localhost]/path`, percent-encoded.
fn file_url(rest: &str, path: &str) -> Parsed<MediaSource> {
    let wrong = || wrong_value(path, "a file URL of another form", "file:///path");
    let local = rest.strip_prefix("localhost").unwrap_or(rest);
    let decoded = percent_decode(local).ok_or_else(wrong)?;
    match decoded.starts_with('/') && !decoded.contains('\0') {
        true => Ok(MediaSource::Path(decoded)),
        false => Err(wrong()),
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => hex_digit(rest.next()?)? << 4 | hex_digit(rest.next()?)?,
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// What follows `scheme`, whose case does not matter.
fn strip_scheme<'a>(url: &'a str, scheme: &str) -> Option<&'a str> {
    let head = url.get(..scheme.len())?;
    head.eq_ignore_ascii_case(scheme).then(|| &url[scheme.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 8;

    #[track_caller]
    fn check(url: &str, expected: Result<MediaSource, u16>) {
        let found = source(url, MediaKind::Image, MAX, "url").map_err(|e| e.status.as_u16());
        assert_eq!(found, expected, "{url}");
    }

    #[test]
    fn addresses() {
        let bytes = |bytes: &[u8]| Ok(MediaSource::Bytes(bytes.into()));
        check("data:image/png;base64,AAEC", bytes(&[0, 1, 2]));
        check("DATA:IMAGE/PNG;BASE64,AAE=", bytes(&[0, 1]));
        check("data:image/png;name=a;base64,AAE", bytes(&[0, 1]));
        check("data:;base64,AAEC", bytes(&[0, 1, 2]));
        check("data:image/png;base64,AAECAAECAAE=", bytes(&[0, 1, 2, 0, 1, 2, 0, 1]));
        check("data:image/png;base64,AAECAAECAAEC", Err(413));
        check("data:image/png;base64,!!!!", Err(400));
        check("data:image/png,raw", Err(400));
        check("data:image/png;base64", Err(400));
        check("data:text/html;base64,AAEC", Err(415));
        check("https://h/a.png", Ok(MediaSource::Url("https://h/a.png".into())));
        check("https://", Err(400));
        check("ftp://h/a.png", Err(400));
        check("a.png", Err(400));
        check("", Err(400));
        check("/tmp/a b.png", Ok(MediaSource::Path("/tmp/a b.png".into())));
        check("file:///tmp/a%20b.png", Ok(MediaSource::Path("/tmp/a b.png".into())));
        check("file://localhost/tmp/a.png", Ok(MediaSource::Path("/tmp/a.png".into())));
        check("file://elsewhere/tmp/a.png", Err(400));
        check("file:///tmp/%zz", Err(400));
        check("file:///tmp/%00", Err(400));
        check("/tmp/e.safetensors", Err(415));
        check("file:///tmp/e.PT", Err(415));
        check("https://h/e.pth?v=1#a", Err(415));
        check(
            "https://h/a.png?from=e.pt",
            Ok(MediaSource::Url("https://h/a.png?from=e.pt".into())),
        );
        check("/tmp/\0", Err(400));
        check(&format!("/{}", "a".repeat(ADDRESS_BYTES_MAX)), Err(400));
    }
}
