//! The cache of judgements: small, short-lived, and with only a hash of each token.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ring::digest;
use tokio::time::Instant;

use super::Judgement;

/// How long a permission is used without a new query.
pub(super) const FRESH: Duration = Duration::from_secs(30);
/// How long a permission may still be used while the judge cannot decide: the metrics are needed to diagnose such an
/// outage.
pub(super) const GRACE: Duration = Duration::from_mins(10);
/// How long a rejection is used without a new query. Short, because the permission may be granted at any moment.
pub(super) const REFUSED: Duration = Duration::from_secs(5);
/// The maximum number of cached permissions.
const READERS: usize = 64;
/// The maximum number of cached rejections. They have a separate limit, so that they never evict a permission.
const STRANGERS: usize = 256;

/// The hash of a token, used as the cache key. The hash of a guessable token can be reversed, but it is only kept in
/// memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Digest([u8; digest::SHA256_OUTPUT_LEN]);

impl Digest {
    pub(super) fn of(token: &str) -> Self {
        let hash = digest::digest(&digest::SHA256, token.as_bytes());
        Self(hash.as_ref().try_into().expect("a SHA-256 digest has a fixed length"))
    }
}

/// The cached knowledge about a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Reader,
    /// Was allowed a while ago: ask again, and admit the caller if the judge cannot decide.
    FormerReader,
    /// The token is not valid.
    Unauthenticated,
    /// This user may not read the metrics.
    Forbidden(Arc<str>),
    /// Not cached.
    NotCached,
}

/// The cached answers, each with its time. The value of a rejection is the user, or `None` for an invalid token.
#[derive(Default)]
pub(super) struct Answers {
    readers: HashMap<Digest, Instant>,
    refused: HashMap<Digest, (Option<Arc<str>>, Instant)>,
}

impl Answers {
    pub(super) fn look_up(&self, caller: Digest, now: Instant) -> Known {
        if let Some(&since) = self.readers.get(&caller) {
            match now.saturating_duration_since(since) {
                age if age < FRESH => return Known::Reader,
                age if age < GRACE => return Known::FormerReader,
                _ => {}
            }
        }
        match self.refused.get(&caller) {
            Some((user, since)) if now.saturating_duration_since(*since) < REFUSED => {
                user.clone().map_or(Known::Unauthenticated, Known::Forbidden)
            }
            _ => Known::NotCached,
        }
    }

    /// Caches a judgement. [`Judgement::Undecided`] is not cached.
    pub(super) fn record(&mut self, caller: Digest, judgement: &Judgement, now: Instant) {
        let refused = match judgement {
            Judgement::Allowed => {
                self.refused.remove(&caller);
                make_room(&mut self.readers, READERS, |since| *since);
                self.readers.insert(caller, now);
                return;
            }
            Judgement::Unauthenticated => None,
            Judgement::Forbidden(user) => Some(user.clone()),
            Judgement::Undecided => return,
        };
        self.readers.remove(&caller);
        make_room(&mut self.refused, STRANGERS, |(_, since)| *since);
        self.refused.insert(caller, (refused, now));
    }
}

/// Evicts the oldest entry if the map is full.
fn make_room<T>(of: &mut HashMap<Digest, T>, most: usize, since: impl Fn(&T) -> Instant) {
    if of.len() < most {
        return;
    }
    let oldest = of
        .iter()
        .min_by_key(|(_, entry)| since(entry))
        .map(|(caller, _)| *caller);
    if let Some(oldest) = oldest {
        of.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_caller_is_reviewed_again_and_finally_forgotten() {
        let (mut answers, begin, caller) = (Answers::default(), Instant::now(), Digest::of("a"));
        assert_eq!(answers.look_up(caller, begin), Known::NotCached);
        answers.record(caller, &Judgement::Allowed, begin);
        assert_eq!(answers.look_up(caller, begin + FRESH / 2), Known::Reader);
        assert_eq!(answers.look_up(Digest::of("b"), begin), Known::NotCached);
        assert_eq!(answers.look_up(caller, begin + FRESH), Known::FormerReader);
        answers.record(caller, &Judgement::Undecided, begin + FRESH);
        assert_eq!(answers.look_up(caller, begin + GRACE), Known::NotCached);
    }

    #[test]
    fn denied_caller_is_reviewed_sooner_and_loses_its_permission() {
        let (mut answers, begin, caller) = (Answers::default(), Instant::now(), Digest::of("a"));
        answers.record(caller, &Judgement::Allowed, begin);
        answers.record(caller, &Judgement::Forbidden("jane".into()), begin);
        assert_eq!(answers.look_up(caller, begin), Known::Forbidden("jane".into()));
        assert_eq!(answers.look_up(caller, begin + REFUSED), Known::NotCached);
        answers.record(caller, &Judgement::Unauthenticated, begin);
        assert_eq!(answers.look_up(caller, begin), Known::Unauthenticated);
        answers.record(caller, &Judgement::Allowed, begin);
        assert_eq!(answers.look_up(caller, begin), Known::Reader);
    }

    #[test]
    fn rejection_cache_is_bounded_and_evicts_no_permission() {
        let (mut answers, begin, reader) = (Answers::default(), Instant::now(), Digest::of("reader"));
        answers.record(reader, &Judgement::Allowed, begin);
        for number in 0..10_000 {
            let later = begin + Duration::from_micros(number);
            answers.record(Digest::of(&number.to_string()), &Judgement::Unauthenticated, later);
        }
        assert_eq!(answers.refused.len(), STRANGERS);
        let last = begin + Duration::from_millis(10);
        assert_eq!(answers.look_up(Digest::of("9999"), last), Known::Unauthenticated);
        assert_eq!(answers.look_up(Digest::of("0"), last), Known::NotCached);
        assert_eq!(answers.look_up(reader, last), Known::Reader);
        for number in 0..1_000 {
            answers.record(Digest::of(&number.to_string()), &Judgement::Allowed, last);
        }
        assert_eq!(answers.readers.len(), READERS);
    }
}
