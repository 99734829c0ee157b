//! Random numbers of the quality that ids require.

use ring::rand::{SecureRandom, SystemRandom};

pub fn random() -> u64 {
    // `SystemRandom` asks the kernel directly, also in a static program without /dev.
    let mut bytes = [0; 8];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.expect("the operating system provides random numbers");
    u64::from_ne_bytes(bytes)
}
