//! Chance that repeats: the same seed deals the same numbers on every machine.

use std::time::Duration;

/// A generator with a reproducible seed.
#[derive(Clone, Debug)]
pub struct Rng(fastrand::Rng);

impl Rng {
    /// The stream of a seed; streams of other `purpose` do not move it.
    pub fn new(seed: u64, purpose: u64) -> Self {
        Self(fastrand::Rng::with_seed(
            seed ^ purpose.wrapping_mul(0xd1b5_4a32_d192_ed03),
        ))
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0.u64(..n)
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, of_hundred: u64) -> bool {
        self.below(100) < of_hundred
    }

    /// A time from `least` to `most` milliseconds, the latter excluded.
    pub fn milliseconds(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.below(most - least))
    }

    /// In random order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        self.0.shuffle(all);
    }
}

/// A raw number as an index below `n`, which is not 0.
pub fn index(raw: u64, n: usize) -> usize {
    let n = u64::try_from(n).expect("it fits");
    usize::try_from(raw % n).expect("below a usize")
}

/// A random seed.
pub fn any_seed() -> u64 {
    // Short enough to be typed.
    fastrand::u64(..1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_deals_what_it_dealt_before_and_another_seed_deals_otherwise() {
        let deal = |seed, purpose| {
            let mut rng = Rng::new(seed, purpose);
            [rng.next(), rng.next(), rng.next()]
        };
        assert_eq!(deal(7, 1), deal(7, 1));
        assert_ne!(deal(7, 1), deal(8, 1));
        assert_ne!(deal(7, 1), deal(7, 2));
    }

    #[test]
    fn what_is_shuffled_is_all_there() {
        let mut all: Vec<_> = (0..20).collect();
        Rng::new(3, 0).shuffle(&mut all);
        assert_ne!(all, (0..20).collect::<Vec<_>>());
        all.sort_unstable();
        assert_eq!(all, (0..20).collect::<Vec<_>>());
    }
}
