//! The library's filters and Python's methods, on the account of their rendering: what they go
//! through is charged before they do, and what they make beyond that as well.

use super::meter::{Cost, charge, charge_for};
use minijinja::filters;
use minijinja::value::{Kwargs, Rest};
use minijinja::{Environment, Error, State, Value};

/// Filters and methods that look at a list, not into it.
const SHALLOW: &[&str] = &[
    "length",
    "count",
    "first",
    "last",
    "default",
    "d",
    "items",
    "list",
    "reverse",
    "safe",
    "attr",
    "bool",
    "int",
    "float",
    "abs",
    "round",
    "map",
    "select",
    "reject",
    "selectattr",
    "rejectattr",
    "sum",
    "get",
    "keys",
    "values",
];

/// Those that make every byte anew, and so take longer than a copy, and how much longer.
const SLOW: &[&str] = &[
    "replace",
    "upper",
    "lower",
    "title",
    "capitalize",
    "format",
    "escape",
    "e",
    "pprint",
    "string",
    "indent",
];
const SLOW_COST: u64 = 8;

/// Puts the library's filters, each with its name, on the account.
macro_rules! put_on_account {
    ($environment:ident: $($name:literal $filter:ident,)*) => {
        $({
            let plain = Value::from_function(filters::$filter);
            let metered = move |state: &mut State, args: Rest<Value>, named: Kwargs| {
                let mut args = args.0;
                if named.args().next().is_some() {
                    args.push(named.into());
                }
                charge_call(state, $name, &args)?;
                plain.call(state, &args)
            };
            $environment.add_filter($name, metered);
        })*
    };
}

/// Replaces the library's own.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    put_on_account! { environment:
        "abs" abs, "attr" attr, "batch" batch, "bool" bool, "capitalize" capitalize, "chain" chain,
        "count" length, "d" default, "default" default, "dictsort" dictsort, "e" escape,
        "escape" escape, "first" first, "float" float, "format" format, "groupby" groupby,
        "indent" indent, "int" int, "items" items, "join" join, "last" last, "length" length,
        "lines" lines, "list" list, "lower" lower, "map" map, "max" max, "min" min,
        "pprint" pprint, "reject" reject, "rejectattr" rejectattr, "replace" replace,
        "reverse" reverse, "round" round, "safe" safe, "select" select, "selectattr" selectattr,
        "slice" slice, "sort" sort, "split" split, "string" string, "sum" sum, "title" title,
        "trim" trim, "unique" unique, "upper" upper, "zip" zip,
    }
}

/// Charges what a filter or a method of this name goes through and makes of `args`, the first of
/// which is what it is called on.
pub(super) fn charge_call(state: &mut State, name: &str, args: &[Value]) -> Result<(), Error> {
    let cost = if SHALLOW.contains(&name) { Cost::Shallow } else { Cost::Deep };
    args.iter().try_for_each(|arg| charge_for(state, arg, cost))?;
    let made = growth(name, args);
    if SLOW.contains(&name) {
        let n_bytes = args.iter().filter_map(Value::as_str).map(str::len).sum::<usize>() as u64;
        return charge(state, made.saturating_add(n_bytes).saturating_mul(SLOW_COST));
    }
    charge(state, made)
}

/// At most how many bytes, or parts, a call makes beyond those of its arguments.
fn growth(name: &str, args: &[Value]) -> u64 {
    let text = |idx: usize| args.get(idx).and_then(Value::as_str).unwrap_or_default();
    let number = |idx: usize| args.get(idx).and_then(Value::as_usize).unwrap_or(0) as u64;
    let n_items = |idx: usize| args.get(idx).and_then(Value::len).unwrap_or(0) as u64;
    match name {
        // An empty text is found at every character.
        "replace" => {
            let n_found = text(0).len() / text(1).len().max(1) + 1;
            (n_found as u64).saturating_mul(text(2).len() as u64)
        }
        // The filter and the method have list and text the other way round.
        "join" => {
            let by_filter = n_items(0).saturating_mul(text(1).len() as u64);
            by_filter.max(n_items(1).saturating_mul(text(0).len() as u64))
        }
        "indent" => (text(0).lines().count() as u64 + 1).saturating_mul(number(1)),
        "batch" | "slice" => number(1).saturating_add(n_items(0)),
        "ljust" | "rjust" | "center" | "zfill" | "expandtabs" => number(1).saturating_mul(8),
        _ => 0,
    }
}
