//! JSON as Python's `json.dumps` writes it, which is what templates' `tojson` means.

use super::meter::{Cost, charge_for};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// Deepest nesting.
const MAX_DEPTH: usize = 100;

/// Most bytes of one value: every line may be indented, and by any text.
const BYTES_MAX: usize = 64 << 20;

/// How to write.
struct Style {
    /// Spaces or whatever a level is indented by; `None` writes all on one line.
    indent: Option<String>,
    between_items: String,
    after_name: String,
    escapes_non_ascii: bool,
    sorts_names: bool,
}

/// The filter `tojson(indent=None, separators=None, sort_keys=False, ensure_ascii=False)`.
pub(super) fn tojson(state: &mut State, value: &Value, options: Kwargs) -> Result<String, Error> {
    charge_for(state, value, Cost::Deep)?;
    let style = Style::new(&options)?;
    options.assert_all_used()?;
    let mut out = String::new();
    style.write(&mut out, value, 0)?;
    Ok(out)
}

impl Style {
    fn new(options: &Kwargs) -> Result<Self, Error> {
        let indent: Option<Value> = options.get("indent")?;
        let indent = indent.filter(|indent| !indent.is_none()).map(|indent| {
            let n_spaces = i64::try_from(indent.clone()).map(|n| n.clamp(0, 64) as usize);
            n_spaces.map_or_else(|_| indent.to_string(), |n_spaces| " ".repeat(n_spaces))
        });
        let separators: Option<Vec<String>> = options.get("separators")?;
        // Python leaves no space at the end of a line.
        let item = if indent.is_some() { "," } else { ", " };
        let (between_items, after_name) = match separators.as_deref() {
            Some([item, name]) => (item.clone(), name.clone()),
            _ => (item.to_owned(), ": ".to_owned()),
        };
        Ok(Self {
            indent,
            between_items,
            after_name,
            escapes_non_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
            sorts_names: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        })
    }

    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::BadSerialization, "nested too deeply for JSON"));
        }
        if out.len() > BYTES_MAX {
            return Err(ErrorKind::OutOfFuel.into());
        }
        match value.kind() {
            ValueKind::Undefined => {
                return Err(Error::new(ErrorKind::UndefinedError, "JSON of nothing"));
            }
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.write_number(out, value),
            ValueKind::String => self.write_string(out, value.as_str().unwrap_or_default()),
            ValueKind::Map => self.write_map(out, value, depth)?,
            _ => self.write_list(out, &value.try_iter()?.collect::<Vec<_>>(), depth)?,
        }
        Ok(())
    }

    fn write_list(&self, out: &mut String, items: &[Value], depth: usize) -> Result<(), Error> {
        out.push('[');
        for (idx, item) in items.iter().enumerate() {
            self.start_item(out, idx, depth);
            self.write(out, item, depth + 1)?;
        }
        self.end_items(out, items.len(), depth);
        out.push(']');
        Ok(())
    }

    fn write_map(&self, out: &mut String, map: &Value, depth: usize) -> Result<(), Error> {
        let mut names: Vec<Value> = map.try_iter()?.collect();
        if self.sorts_names {
            names.sort_by_key(Value::to_string);
        }
        out.push('{');
        for (idx, name) in names.iter().enumerate() {
            self.start_item(out, idx, depth);
            self.write_string(out, &name.to_string());
            out.push_str(&self.after_name);
            self.write(out, &map.get_item(name)?, depth + 1)?;
        }
        self.end_items(out, names.len(), depth);
        out.push('}');
        Ok(())
    }

    fn start_item(&self, out: &mut String, idx: usize, depth: usize) {
        if idx > 0 {
            out.push_str(&self.between_items);
        }
        self.start_line(out, depth + 1);
    }

    fn end_items(&self, out: &mut String, n_items: usize, depth: usize) {
        if n_items > 0 {
            self.start_line(out, depth);
        }
    }

    fn start_line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    }

    fn write_number(&self, out: &mut String, value: &Value) {
        if value.is_integer() {
            out.push_str(&value.to_string());
        } else {
            out.push_str(&f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float));
        }
    }

    fn write_string(&self, out: &mut String, text: &str) {
        out.push('"');
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                control if control < ' ' => escape(out, control),
                other if self.escapes_non_ascii && !other.is_ascii() => escape(out, other),
                '\u{7f}' if self.escapes_non_ascii => out.push('\u{7f}'),
                other => out.push(other),
            }
        }
        out.push('"');
    }
}

fn escape(out: &mut String, character: char) {
    let mut units = [0; 2];
    for unit in character.encode_utf16(&mut units) {
        out.push_str(&format!("\\u{unit:04x}"));
    }
}

/// A float as Python's `repr`: the shortest digits, an exponent below 1e-4 and from 1e16.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let magnitude = value.abs();
    if value == 0.0 || (1e-4..1e16).contains(&magnitude) {
        return format!("{value:?}");
    }
    let written = format!("{value:e}");
    let (digits, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}
