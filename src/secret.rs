//! Text that is shown to nobody: passwords, keys, and whatever else comes out of a Secret.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Text that must not be seen. It has no `Display`, and its `Debug` shows nothing of it, so that it cannot get into a
/// log, a status or an error by an oversight. Only the state folder serializes it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretString(Arc<str>);

impl SecretString {
    /// The text, for those who have to send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretString {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for SecretString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_it_is_seen_in_debug_output() {
        let hidden = SecretString::from("swordfish".to_owned());
        assert_eq!(
            format!("{hidden:?} {:#?}", Some(&hidden)),
            "(hidden) Some(\n    (hidden),\n)"
        );
        assert_eq!(hidden.reveal(), "swordfish");
    }
}
