//! The rows: what strangers send, by what it has to do with.

use super::pictures::{self, GOOD, UNUSUAL, black_png, comment_bomb, golden, says, zip_bomb};
use super::row::{
    Expected, PICTURE, Refused, Row, about, broken, chat, data_url, invalid, no_picture, refused,
};
use serde_json::{Value, json};
use std::path::Path;

/// What the demo model holds, in tokens.
const N_CONTEXT: u32 = 2048;

/// Media that one request may carry.
const N_MEDIA_MAX: usize = 64;

/// Files that end too soon, and headers that say what is not so.
pub(crate) fn lying_pictures() -> Vec<Row> {
    let mut rows = Vec::new();
    for (format, path) in GOOD {
        let file = golden(path);
        let (width, height) = pictures::size(&file);
        let mut add = |what: &str, file: &[u8], expected| {
            rows.push(Row::picture(format!("{path}: {what}"), file, expected));
        };
        add("as it is", &file, Expected::Answer);
        add("half of it", &file[..file.len() / 2], broken(format));
        add("its beginning", &file[..file.len().min(16)], broken(format));
        add("says twice the height", &says(&file, width, height * 2), broken(format));
        add("says twice the width", &says(&file, width * 2, height), broken(format));
        // One less than nothing is a WebP's largest side.
        if path != "formats/webp_lossless.webp" {
            add("says no height", &says(&file, width, 0), no_height(format, width));
        }
        add("says a huge size", &says(&file, 16_000, 16_000), huge("16000x16000"));
        let other = golden(if format == "JPEG" { "formats/rgb.png" } else { "jpeg/420.jpg" });
        let other = [&file[..12], &other[12..]].concat();
        add("another's body", &other, broken(format));
    }
    rows
}

/// A JPEG without height says it later, as nobody does.
fn no_height(format: &str, width: u32) -> Expected {
    match format {
        "JPEG" => broken(format),
        _ => no_picture(invalid(&format!("the picture is empty ({width}x0)"))),
    }
}

fn huge(size: &str) -> Expected {
    let words = format!("the picture has {size} pixels, the limit is");
    no_picture(refused(413, "too_large", &words))
}

/// Pictures of odd kinds and sizes, and what is none.
pub(crate) fn odd_pictures() -> Vec<Row> {
    let good = golden("formats/rgb.png");
    let words = "not a picture in JPEG, PNG";
    let unsupported = || no_picture(refused(415, "unsupported_media_type", words));
    let long = || no_picture(invalid("aspect ratio must be smaller than 200"));
    let mut rows: Vec<Row> =
        UNUSUAL.iter().map(|path| Row::picture(*path, &golden(path), Expected::Answer)).collect();
    rows.extend([
        Row::picture("1x1", &black_png(1, 1), Expected::Answer),
        Row::picture("1x5000", &black_png(1, 5000), long()),
        Row::picture("5000x1", &black_png(5000, 1), long()),
        Row::picture("1x200", &black_png(1, 200), Expected::Answer),
        Row::picture("50,000x50,000", &says(&good, 50_000, 50_000), huge("50000x50000")),
        Row::picture(
            "most of all",
            &says(&good, u32::MAX, u32::MAX),
            huge("4294967295x4294967295"),
        ),
        Row::picture("one pixel unpacks to 8 MiB", &zip_bomb(8192), Expected::Answer),
        Row::picture("a comment of 8 MiB", &comment_bomb(&good, 8192), Expected::Answer),
        Row::picture("the largest there may be", &black_png(8192, 8192), Expected::Answer),
        Row::picture("one row more", &black_png(8192, 8193), huge("8192x8193")),
        Row::picture("too many bytes", &vec![0; (1 << 20) + 1], {
            let field = format!("{}.url", PICTURE);
            Expected::Refused(refused(413, "too_large", "1048576 are accepted").at(&field))
        }),
        Row::picture("nothing", b"", unsupported()),
        Row::picture("text", b"Hello, I am a picture.", unsupported()),
        Row::picture("a page", b"<!DOCTYPE html><html></html>", unsupported()),
        Row::picture("a drawing", b"<svg xmlns='http://www.w3.org/2000/svg'/>", unsupported()),
        Row::picture("TIFF", b"II*\0\x08\0\0\0\0\0\0\0", unsupported()),
        Row::picture("AVIF", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", unsupported()),
        Row::picture("a program", b"\x7fELF\x02\x01\x01\0", unsupported()),
        Row::picture("zeros", &[0; 4096], unsupported()),
    ]);
    rows
}

/// Addresses that are no pictures' at all.
pub(crate) fn wrong_addresses() -> Vec<Row> {
    let field = format!("{}.url", PICTURE);
    let value = |words: &str| refused(400, "invalid_value", words).at(&field);
    let row = |address: &str, how| Row::refused(address, about(address), how);
    let form = "address of another form";
    let tensors = || {
        let words = "Embeddings that were computed elsewhere are not accepted yet; send the image";
        refused(415, "unsupported_media_type", words).at(&field)
    };
    vec![
        row("", value(form)),
        row("a.png", value(form)),
        row("ftp://example.com/a.png", value(form)),
        row("gopher://example.com/a.png", value(form)),
        row("javascript:alert(1)", value(form)),
        row("https://", value(form)),
        row("//example.com/a.png", no_local_files().at(PICTURE)),
        row("data:image/png,abc", value("not base64")),
        row("data:image/png;base64", value("without a comma")),
        row("data:image/png;base64,%%%%", value("not base64")),
        row("data:image/png;base64,iVBORw0KGgo\u{e9}", value("not base64")),
        row("data:text/html;base64,AAAA", {
            refused(415, "unsupported_media_type", "of type 'text/html'").at(&field)
        }),
        row("/tmp/e.safetensors", tensors()),
        row("file:///tmp/e.pt", tensors()),
        row("https://example.com/e.pth?version=2", tensors()),
        row("file://elsewhere/tmp/a.png", value("file URL of another form")),
        row("file:///tmp/%zz", value("file URL of another form")),
        row("/tmp/a\0.png", value(form)),
        row(&format!("/{}", "a".repeat(9 << 10)), value("at most 8192 bytes")),
        row(&format!("https://example.com/{}", "a".repeat(9 << 10)), value("at most 8192 bytes")),
    ]
}

fn no_local_files() -> Refused {
    refused(403, "forbidden", "the file does not exist or is not under the allowed folder")
}

/// Addresses inside, and redirects to them; `allowed` is an origin that may be asked, `inside` one
/// that may not.
pub(crate) fn inside_addresses(allowed: &str, inside: &str) -> Vec<Row> {
    let how = || refused(403, "forbidden", "media are not fetched from this address");
    let port = inside.rsplit(':').next().expect("a port");
    let hosts = ["127.0.0.2", "[::1]", "[::ffff:127.0.0.2]", "[::ffff:7f00:2]", "2130706434"];
    let more = ["0", "0.0.0.0", "0x7f000002", "017700000002", "127.0.2", "[::7f00:2]", "[::]"];
    let listening = hosts.iter().chain(&more).map(|host| format!("http://{host}:{port}/a.png"));
    let private = [
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[fc00::1]",
        "[ff02::1]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
    ];
    let private = private.iter().map(|host| format!("http://{host}/latest/meta-data/"));
    let to = |address: String| format!("{allowed}/to/{address}");
    let redirected = [
        to(format!("{inside}/two-shapes.png")),
        to("http://169.254.169.254/latest/meta-data/".to_owned()),
        to("http://[::ffff:127.0.0.2]/".to_owned()),
        to(to(format!("{inside}/two-shapes.png"))),
    ];
    let forbidden = listening.chain(private).chain(redirected);
    let mut rows: Vec<Row> = forbidden.map(|address| Row::at(address, how())).collect();
    let host = allowed.strip_prefix("http://").expect("http");
    let named = invalid("has a user name or a password in it");
    rows.push(Row::at(format!("http://me:secret@{host}/two-shapes.png"), named));
    rows
}

/// Origins that do what they should not.
pub(crate) fn bad_origins(origin: &str) -> Vec<Row> {
    let failed = |words: &str| refused(502, "media_origin_failed", words);
    let slow = |words: &str| refused(504, "timeout", words);
    let large = || refused(413, "too_large", "1048576 bytes");
    let row = |path: &str, how| Row::at(format!("{origin}/{path}"), how);
    vec![
        row("silent", slow("did not answer within 1 s")),
        row("stalled", slow("sent nothing more within 1 s")),
        row("drip", slow("did not send the medium within 2 s")),
        row("endless", large()),
        row("says-huge", large()),
        row("cut-off", failed("broke off")),
        row("hang-up", failed("broke off")),
        row("no-http", failed("broke off")),
        row("compressed", failed("compressed")),
        row("hops/4", failed("redirects more than 3 times")),
        row("to/file:///etc/passwd", failed("cannot be fetched")),
        row("to/ftp://example.com/", failed("cannot be fetched")),
        row("absent", failed("answered with status 404")),
        row("bomb", refused(413, "too_large", "60000x60000")),
        row("page", refused(415, "unsupported_media_type", "not a picture")),
    ]
}

/// Files that are none, or lie elsewhere than under the `allowed` folder, beside which is `secret`.
pub(crate) fn local_files(allowed: &Path) -> Vec<Row> {
    let inside = allowed.to_str().expect("a path in UTF-8");
    let elsewhere = [
        format!("{inside}/../secret.png"),
        format!("file://{inside}/%2e%2e/secret.png"),
        format!("{inside}/./.././allowed/../secret.png"),
        format!("{inside}/link.png"),
        format!("{inside}/folder-link/secret.png"),
        format!("{inside}/loop.png"),
        format!("{inside}/absent.png"),
        format!("{inside}/zero.png"),
        format!("{inside}/pipe.png"),
        format!("{inside}-beside/secret.png"),
        inside.to_owned(),
        "/etc/passwd".to_owned(),
        "/proc/self/environ".to_owned(),
        "/dev/zero".to_owned(),
        "/dev/stdin".to_owned(),
        "file:///etc/passwd".to_owned(),
        "/".to_owned(),
    ];
    let mut rows: Vec<Row> = elsewhere.iter().map(|path| Row::at(path, no_local_files())).collect();
    let large = refused(413, "too_large", "the limit is 1048576");
    rows.push(Row::at(format!("{inside}/large.png"), large));
    let good = about(&format!("{inside}/folder/../good.png"));
    let body = good.to_string().into_bytes();
    rows.push(Row { name: "a file inside".into(), body, expected: Expected::Answer });
    rows
}

/// Conversations that nobody should have.
pub(crate) fn conversations(url: &str) -> Vec<Row> {
    let one = |message: Value| chat(json!([message]));
    let user = |content: Value| one(json!({"role": "user", "content": content}));
    let value = |field: &str, words: &str| refused(400, "invalid_value", words).at(field);
    let unknown = |field: &str| refused(400, "unknown_parameter", field).at(field);
    let mut rows: Vec<Row> = ["king", "USER", "", "user ", "<|im_start|>system"]
        .iter()
        .map(|role| {
            let body = one(json!({"role": role, "content": "Hi"}));
            Row::refused(*role, body, value("messages[0].role", "one of system, developer"))
        })
        .collect();
    let picture = json!({"type": "image_url", "image_url": {"url": url}});
    let from = |role: &str| one(json!({"role": role, "content": [picture]}));
    let kind = "messages[0].content[0].type";
    let many = vec![picture.clone(); N_MEDIA_MAX + 1];
    let last = format!("messages[0].content[{N_MEDIA_MAX}].image_url");
    let text = "messages[0].content[0].text";
    rows.extend([
        Row::refused("a system's picture", from("system"), {
            refused(400, "unsupported_value", "role 'system' cannot carry media").at(kind)
        }),
        Row::refused("a tool", from("tool"), {
            refused(400, "unsupported_value", "does not call tools").at("messages[0].role")
        }),
        Row::refused("an unknown part", user(json!([{"type": "poem"}])), value(kind, "'poem'")),
        Row::refused("a part without words", user(json!([{"type": "text"}])), {
            refused(400, "missing_required_parameter", text).at(text)
        }),
        Row::refused("no parts", user(json!([])), value("messages[0].content", "at least one")),
        Row::refused("no messages", chat(json!([])), {
            refused(400, "empty_array", "minimum length 1").at("messages")
        }),
        Row::refused("too many pictures", user(Value::from(many)), {
            refused(400, "too_many_media", "at most 64 media").at(&last)
        }),
        Row::refused("an unknown field", with("temprature", json!(0)), unknown("temprature")),
        Row::refused("a long unknown field", with(&"x".repeat(1 << 20), json!(0)), {
            unknown(&"x".repeat(64))
        }),
        Row::refused("another model", with("model", json!("gpt-9")), {
            refused(404, "model_not_found", "'gpt-9' does not exist").at("model")
        }),
        Row::refused("a model elsewhere", with("model", json!("../../config")), {
            refused(404, "model_not_found", "does not exist").at("model")
        }),
    ]);
    rows
}

/// What does not fit.
pub(crate) fn too_long(url: &str) -> Vec<Row> {
    let beyond = |words: &str| refused(400, "context_length_exceeded", words).at("messages");
    let hello = |n: usize| chat(json!([{"role": "user", "content": "Hello ".repeat(n)}]));
    let context = format!("The model's context is {N_CONTEXT} tokens");
    let mut much = about(url);
    much["max_tokens"] = json!(N_CONTEXT - 20);
    vec![
        Row::refused("10 MB of words", hello((10 << 20) / 6), beyond(&context)),
        Row::refused(
            "10 MB without a space",
            chat(json!([{"role": "user", "content": "x".repeat(10 << 20)}])),
            beyond(&context),
        ),
        Row::refused("3,000 words", hello(3000), beyond(&context)),
        Row::refused("a long answer", with("max_tokens", json!(N_CONTEXT)), beyond(&context)),
        Row::refused("a very long answer", with("max_tokens", json!(u32::MAX)), beyond(&context)),
        // What a picture takes is known to workers only.
        Row::refused("a picture too many", much, beyond("tokens")),
    ]
}

/// Options that the model's template or processor does not have; `url` is a picture's.
pub(crate) fn options(url: &str) -> Vec<Row> {
    let processor = |options: Value, words: &str| {
        let mut body = about(url);
        body["mm_processor_kwargs"] = options.clone();
        Row::refused(format!("processor: {options}"), body, invalid(words).at(PICTURE))
    };
    let template = |name: &str| {
        let body = with("chat_template_kwargs", json!({name: 1}));
        let words = format!("'{name}' is no option of the chat template");
        Row::refused(format!("template: {name}"), body, invalid(&words).at("chat_template_kwargs"))
    };
    let between = "min_pixels 12544 and max_pixels 1 must rise";
    vec![
        processor(json!({"crop": true}), "unknown processor option crop"),
        processor(json!({"max_pixels": "many"}), "max_pixels must be a positive integer"),
        processor(json!({"max_pixels": 1e30}), "max_pixels must be a positive integer"),
        processor(json!({"max_pixels": 1}), between),
        processor(json!({"min_pixels": u64::MAX}), "must rise and be at most"),
        processor(json!({"min_pixels": 1_u64 << 40, "max_pixels": 1_u64 << 62}), "be at most"),
        template("messages"),
        template("tools"),
        template("add_generation_prompt"),
    ]
}

/// Numbers that are none, and values out of bounds.
pub(crate) fn numbers() -> Vec<Row> {
    let no_json = || refused(400, "invalid_json", "not valid JSON (line 1, column");
    let raw = |value: &str| {
        let body = r#"{"model": "shapes", "messages": [{"role": "user", "content": "Hi"}], "#;
        format!("{body}\"temperature\": {value}}}")
    };
    let mut rows: Vec<Row> =
        ["NaN", "Infinity", "-Infinity", "nan", "1e999", "-1e999", "0x1", "+1"]
            .iter()
            .map(|value| Row::refused(*value, raw(value), no_json()))
            .collect();
    let bounds: [(&str, Value, &'static str); 16] = [
        ("temperature", json!(1e300), "decimal_above_max_value"),
        ("temperature", json!(-1), "decimal_below_min_value"),
        ("top_p", json!(1.5), "decimal_above_max_value"),
        ("min_p", json!(-0.5), "decimal_below_min_value"),
        ("top_k", json!(-2), "integer_below_min_value"),
        ("top_k", json!(u64::MAX), "integer_above_max_value"),
        ("max_tokens", json!(0), "integer_below_min_value"),
        ("max_tokens", json!(-5), "integer_below_min_value"),
        ("n", json!(0), "integer_below_min_value"),
        ("n", json!(1_000_000), "integer_above_max_value"),
        ("seed", json!(u64::MAX), "integer_above_max_value"),
        ("repetition_penalty", json!(0), "decimal_below_min_value"),
        ("presence_penalty", json!(2.5), "decimal_above_max_value"),
        ("frequency_penalty", json!(-2.5), "decimal_below_min_value"),
        ("top_logprobs", json!(21), "integer_above_max_value"),
        ("logprobs", json!("NaN"), "invalid_type"),
    ];
    rows.extend(bounds.into_iter().map(|(field, value, code)| {
        let name = format!("{field}: {value}");
        Row::refused(name, with(field, value), refused(400, code, field).at(field))
    }));
    let token = refused(400, "decimal_above_max_value", "logit_bias.7").at("logit_bias.7");
    rows.push(Row::refused("a large bias", with("logit_bias", json!({"7": 1e30})), token));
    rows
}

/// Bodies that are no requests.
pub(crate) fn bodies() -> Vec<Row> {
    let no_json = || refused(400, "invalid_json", "not valid JSON (line");
    let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
    let nested = |n: usize| "{\"a\":".repeat(n) + "0" + &"}".repeat(n);
    let hi = r#""model": "shapes", "messages": [{"role": "user", "content": "Hi"}]"#;
    let inside =
        |field: &str, value: &str| format!("{{{hi}, \"max_tokens\": 1, {field}: {value}}}");
    let mut rows: Vec<Row> = [
        ("nothing", String::new()),
        ("half of it", format!("{{{hi}")),
        ("words", "Hello".to_owned()),
        ("a tail", format!("{{{hi}}} and more")),
        ("100,000 lists", deep(100_000)),
        ("100,000 objects", nested(100_000)),
        ("deep inside metadata", inside("\"metadata\"", &nested(10_000))),
        ("deep in the template's options", inside("\"chat_template_kwargs\"", &nested(10_000))),
        ("half a character", inside("\"user\"", r#""\ud800""#)),
    ]
    .into_iter()
    .map(|(name, body)| Row::refused(name, body, no_json()))
    .collect();
    let not_utf8 = [b"{\"model\": \"".as_slice(), &[0xFF, 0xFE], b"\"}"].concat();
    let expected = Expected::Refused(no_json());
    rows.push(Row { name: "no UTF-8".into(), body: not_utf8, expected });
    let no_object = |what: &str| refused(400, "invalid_type", what).at("");
    rows.extend([
        Row::refused("a list", "[]", no_object("must be an object, but it is an array")),
        Row::refused("a string", "\"Hi\"", no_object("must be an object, but it is a string")),
        Row::refused("null", "null", no_object("must be an object, but it is null")),
    ]);
    for field in ["\"metadata\"", "\"chat_template_kwargs\""] {
        let body = inside(field, &nested(100)).into_bytes();
        rows.push(Row { name: format!("100 in {field}"), body, expected: Expected::Answer });
    }
    rows
}

/// A valid request and one field more.
fn with(field: &str, value: Value) -> Value {
    let mut body = chat(json!([{"role": "user", "content": "Hi"}]));
    body[field] = value;
    body
}

/// A good picture in each format that is called by another's type.
pub(crate) fn mislabelled() -> Vec<Row> {
    let row = |(format, path): (&str, &str)| {
        let media_type = if format == "PNG" { "image/jpeg" } else { "image/png" };
        let body = about(&data_url(media_type, &golden(path))).to_string().into_bytes();
        Row { name: format!("{path} as {media_type}"), body, expected: Expected::Answer }
    };
    GOOD.into_iter().map(row).collect()
}
