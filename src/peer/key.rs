//! The key that the replicas of one installation share, and the codes that it authenticates.

use std::fmt;
use std::sync::Arc;

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

/// Length of a key and of a nonce.
pub(super) const BYTES: usize = 32;

/// Fills an array with random numbers of the kernel.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.expect("the operating system provides random numbers");
    bytes
}

/// The key of an installation: 32 bytes. `Debug` does not show them.
#[derive(Clone)]
pub struct PeerKey {
    bytes: Arc<[u8; BYTES]>,
    key: hmac::Key,
}

impl PartialEq for PeerKey {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for PeerKey {}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl PeerKey {
    pub fn random() -> Self {
        Self::of(random())
    }

    /// Returns none unless there are 32 bytes.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self::of)
    }

    fn of(bytes: [u8; BYTES]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &bytes),
            bytes: Arc::new(bytes),
        }
    }

    /// For the Secret.
    pub fn bytes(&self) -> &[u8; BYTES] {
        &self.bytes
    }

    /// Returns the code that authenticates `parts` for one `role`. Each part is preceded by its length, so different
    /// parts never sign the same bytes.
    pub(super) fn sign(&self, role: &str, parts: &[&[u8]]) -> Mac {
        Mac(hmac::sign(&self.key, &message(role, parts)).as_ref().to_vec())
    }

    /// Whether `mac` authenticates `parts` for `role`. Takes constant time.
    pub(super) fn verify(&self, role: &str, parts: &[&[u8]], mac: &Mac) -> bool {
        hmac::verify(&self.key, &message(role, parts), &mac.0).is_ok()
    }

    /// Derives the key of one connection.
    pub(super) fn derive(&self, parts: &[&[u8]]) -> Self {
        let Mac(bytes) = self.sign("session", parts);
        Self::read(&bytes).expect("HMAC-SHA256 is as long as a key")
    }
}

fn message(role: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut message = Vec::new();
    for part in [b"leasehold peers 1".as_slice(), role.as_bytes()].iter().chain(parts) {
        message.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        message.extend_from_slice(part);
    }
    message
}

/// An authentication code or a nonce. Displayed in hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Mac(pub(super) Vec<u8>);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for Mac {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "neither a nonce nor an authentication code";
        if text.len() != 2 * BYTES || !text.is_ascii() {
            return Err(wrong);
        }
        let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(byte).collect();
        bytes.map(Self).ok_or(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_holds_for_its_key_its_role_and_its_parts_and_for_no_others() {
        let key = PeerKey::random();
        let mac = key.sign("server", &[b"ab", b"c"]);
        assert!(key.verify("server", &[b"ab", b"c"], &mac));
        assert!(!key.verify("client", &[b"ab", b"c"], &mac));
        assert!(!key.verify("server", &[b"a", b"bc"], &mac));
        assert!(!key.verify("server", &[b"abc"], &mac));
        assert!(!PeerKey::random().verify("server", &[b"ab", b"c"], &mac));
    }

    #[test]
    fn a_code_reads_back_as_what_was_written_and_other_text_is_none() {
        let mac = PeerKey::random().sign("server", &[]);
        assert!(mac.to_string().parse() == Ok(mac));
        for text in ["", "zz", &"g".repeat(64), &"é".repeat(32)] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_has_32_bytes_and_shows_none_of_them() {
        let key = PeerKey::random();
        assert_eq!(PeerKey::read(key.bytes()), Some(key.clone()));
        assert_eq!(PeerKey::read(b"short"), None);
        assert_eq!(format!("{key:?}"), "(hidden)");
    }
}
