//! The endpoints that lose keys.

use std::collections::HashMap;

use crate::plan::work::Work;

/// Endpoints, each with how many of its keys are lost: an endpoint counts once, in however many formats it is registered.
/// A key whose endpoint is not known counts as one.
#[derive(Debug, Default)]
pub(super) struct Endpoints(HashMap<Work, usize>);

impl Endpoints {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Work> {
        self.0.keys()
    }

    /// Adds a key of an endpoint.
    pub fn add(&mut self, work: &Work) {
        *self.0.entry(work.clone()).or_default() += 1;
    }

    /// Removes a key of an endpoint.
    pub fn remove(&mut self, work: &Work) {
        if let Some(keys) = self.0.get_mut(work) {
            *keys -= 1;
            if *keys == 0 {
                self.0.remove(work);
            }
        }
    }
}
