//! A hash that is the same in every process and every release. Keys and names of Events contain it.

/// Returns the FNV-1a hash of `parts`. A zero byte ends each part, so that no two lists of texts without zero bytes
/// hash the same bytes.
pub fn fnv64(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_stable_and_separates_its_parts() {
        assert_eq!(fnv64(&[]), 0xcbf2_9ce4_8422_2325);
        // FNV-1a of "a\0", by the definition.
        assert_eq!(fnv64(&["a"]), 0x089b_e207_b544_f1e4);
        assert_ne!(fnv64(&["ab", "c"]), fnv64(&["a", "bc"]));
    }
}
