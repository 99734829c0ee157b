//! Label selectors, as Kubernetes defines them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Selects pods by their labels. A selector without conditions selects every pod of the namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Labels that the pod must have, with these values.
    pub match_labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Further conditions, all of which must hold.
    pub match_expressions: Vec<Requirement>,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: Arc<str>,
    pub operator: Operator,
}

/// The condition on a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The label is present with one of these values.
    In(BTreeSet<Arc<str>>),
    /// The label is absent, or present with another value.
    NotIn(BTreeSet<Arc<str>>),
    /// The label is present.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

impl Selector {
    /// Whether the selector matches a pod. `label` returns the value of the pod's label by its key.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.match_labels.iter().all(|(key, value)| label(key) == Some(value))
            && self
                .match_expressions
                .iter()
                .all(|requirement| requirement.operator.holds(label(&requirement.key)))
    }
}

impl Operator {
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::In(values) => value.is_some_and(|value| values.contains(value)),
            Self::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Self::Exists => value.is_some(),
            Self::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(selector: &Selector, labels: &[(&str, &'static str)]) -> bool {
        selector.matches(|key| labels.iter().find(|(other, _)| *other == key).map(|(_, value)| *value))
    }

    fn expression(operator: Operator) -> Selector {
        Selector {
            match_expressions: vec![Requirement {
                key: "tier".into(),
                operator,
            }],
            ..Selector::default()
        }
    }

    #[test]
    fn a_selector_without_conditions_selects_every_pod() {
        assert!(selects(&Selector::default(), &[]));
    }

    #[test]
    fn every_label_must_match() {
        let match_labels = BTreeMap::from([("app".into(), "orders".into()), ("tier".into(), "web".into())]);
        let selector = Selector {
            match_labels,
            ..Selector::default()
        };
        assert!(selects(&selector, &[("app", "orders"), ("tier", "web"), ("more", "1")]));
        assert!(!selects(&selector, &[("app", "orders"), ("tier", "db")]));
        assert!(!selects(&selector, &[("app", "orders")]));
    }

    #[test]
    fn in_wants_the_label_and_not_in_does_not() {
        let values = BTreeSet::from(["web".into(), "api".into()]);
        let within = expression(Operator::In(values.clone()));
        assert!(selects(&within, &[("tier", "api")]));
        assert!(!selects(&within, &[("tier", "db")]));
        assert!(!selects(&within, &[]));
        let without = expression(Operator::NotIn(values));
        assert!(!selects(&without, &[("tier", "api")]));
        assert!(selects(&without, &[("tier", "db")]));
        assert!(selects(&without, &[]));
    }

    #[test]
    fn exists_and_does_not_exist_ignore_the_value() {
        assert!(selects(&expression(Operator::Exists), &[("tier", "")]));
        assert!(!selects(&expression(Operator::Exists), &[]));
        assert!(!selects(&expression(Operator::DoesNotExist), &[("tier", "")]));
        assert!(selects(&expression(Operator::DoesNotExist), &[]));
    }
}
