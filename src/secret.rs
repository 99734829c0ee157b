//! Text that must not be shown: passwords, keys, and everything else from a Secret.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Secret text. It has no `Display`, and its `Debug` does not show the text, so that it cannot get into a log, a status
/// or an error by accident. Only the state directory serializes it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretString(Arc<str>);

impl SecretString {
    /// Returns the text, for code that has to send it.
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
