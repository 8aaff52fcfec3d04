//! Lets go of a rendering's namespaces. They are the only values of Jinja that change, so they
//! alone can come to hold themselves, and then nothing would ever free them.

use minijinja::value::{Kwargs, Object, Rest, ValueKind};
use minijinja::{Environment, Error, State, Value, context, functions};
use std::sync::{Mutex, PoisonError};

/// Where a rendering finds its list; no template can write this name.
pub(super) const LIST: &str = "meter.namespaces";

/// The namespaces that a rendering made.
#[derive(Debug, Default)]
pub(super) struct Namespaces(Mutex<Vec<Value>>);

impl Object for Namespaces {}

/// Puts the library's `namespace` on the rendering's list.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    let plain = Value::from_function(functions::namespace);
    environment.add_function(
        "namespace",
        move |state: &mut State, args: Rest<Value>, named: Kwargs| {
            let mut args = args.0;
            if named.args().next().is_some() {
                args.push(named.into());
            }
            let made = plain.call(state, &args)?;
            if let Some(list) = state.lookup(LIST)
                && let Some(Namespaces(all)) = list.downcast_object_ref()
            {
                all.lock().unwrap_or_else(PoisonError::into_inner).push(made.clone());
            }
            Ok::<_, Error>(made)
        },
    );
}

impl Namespaces {
    /// Empties whatever in them may hold one of them.
    pub(super) fn let_go(&self, environment: &Environment<'_>) {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for namespace in all {
            let Ok(names) = namespace.try_iter() else { continue };
            for name in names.filter(|name| may_hold(&namespace, name)) {
                let source = format!("{{% set held.{name} = none %}}");
                // It assigns to a namespace by an identifier, which cannot fail.
                let _ = environment.render_str(&source, context! { held => namespace.clone() });
            }
        }
    }
}

/// Whether what has this name can hold a namespace and was assigned, which takes an identifier:
/// under other names there is only what was there before the namespace.
fn may_hold(namespace: &Value, name: &Value) -> bool {
    let is_word = |c: char| c == '_' || c.is_ascii_alphanumeric();
    let is_identifier = name.as_str().is_some_and(|name| name.chars().all(is_word));
    let holds = namespace.get_item(name).is_ok_and(|value| {
        matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Plain
        )
    });
    is_identifier && holds
}

#[cfg(test)]
mod tests {
    use super::super::{environment, meter};
    use minijinja::Value;
    use minijinja::value::Object;
    use std::collections::BTreeMap;
    use std::sync::{Arc, Weak};

    #[derive(Debug)]
    struct Held;

    impl Object for Held {}

    #[test]
    fn a_namespace_that_holds_itself_is_freed() {
        let check = |source: &str, expected: &str| {
            let mut environment = environment::new();
            environment.add_template("t", source).unwrap();
            let held = Arc::new(Held);
            let left: Weak<Held> = Arc::downgrade(&held);
            let variables = BTreeMap::from([("held".to_owned(), Value::from_dyn_object(held))]);
            let template = environment.get_template("t").unwrap();
            let text = meter::render(&environment, &template, variables);
            assert_eq!(text.unwrap_or_else(|error| error.to_string()), expected, "{source}");
            assert_eq!(left.strong_count(), 0, "{source}");
        };
        check("{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}", "2");
        check("{% set ns = namespace(x=held) %}{% set ns.me = ns %}{{ ns.x is defined }}", "True");
        check("{% set ns = namespace() %}{% set ns.me = [(held, ns)] %}ok", "ok");
        check(
            "{% set a = namespace() %}{% set b = namespace({'x y': a, 'z': held}) %}\
             {% set a.b = b %}ok",
            "ok",
        );
    }
}
