//! The namespace and name that identify one registration.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Identifies a registration. Every key and every queued pod has one, so that it is one pointer to names that are stored
/// once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistrationRef(Arc<Names>);

/// What a [`RegistrationRef`] points to.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Names {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl RegistrationRef {
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self(Arc::new(Names {
            namespace: namespace.into(),
            name: name.into(),
        }))
    }
}

impl Deref for RegistrationRef {
    type Target = Names;

    fn deref(&self) -> &Names {
        &self.0
    }
}

impl fmt::Display for RegistrationRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
