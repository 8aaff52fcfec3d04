//! Bounds what one rendering goes through and makes. Fuel bounds the number of steps, but a step
//! may be as large as its operands: a text joined to itself forty times would fill any memory.
//!
//! So each operation whose cost grows with its operands has a filter of ours in its place, which
//! first charges the cost to the rendering's account.

use super::namespaces::{LIST, Namespaces};
use minijinja::machinery::{self, Instruction, Instructions, Token};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, Tuple, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Template, Value, context};
use std::collections::BTreeMap;
use std::iter::successors;
use std::sync::Arc;

/// Most that one rendering may go through: bytes of text, and what takes as long.
const COST_MAX: u64 = 64 << 20;

/// What a part of a list or map costs.
const PART_COST: u64 = 128;

/// What a byte costs of a text that is written as part of a list: in quotes, some with backslashes.
const QUOTED_COST: u64 = 8;

/// What a byte costs that is cut out of a text: all before it are counted as characters.
const SLICE_COST: u64 = 32;

/// Deepest nesting of lists and maps.
const DEPTH_MAX: usize = 64;

/// Most bytes of a template; those in use have some ten thousand.
const SOURCE_BYTES_MAX: usize = 256 << 10;

/// Most tokens between two braces: the compiler calls itself for each operation in a row.
const TAG_TOKENS_MAX: usize = 512;

/// Largest product of all numbers between two braces that multiply: the compiler works it out.
const TAG_PRODUCT_MAX: u64 = 10_000;

/// Looked up by name each time; the other numbers are places in a cache.
const NO_CACHE: u8 = u8::MAX;

/// What a value costs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cost {
    /// Its own length.
    Shallow,
    /// All of its parts, at any depth.
    Parts,
    /// All of its parts, and their texts.
    Deep,
}

/// What is left for the rest of a rendering.
struct Account {
    left: u64,
}

/// Takes `cost` from the rendering's account. Errors: there is less left.
pub(super) fn charge(state: &mut State, cost: u64) -> Result<(), Error> {
    let account = state.get_or_insert_extension(Account { left: COST_MAX });
    account.left = account.left.checked_sub(cost).ok_or(ErrorKind::OutOfFuel)?;
    Ok(())
}

/// Takes the cost of a value. Errors: there is less left, or it nests too deeply.
pub(super) fn charge_for(state: &mut State, value: &Value, cost: Cost) -> Result<(), Error> {
    let mut left = state.get_or_insert_extension(Account { left: COST_MAX }).left;
    match cost {
        Cost::Shallow => take(&mut left, length(value) as u64)?,
        Cost::Parts | Cost::Deep => take_all(&mut left, value, cost, 0)?,
    }
    state.get_or_insert_extension(Account { left }).left = left;
    Ok(())
}

/// Refuses a template that is too much for the compiler. Errors: it is, or is no template.
pub(super) fn check_source(source: &str, syntax: SyntaxConfig) -> Result<(), Error> {
    let refused = |why: &str| Err(Error::new(ErrorKind::SyntaxError, why.to_owned()));
    if source.len() > SOURCE_BYTES_MAX {
        return refused("it has more than 256 KiB");
    }
    let (mut n_tokens, mut multiplies, mut product) = (0, false, 1_u64);
    for token in machinery::tokenize(source, false, syntax) {
        match token?.0 {
            Token::VariableStart | Token::BlockStart => {
                (n_tokens, multiplies, product) = (0, false, 1)
            }
            Token::Mul | Token::Pow => multiplies = true,
            Token::Int(number) => product = product.saturating_mul(number.max(1)),
            Token::Int128(_) => product = u64::MAX,
            _ => {}
        }
        n_tokens += 1;
        if n_tokens > TAG_TOKENS_MAX {
            return refused("an expression has more than 512 parts");
        }
        if multiplies && product > TAG_PRODUCT_MAX {
            return refused("it multiplies by more than 10,000");
        }
    }
    Ok(())
}

/// Renders with every operation on the account. Errors: those of the template.
pub(super) fn render<'a>(
    environment: &'a Environment<'a>,
    template: &'a Template<'a, 'a>,
    mut variables: BTreeMap<String, Value>,
) -> Result<String, Error> {
    let namespaces = Arc::new(Namespaces::default());
    variables.insert(LIST.to_owned(), Value::from_dyn_object(Arc::clone(&namespaces)));
    let compiled = machinery::get_compiled_template(template);
    let main = metered(&compiled.instructions);
    let blocks: BTreeMap<_, _> =
        compiled.blocks.iter().map(|(name, block)| (*name, metered(block))).collect();
    let mut text = String::with_capacity(compiled.buffer_size_hint);
    let mut out = machinery::make_string_output(&mut text);
    let escape = compiled.initial_auto_escape.clone();
    let rendered = machinery::eval(environment, &main, variables.into(), &blocks, &mut out, escape);
    namespaces.let_go(environment);
    rendered.map(|_| text)
}

/// The filters that stand in for operations, and what is written out, on the account.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.set_formatter(|out, state, value| {
        charge_for(state, value, Cost::Deep)?;
        minijinja::escape_formatter(out, state, value)
    });
    environment.add_filter("meter.concat", concat);
    environment.add_filter("meter.add", add);
    environment.add_filter("meter.mul", mul);
    environment.add_filter("meter.slice", slice);
    environment.add_filter("meter.eq", |state: &mut State, left: Value, right: Value| {
        compare(state, &left, &right).map(|()| left == right)
    });
    environment.add_filter("meter.ne", |state: &mut State, left: Value, right: Value| {
        compare(state, &left, &right).map(|()| left != right)
    });
    environment.add_filter("meter.list", |state: &mut State, items: Rest<Value>| {
        nest(state, &items).map(|()| Value::from(items.0))
    });
    environment.add_filter("meter.tuple", |state: &mut State, items: Rest<Value>| {
        nest(state, &items).map(|()| Value::from(Tuple::from(items.0)))
    });
    environment.add_filter("meter.map", |state: &mut State, items: Rest<Value>| {
        nest(state, &items)?;
        let pairs = items.0.as_chunks::<2>().0.iter();
        Ok::<_, Error>(Value::from_pairs(pairs.map(|[name, value]| (name.clone(), value.clone()))))
    });
}

/// The same instructions with our filters where an operation's cost grows with its operands.
fn metered<'a>(instructions: &Instructions<'a>) -> Instructions<'a> {
    let mut copy = Instructions::new(instructions.name(), instructions.source());
    for idx in 0.. {
        let Some(instruction) = instructions.get(idx) else { break };
        let stand_in = stand_in(instruction).unwrap_or_else(|| instruction.clone());
        let line = instructions.get_line(idx).and_then(|line| line.try_into().ok());
        copy.add_with_line(stand_in, line.unwrap_or_default());
    }
    copy
}

fn stand_in<'a>(instruction: &Instruction<'a>) -> Option<Instruction<'a>> {
    let filter = |name, n: usize| {
        let n = u16::try_from(n).ok()?;
        Some(Instruction::ApplyFilter(name, Some(n), NO_CACHE))
    };
    match *instruction {
        Instruction::StringConcat => filter("meter.concat", 2),
        Instruction::Add => filter("meter.add", 2),
        Instruction::Mul => filter("meter.mul", 2),
        Instruction::Eq => filter("meter.eq", 2),
        Instruction::Ne => filter("meter.ne", 2),
        Instruction::Slice => filter("meter.slice", 4),
        Instruction::BuildList(Some(n)) => filter("meter.list", n),
        Instruction::BuildTuple(Some(n)) => filter("meter.tuple", n),
        Instruction::BuildMap(n_pairs) => filter("meter.map", 2 * n_pairs),
        _ => None,
    }
}

fn concat(state: &mut State, left: Value, right: Value) -> Result<String, Error> {
    charge_for(state, &left, Cost::Deep)?;
    charge_for(state, &right, Cost::Deep)?;
    Ok(format!("{left}{right}"))
}

fn add(state: &mut State, left: Value, right: Value) -> Result<Value, Error> {
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        charge(state, (left.len() + right.len()) as u64)?;
        return Ok([left, right].concat().into());
    }
    charge(state, room(&left).saturating_add(room(&right)))?;
    if left.kind() == ValueKind::Seq && right.kind() == ValueKind::Seq && !is_tuple(&left) {
        let items: Vec<Value> = left.try_iter()?.chain(right.try_iter()?).collect();
        return Ok(items.into());
    }
    plainly(state, "a + b", context! { a => left, b => right })
}

fn mul(state: &mut State, left: Value, right: Value) -> Result<Value, Error> {
    let times = |value: &Value| value.as_i64().map_or(1, |n| n.max(0) as u64);
    let cost = |of: &Value, n: u64| room(of).saturating_mul(n);
    charge(state, cost(&left, times(&right)).max(cost(&right, times(&left))))?;
    plainly(state, "a * b", context! { a => left, b => right })
}

fn slice(
    state: &mut State,
    value: Value,
    start: Value,
    stop: Value,
    step: Value,
) -> Result<Value, Error> {
    charge(state, (length(&value) as u64).saturating_mul(SLICE_COST))?;
    if let Some(step) = step.as_i64().filter(|step| *step < 0)
        && let Some(cut) = backward_slice(&value, [&start, &stop], step)?
    {
        return Ok(cut);
    }
    plainly(state, "a[b:c:d]", context! { a => value, b => start, c => stop, d => step })
}

/// A slice with a negative step, as Python cuts it; `None` of what is neither text nor list. The
/// library's own panics at empty texts, and takes a stop at 0 for none.
fn backward_slice(
    value: &Value,
    [start, stop]: [&Value; 2],
    step: i64,
) -> Result<Option<Value>, Error> {
    let bound = |at: &Value| match at.is_none() {
        true => Ok(None),
        false => i64::try_from(at.clone()).map(Some),
    };
    let (start, stop) = (bound(start)?, bound(stop)?);
    let places = |n: usize| backward_places(n as i64, start, stop, step);
    if let Some(text) = value.as_str() {
        let chars: Vec<char> = text.chars().collect();
        return Ok(Some(places(chars.len()).map(|at| chars[at]).collect::<String>().into()));
    }
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return Ok(None);
    }
    let items: Vec<Value> = value.try_iter()?.collect();
    let cut: Vec<Value> = places(items.len()).map(|at| items[at].clone()).collect();
    Ok(Some(if is_tuple(value) { Tuple::from(cut).into() } else { cut.into() }))
}

/// The places of a slice of `n` items; `step` is below 0.
fn backward_places(
    n: i64,
    start: Option<i64>,
    stop: Option<i64>,
    step: i64,
) -> impl Iterator<Item = usize> {
    // One before the first item is the end.
    let place = |at: i64| (if at < 0 { at.saturating_add(n) } else { at }).clamp(-1, n - 1);
    let end = stop.map_or(-1, place);
    let places = successors(Some(start.map_or(n - 1, place)), move |at| at.checked_add(step));
    places.take_while(move |at| *at > end).map(|at| at as usize)
}

/// The operation as it would be without an account.
fn plainly(state: &State, operation: &'static str, operands: Value) -> Result<Value, Error> {
    state.env().compile_expression(operation)?.eval(operands)
}

/// What it takes to compare: up to the end of the shorter text, or all of two lists.
fn compare(state: &mut State, left: &Value, right: &Value) -> Result<(), Error> {
    match (left.as_str(), right.as_str()) {
        (Some(left), Some(right)) => charge(state, left.len().min(right.len()) as u64),
        (None, None) => {
            charge_for(state, left, Cost::Deep)?;
            charge_for(state, right, Cost::Deep)
        }
        _ => Ok(()),
    }
}

/// What it takes to put values into a list.
fn nest(state: &mut State, items: &[Value]) -> Result<(), Error> {
    items.iter().try_for_each(|item| charge_for(state, item, Cost::Parts))
}

fn is_tuple(value: &Value) -> bool {
    value.downcast_object_ref::<Tuple>().is_some()
}

/// Bytes of a text, or parts of a list or map; any other value is one.
fn length(value: &Value) -> usize {
    value.as_str().map(str::len).or_else(|| value.len()).unwrap_or(1)
}

/// What a copy of a value costs.
fn room(value: &Value) -> u64 {
    let unit = if value.as_str().is_some() { 1 } else { PART_COST };
    (length(value) as u64).saturating_mul(unit)
}

fn take(left: &mut u64, cost: u64) -> Result<(), Error> {
    *left = left.checked_sub(cost).ok_or(ErrorKind::OutOfFuel)?;
    Ok(())
}

fn take_all(left: &mut u64, value: &Value, cost: Cost, depth: usize) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(Error::new(ErrorKind::InvalidOperation, "lists are nested too deeply"));
    }
    let of_text = || match (cost, depth) {
        (Cost::Deep, 0) => length(value) as u64,
        (Cost::Deep, _) => (length(value) as u64).saturating_mul(QUOTED_COST),
        (Cost::Shallow | Cost::Parts, _) => 0,
    };
    match value.kind() {
        ValueKind::String | ValueKind::Bytes => take(left, PART_COST + of_text()),
        ValueKind::Seq | ValueKind::Iterable => {
            take(left, PART_COST)?;
            value.try_iter()?.try_for_each(|item| take_all(left, &item, cost, depth + 1))
        }
        ValueKind::Map => {
            take(left, PART_COST)?;
            value.try_iter()?.try_for_each(|name| {
                take_all(left, &name, cost, depth + 1)?;
                take_all(left, &value.get_item(&name)?, cost, depth + 1)
            })
        }
        _ => take(left, PART_COST),
    }
}

#[cfg(test)]
mod tests {
    use super::super::environment;
    use super::*;

    #[test]
    fn slices_backwards_are_those_of_python() {
        let environment = environment::new();
        let check = |source: &str, expected: &str| {
            let template = environment.template_from_str(source).unwrap();
            let text = render(&environment, &template, BTreeMap::new());
            assert_eq!(text.unwrap_or_else(|error| error.to_string()), expected, "{source}");
        };
        check("{{ ''[::-2] }}|{{ [][::-1] }}", "|[]");
        check("{{ 'abcd'[::-1] }} {{ 'abcd'[::-2] }} {{ 'abcd'[2:0:-1] }}", "dcba db cb");
        check("{{ 'abcd'[:-2:-1] }} {{ 'abcd'[9:1:-1] }} {{ 'abcd'[-9::-1] }}", "d dc ");
        check("{{ [1, 2, 3][::-1] }} {{ [1, 2, 3][1:2:-1] }}", "[3, 2, 1] []");
        check("{{ 'ab'[::-9223372036854775807] }} {{ 'ab'[1:] }}", "b b");
    }
}
