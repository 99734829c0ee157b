//! Carries out the planner's steps while this replica leads: limits the number and the rate of transactions, and backs
//! off after failures.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::backend_health::{Trouble, keep_first};
use super::write_slots::{WriteSlot, WriteSlots};
use super::{Cache, Done, RegistryWorker, size};
use crate::api::Limits;
use crate::backend::{self, Backend, ErrorKind, Leadership};
use crate::controller::write_limit::WriteRateLimiter;
use crate::model::{Backoff, Fence, LeaseId, Op, OpResult, Transaction, TxnOutcome};
use crate::plan::{Step, Ticket};
use crate::telemetry::KeyWrite;

/// Maximum number of concurrent lease grants.
const GRANTS: usize = 8;
/// Transactions in flight beyond the limit, for registrations with few pending keys.
const RESERVE: usize = 2;
/// Maximum number of keys in such a transaction.
const RESERVED: usize = 32;
/// Pause after a failure, doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often to look for work of namespaces that were above their rate limit.
const EXCESS_INTERVAL: Duration = Duration::from_millis(10);
/// How long other namespaces count as active after their last work.
const ACTIVE: Duration = Duration::from_millis(250);
/// How long writes may fail before the failure is reported.
const GRACE: Duration = Duration::from_secs(3);

/// What is in flight, and when more may be sent.
#[derive(Debug)]
pub struct Writing {
    write_limit: WriteRateLimiter,
    most_in_flight: usize,
    in_flight: usize,
    slots: WriteSlots,
    /// Grants in flight, by TTL in seconds.
    granting: BTreeMap<u32, usize>,
    /// The fence under which etcd last refused to write. It never holds again.
    fenced: Option<Fence>,
    failing: Option<Failing>,
    /// etcd had no space for the last puts: only removals are written until the next attempt to put.
    full: bool,
    /// Failures of grants. Writes that need no new lease continue meanwhile.
    grants_failing: Option<Failing>,
    /// When the oldest change was observed that is in no transaction yet.
    observed: Option<Instant>,
    /// The rate limit was reached before all work was sent.
    throttled: bool,
    /// What is left to do without a further event.
    pub(super) rest: Rest,
    /// When work of a namespace within its rate limit was last served.
    others_at: Option<Instant>,
    /// The same after work of another such namespace.
    several_at: Option<Instant>,
}

/// What is left to do after a step, without a further event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    Nothing,
    /// Work above the rate limit.
    Excess,
    /// Further items, to be looked at at once.
    More,
}

/// A series of failures.
#[derive(Debug)]
struct Failing {
    since: Instant,
    again_at: Instant,
    backoff: Backoff,
    trouble: Trouble,
}

/// A transaction that was sent and has ended.
#[derive(Debug)]
pub struct Written {
    pub(super) ticket: Ticket,
    pub(super) slot: WriteSlot,
    /// The fence it was sent under.
    pub(super) fence: Fence,
    /// When the oldest change in it was observed.
    pub(super) observed: Instant,
}

/// Why a transaction is not known to have been written.
pub(super) enum Refused {
    /// etcd reported an error or could not be reached.
    Failed(backend::Error),
    /// etcd denies a part of it, and the permission probe found which.
    Denied,
    /// etcd rejects its content, and the planner has recorded that.
    Rejected,
}

impl Writing {
    pub fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            write_limit: WriteRateLimiter::new(limits.keys_per_second, now),
            most_in_flight: size(limits.transactions_in_flight),
            in_flight: 0,
            slots: WriteSlots::default(),
            granting: BTreeMap::new(),
            fenced: None,
            failing: None,
            full: false,
            grants_failing: None,
            observed: None,
            throttled: false,
            rest: Rest::Nothing,
            others_at: None,
            several_at: None,
        }
    }

    pub fn set_limits(&mut self, limits: &Limits) {
        self.write_limit.set_rate(limits.keys_per_second);
        self.most_in_flight = size(limits.transactions_in_flight);
    }

    /// Records that a change was observed at this time.
    pub fn observed(&mut self, at: Instant) {
        self.observed.get_or_insert(at);
    }

    /// Forgets when changes were observed: another replica has handled them.
    pub fn forget_change(&mut self) {
        self.observed = None;
    }

    /// What has made writes fail for longer than `GRACE`.
    pub fn trouble(&self, now: Instant) -> Option<&Trouble> {
        let failing = self.failing.iter().chain(&self.grants_failing);
        let mut lasting = failing.filter(|failing| now >= failing.since + GRACE);
        lasting.next().map(|failing| &failing.trouble)
    }

    /// When to look again. None when the end of a request in flight triggers that.
    pub fn wake_at(&mut self, now: Instant) -> Option<Instant> {
        if self.rest == Rest::More {
            return Some(now);
        }
        let excess = (self.rest == Rest::Excess).then_some(now + EXCESS_INTERVAL);
        let pause = |failing: &Option<Failing>| {
            let again_at = failing.as_ref().map(|failing| failing.again_at);
            again_at.filter(|at| *at > now)
        };
        let (paused, grants) = (pause(&self.failing), pause(&self.grants_failing));
        let throttled = self.throttled.then(|| now + self.write_limit.wait(now));
        let writes = paused.into_iter().chain(throttled).max();
        writes.into_iter().chain(grants).chain(excess).min()
    }

    #[cfg(test)]
    pub fn begin(&mut self) {
        self.in_flight += 1;
    }

    #[cfg(test)]
    pub fn end(&mut self) {
        self.in_flight -= 1;
    }

    #[cfg(test)]
    pub fn begin_grant(&mut self) {
        *self.granting.entry(30).or_default() += 1;
    }

    fn is_granting(&self) -> bool {
        !self.granting.is_empty()
    }

    /// Whether another lease may be requested.
    fn may_grant(&self, now: Instant) -> bool {
        let paused = self
            .grants_failing
            .as_ref()
            .is_some_and(|failing| failing.again_at > now);
        !paused && self.granting.values().sum::<usize>() < GRANTS
    }

    /// Records that a step that precedes every write has succeeded.
    pub(super) fn succeeded(&mut self) {
        self.failing = None;
    }

    /// Records that a step that precedes every write has failed. Returns how long to pause.
    pub(super) fn failed(&mut self, what: &'static str, registry: &str, error: &backend::Error) -> Duration {
        log_failure(&mut self.failing, what, registry, error);
        let again_at = self.failing.as_ref().map(|failing| failing.again_at);
        again_at.map_or(FIRST_PAUSE, |at| at.saturating_duration_since(Instant::now()))
    }
}

/// Records another failure of `what` and backs off.
fn log_failure(row: &mut Option<Failing>, what: &'static str, registry: &str, error: &backend::Error) {
    let now = Instant::now();
    let mut backoff = match &row {
        None => {
            tracing::warn!(registry, %error, "{what} failed; trying again");
            Backoff::new(FIRST_PAUSE, LONGEST_PAUSE)
        }
        // Transactions that were in flight together fail together. They count as one failure.
        Some(failing) if failing.again_at > now => return,
        Some(failing) => {
            tracing::debug!(registry, %error, "{what} failed");
            failing.backoff
        }
    };
    let (since, mut trouble) = match row.take() {
        Some(failing) => (failing.since, Some(failing.trouble)),
        None => (now, None),
    };
    keep_first(&mut trouble, error.clone().into());
    *row = trouble.map(|trouble| Failing {
        since,
        again_at: now + backoff.next_pause(),
        backoff,
        trouble,
    });
}

impl<B: Backend> RegistryWorker<B> {
    /// Starts the planner's steps, as far as this replica leads and the limits allow.
    pub(super) fn write(&mut self, cache: &Cache, now: Instant) {
        self.writing.throttled = false;
        let paused = |failing: &Failing| failing.again_at > now;
        if self.writing.full && !self.writing.failing.as_ref().is_some_and(paused) {
            self.set_full(false);
        }
        let Some(fence) = self.may_write(now) else { return };
        // Grants precede all other work, whatever the limits are: a grant counts against no limit of keys.
        self.grant_leases(now);
        self.write_work(cache, &fence, now);
        // Keys that the planner has just looked at for the first time may need a lease.
        self.grant_leases(now);
        let may_write_more = !self.writing.throttled && self.writing.in_flight < self.writing.most_in_flight;
        if self.writing.rest == Rest::Nothing && may_write_more && self.planner.has_excess() {
            self.writing.rest = Rest::Excess;
        }
    }

    /// Queues the work that leases with room can take, and requests leases for the rest.
    fn grant_leases(&mut self, now: Instant) {
        if self.planner.offer_room() {
            self.writing.rest = Rest::More;
        }
        while self.writing.may_grant(now)
            && let Some(ttl) = self.planner.grant_due(&self.writing.granting)
        {
            self.grant(ttl);
        }
    }

    /// Carries out one step of the planner. What is received meanwhile is taken in before the next one.
    fn write_work(&mut self, cache: &Cache, fence: &Fence, now: Instant) {
        self.writing.throttled = !self.writing.write_limit.wait(now).is_zero();
        if self.writing.throttled || self.writing.in_flight >= self.writing.most_in_flight {
            return self.write_small(cache, fence, now);
        }
        let most = self
            .writing
            .write_limit
            .share(self.backend.capabilities().ops_per_transaction);
        match self.next_step(cache, most, now) {
            Some(Step::Write(ticket, transaction)) => {
                self.commit(fence, ticket, transaction, now);
                self.writing.rest = Rest::More;
            }
            Some(Step::Continue) => self.writing.rest = Rest::More,
            None => {
                // Every observed change has been handled, or waits for the end of a request in flight.
                let waits = self.writing.is_granting() || self.planner.waits_for_lease();
                self.writing.observed = self.writing.observed.filter(|_| waits);
                // Nothing is left to write: etcd carried out the last write although it did not answer, or the write is
                // not wanted any more. No later write would show that writes succeed again.
                let is_done = self.planner.queued() == 0 && self.writing.in_flight == 0;
                if is_done && !self.writing.full {
                    self.writing.failing = None;
                }
            }
        }
    }

    /// Returns the planner's next step. The rate limits apply while other namespaces are active.
    fn next_step(&mut self, cache: &Cache, most: usize, now: Instant) -> Option<Step> {
        let is_active = |at: &Instant| now < *at + ACTIVE;
        self.planner.set_activity(
            self.writing.others_at.filter(is_active).map(|_| now),
            self.writing.several_at.is_some_and(|at| is_active(&at)),
        );
        let step = self.planner.next(cache, most);
        let served = self.planner.take_served();
        self.writing.others_at = served.others.then_some(now).or(self.writing.others_at);
        self.writing.several_at = served.several.then_some(now).or(self.writing.several_at);
        step
    }

    /// Writes for registrations with few pending keys although the limits are reached. They would otherwise wait for
    /// the many keys of others.
    fn write_small(&mut self, cache: &Cache, fence: &Fence, now: Instant) {
        self.writing.write_limit.wait(now);
        while self.writing.in_flight < self.writing.most_in_flight + RESERVE && self.writing.write_limit.lends() {
            match self.planner.next_small(cache, RESERVED) {
                Some(Step::Write(ticket, transaction)) => self.commit(fence, ticket, transaction, now),
                Some(Step::Continue) | None => return,
            }
        }
    }

    /// Drops what would otherwise only grow: leases that have long been empty, and completed work, which a standby
    /// replica never takes from its queues.
    pub(super) fn do_housekeeping(&mut self, now: Instant) {
        self.planner.tidy();
        if let Some(fence) = self.may_write(now)
            && let Some(Step::Write(ticket, transaction)) = self.planner.retire_leases(now)
        {
            tracing::info!(registry = %self.name, leases = transaction.ops.len(), "letting empty leases expire");
            self.commit(&fence, ticket, transaction, now);
        }
    }

    /// The fence to write under, if this replica leads and nothing prevents writing now.
    pub(super) fn may_write(&self, now: Instant) -> Option<Fence> {
        let fence = self.fence()?;
        let paused = |failing: &Failing| failing.again_at > now;
        let refused = self.writing.fenced.as_ref() == Some(&fence) || self.catching_up.is_some();
        let barred = refused
            || !self.writing.full && self.writing.failing.as_ref().is_some_and(paused)
            || self.state.unsupported().is_some();
        (!barred).then_some(fence)
    }

    fn commit(&mut self, fence: &Fence, ticket: Ticket, mut transaction: Transaction, now: Instant) {
        let slot = self.writing.slots.take(fence);
        self.write_checkpoint(slot, &mut transaction);
        self.writing.in_flight += 1;
        self.writing.write_limit.spend(transaction.ops.len());
        let observed = self.writing.observed.take().unwrap_or(now);
        let (backend, fence, metrics) = (self.backend.clone(), fence.clone(), self.metrics.clone());
        self.tasks.spawn(async move {
            let mut result = backend.commit(&fence, &transaction).await;
            // A full etcd still accepts deletions, without the checkpoint. A new leader that has observed less may then
            // recreate the keys for a moment.
            if result.as_ref().is_err_and(|error| error.kind == ErrorKind::Full) && transaction.only_removes() {
                transaction.checkpoint = None;
                result = backend.commit(&fence, &transaction).await;
            }
            if let Ok(TxnOutcome::Applied { results, .. }) = &result {
                for (op, result) in transaction.ops.iter().zip(results) {
                    if let Some(kind) = kind(op, result) {
                        metrics.count_writes(kind, 1);
                    }
                }
            }
            Done::Written {
                ticket,
                slot,
                fence,
                result,
                observed,
            }
        });
    }

    fn grant(&mut self, ttl: u32) {
        *self.writing.granting.entry(ttl).or_default() += 1;
        let backend = self.backend.clone();
        self.tasks.spawn(async move {
            let result = backend.grant(ttl).await;
            Done::Granted { ttl, result }
        });
    }

    pub(super) fn written(
        &mut self,
        (ticket, slot): (Ticket, WriteSlot),
        fence: Fence,
        result: backend::Result<TxnOutcome>,
        observed: Instant,
    ) {
        let sent = Written {
            ticket,
            slot,
            fence,
            observed,
        };
        match result {
            // Until the permission probe has found what etcd denies, the transaction counts as in flight and none of
            // its keys is sent again.
            Err(error) if error.kind == ErrorKind::Denied => self.search_refused(sent, error),
            Err(error) if matches!(error.kind, ErrorKind::Rejected { .. }) => {
                let refused = if self.content_rejected(sent.ticket, &error) {
                    Refused::Rejected
                } else {
                    Refused::Failed(error)
                };
                self.settle(sent, Err(refused));
            }
            result => self.settle(sent, result.map_err(Refused::Failed)),
        }
    }

    /// Settles a transaction that has ended.
    pub(super) fn settle(&mut self, sent: Written, result: Result<TxnOutcome, Refused>) {
        let Written {
            ticket,
            slot,
            fence,
            observed,
        } = sent;
        self.writing.in_flight -= 1;
        let noted = match &result {
            Ok(TxnOutcome::Applied { revision, .. }) => Some(*revision),
            Ok(TxnOutcome::Overtaken { at }) => Some(*at),
            Ok(TxnOutcome::Fenced | TxnOutcome::LeaseGone) | Err(_) => None,
        };
        self.writing.slots.give_back(&fence, slot, noted);
        let verdict = match result {
            Ok(verdict) => {
                // A removal that succeeds does not show that etcd has space again.
                if !self.writing.full {
                    self.writing.failing = None;
                }
                Some(verdict)
            }
            Err(Refused::Failed(error)) => {
                log_failure(&mut self.writing.failing, "a write", &self.name, &error);
                let is_full = error.kind == ErrorKind::Full;
                self.set_full(is_full && !self.planner.only_removes(ticket));
                None
            }
            // The parts that are neither denied nor rejected are sent again.
            Err(Refused::Denied | Refused::Rejected) => None,
        };
        match &verdict {
            Some(TxnOutcome::Applied { .. }) => self.context.metrics.observe_ready_to_key(observed.elapsed()),
            Some(TxnOutcome::Fenced) => {
                self.metrics.count_fenced();
                tracing::warn!(registry = %self.name, "write refused by the fence: another replica leads by now");
                // The fence of this transaction, not the current one: a new election may have brought a valid one.
                self.writing.fenced = Some(fence);
            }
            // A copy of the transaction was applied, or one without a known result. The mirror shows what is left to
            // do.
            Some(TxnOutcome::Overtaken { .. }) => tracing::debug!(registry = %self.name, "a transaction was overtaken"),
            Some(TxnOutcome::LeaseGone) | None => {}
        }
        // Changes that were not written are still pending.
        if !matches!(verdict, Some(TxnOutcome::Applied { .. })) {
            self.writing.observed(observed);
        }
        self.planner.complete(ticket, verdict);
    }

    pub(super) fn granted(&mut self, ttl: u32, result: backend::Result<LeaseId>) {
        if let Some(count) = self.writing.granting.get_mut(&ttl) {
            *count = count.saturating_sub(1);
        }
        self.writing.granting.retain(|_, count| *count > 0);
        match result {
            // No replica will record this lease, so it is left to expire.
            Ok(_) if matches!(&self.leadership, Leadership::Standby { .. }) => {}
            Ok(lease) => {
                self.writing.grants_failing = None;
                tracing::info!(registry = %self.name, %lease, ttl, "granted a lease");
                self.planner.granted(lease, ttl);
            }
            Err(error) => log_failure(&mut self.writing.grants_failing, "a grant", &self.name, &error),
        }
    }

    fn set_full(&mut self, full: bool) {
        if std::mem::replace(&mut self.writing.full, full) != full {
            self.planner.set_full(full);
        }
    }

    /// The fence under which this replica leads, if it does.
    fn fence(&self) -> Option<Fence> {
        match &self.leadership {
            Leadership::Leading(fence) => Some(fence.clone()),
            Leadership::Seeking | Leadership::Standby { .. } => None,
        }
    }
}

fn kind(op: &Op, result: &OpResult) -> Option<KeyWrite> {
    match (op, result) {
        (Op::Check { .. }, _) => None,
        (_, OpResult::Refused(_)) => Some(KeyWrite::Refused),
        (Op::Put { .. }, OpResult::Done) => Some(KeyWrite::Put),
        (Op::Delete { .. }, OpResult::Done) => Some(KeyWrite::Delete),
    }
}
