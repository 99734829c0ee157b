//! The work queue of pod events. The namespaces are served in turn. If a pod changes faster than it is processed, only
//! its last state counts.
//!
//! Each namespace has a queue in order of arrival. A pod that changes again keeps its position, and so does the dirty
//! mark of a registration's pod. One fact is never merged away: a pod was deleted. A later pod of the same name is
//! another pod.
//!
//! A bookmark of a watch is released only when everything received before it has been processed, in whatever order.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::index::{DirtyMark, Pod};
use crate::model::{FairQueue, WatchTarget};

/// Namespace and name of a pod.
pub type PodName = (Arc<str>, Arc<str>);

/// A version up to which a watch has reported everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bookmark {
    pub stream: WatchTarget,
    /// The resourceVersion up to which everything was received.
    pub version: u64,
    /// The apiserver's own version, and when the apiserver was asked for it.
    pub present: Option<(u64, Instant)>,
}

/// The pending changes of one pod.
#[derive(Debug)]
pub struct PendingPod {
    /// The pod was deleted before all other changes recorded here.
    pub deleted: bool,
    /// The last state of the pod.
    pub last: Option<Pod>,
    /// When the first of these changes was received.
    pub at: Instant,
    since: u64,
}

/// A pending dirty mark of a registration's pod.
#[derive(Debug)]
pub struct PendingMark {
    /// The pod that existed before was deleted.
    pub deleted: bool,
    /// When the first change was received.
    pub at: Instant,
    since: u64,
}

#[derive(Debug)]
enum QueueEntry {
    Pod(PodName),
    DirtyMark(DirtyMark),
}

#[derive(Debug)]
pub enum WorkItem {
    /// A changed pod. The caller passes its dirty marks to [`WorkQueue::touch`].
    Pod(PodName, PendingPod),
    /// A registration's pod whose state is to be sent to the worker.
    DirtyMark(DirtyMark, PendingMark),
}

/// Pending pods, dirty marks and bookmarks.
#[derive(Debug, Default)]
pub struct WorkQueue {
    row: FairQueue<QueueEntry>,
    pods: HashMap<PodName, PendingPod>,
    touches: HashMap<DirtyMark, PendingMark>,
    /// Counts received changes.
    clock: u64,
    /// The number of unprocessed items for each change that is not processed completely.
    open: BTreeMap<u64, usize>,
    reached: VecDeque<(u64, Bookmark)>,
}

impl WorkQueue {
    pub fn is_empty(&self) -> bool {
        self.row.is_empty()
    }

    /// Adds the current state of a pod.
    pub fn applied(&mut self, pod: Pod, at: Instant) {
        let name = (pod.namespace.as_str().into(), pod.name.as_str().into());
        self.heard(name, at).last = Some(pod);
    }

    /// Adds the deletion of a pod.
    pub fn deleted(&mut self, namespace: &str, name: &str, at: Instant) {
        let heard = self.heard((namespace.into(), name.into()), at);
        heard.deleted = true;
        heard.last = None;
    }

    fn heard(&mut self, name: PodName, at: Instant) -> &mut PendingPod {
        self.clock += 1;
        let since = self.clock;
        let (row, open) = (&mut self.row, &mut self.open);
        self.pods.entry(name).or_insert_with_key(|name| {
            row.push(&name.0, QueueEntry::Pod(name.clone()));
            open.insert(since, 1);
            PendingPod {
                deleted: false,
                last: None,
                at,
                since,
            }
        })
    }

    /// Adds the dirty marks that result from `heard`. `deleted`: they result from the deletion of the pod.
    pub fn touch(&mut self, heard: &PendingPod, touches: Vec<DirtyMark>, deleted: bool) {
        for touch in touches {
            if let Some(waiting) = self.touches.get_mut(&touch) {
                waiting.deleted |= deleted;
                continue;
            }
            *self.open.entry(heard.since).or_default() += 1;
            self.row
                .push(&touch.registration.namespace, QueueEntry::DirtyMark(touch.clone()));
            let first = PendingMark {
                deleted,
                at: heard.at,
                since: heard.since,
            };
            self.touches.insert(touch, first);
        }
    }

    /// Pops the next item of a namespace for which `may` is true; none if there is none. Call [`Self::done_pod`] or
    /// [`Self::done_touch`] when the item has been processed.
    pub fn next_of(&mut self, may: impl Fn(&str) -> bool) -> Option<WorkItem> {
        match self.row.pop_of(|namespace, _| may(namespace))? {
            QueueEntry::Pod(name) => self.pods.remove(&name).map(|heard| WorkItem::Pod(name, heard)),
            QueueEntry::DirtyMark(touch) => self
                .touches
                .remove(&touch)
                .map(|touched| WorkItem::DirtyMark(touch, touched)),
        }
    }

    /// Marks a pod as processed. Its namespace is charged with `cost`.
    pub fn done_pod(&mut self, name: &PodName, heard: &PendingPod, cost: usize) {
        self.row.charge(&name.0, cost);
        self.close(heard.since);
    }

    /// Marks a dirty mark as processed.
    pub fn done_touch(&mut self, touched: &PendingMark) {
        self.close(touched.since);
    }

    fn close(&mut self, since: u64) {
        if let Some(left) = self.open.get_mut(&since) {
            *left -= 1;
            if *left == 0 {
                self.open.remove(&since);
            }
        }
    }

    /// Adds a bookmark. It is released when everything received so far has been processed.
    pub fn reach(&mut self, reached: Bookmark) {
        self.reached.push_back((self.clock, reached));
    }

    /// Returns the next bookmark up to which everything has been processed.
    pub fn take_reached(&mut self) -> Option<Bookmark> {
        let (clock, _) = self.reached.front()?;
        let passed_on = self.open.first_key_value().is_none_or(|(oldest, _)| oldest > clock);
        passed_on.then(|| self.reached.pop_front().map(|(_, reached)| reached))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RegistrationRef;

    fn pod(namespace: &str, name: &str, uid: &str) -> Pod {
        Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            ..Pod::default()
        }
    }

    fn touch(registration: &str, pod: &str) -> DirtyMark {
        DirtyMark {
            registration: RegistrationRef::new("shop", registration),
            pod: pod.into(),
        }
    }

    fn reached(version: u64) -> Bookmark {
        Bookmark {
            stream: WatchTarget::of_cluster("pods"),
            version,
            present: None,
        }
    }

    fn applied(queue: &mut WorkQueue, pod: Pod) {
        queue.applied(pod, Instant::now());
    }

    /// Pops the next item, which must be a pod. Returns its name, whether it was deleted, and the uid of its last
    /// state.
    fn next_pod(queue: &mut WorkQueue, touches: Vec<DirtyMark>) -> (String, bool, Option<String>) {
        let Some(WorkItem::Pod(name, heard)) = queue.next_of(|_| true) else {
            panic!("the next item is a pod");
        };
        queue.touch(&heard, touches, heard.deleted);
        queue.done_pod(&name, &heard, 1);
        let told = heard.last.map(|pod| pod.uid);
        (format!("{}/{}", name.0, name.1), heard.deleted, told)
    }

    /// Pops the next item, which must be a dirty mark. Returns the mark and whether the pod was deleted.
    fn next_touch(queue: &mut WorkQueue) -> (DirtyMark, bool) {
        let Some(WorkItem::DirtyMark(touch, touched)) = queue.next_of(|_| true) else {
            panic!("the next item is a dirty mark");
        };
        queue.done_touch(&touched);
        (touch, touched.deleted)
    }

    #[test]
    fn a_namespace_waits_for_the_pods_of_another_no_longer_than_a_turn() {
        let mut queue = WorkQueue::default();
        for i in 0..1000 {
            applied(&mut queue, pod("flood", &format!("f{i}"), "1"));
        }
        applied(&mut queue, pod("quiet", "p", "1"));
        let before =
            std::iter::from_fn(|| Some(next_pod(&mut queue, Vec::new()).0)).take_while(|name| name != "quiet/p");
        assert!(before.count() <= 8);
    }

    #[test]
    fn a_pod_that_is_heard_of_again_keeps_its_place_and_has_its_last_state() {
        let mut queue = WorkQueue::default();
        for (name, uid) in [("a", "1"), ("b", "1"), ("a", "2")] {
            applied(&mut queue, pod("shop", name, uid));
        }
        assert_eq!(
            next_pod(&mut queue, Vec::new()),
            ("shop/a".to_owned(), false, Some("2".to_owned()))
        );
        assert_eq!(
            next_pod(&mut queue, Vec::new()),
            ("shop/b".to_owned(), false, Some("1".to_owned()))
        );
        assert!(queue.is_empty());
    }

    #[test]
    fn that_a_pod_was_deleted_is_told_though_there_is_another_of_its_name() {
        let mut queue = WorkQueue::default();
        applied(&mut queue, pod("shop", "a", "1"));
        queue.deleted("shop", "a", Instant::now());
        applied(&mut queue, pod("shop", "a", "2"));
        assert_eq!(
            next_pod(&mut queue, vec![touch("orders", "a")]),
            ("shop/a".to_owned(), true, Some("2".to_owned()))
        );
        // The pod changes again before that mark is processed.
        applied(&mut queue, pod("shop", "a", "2"));
        assert_eq!(next_touch(&mut queue), (touch("orders", "a"), true));
        assert!(!next_pod(&mut queue, vec![touch("orders", "a")]).1);
        assert_eq!(next_touch(&mut queue), (touch("orders", "a"), false));
    }

    #[test]
    fn a_pod_that_comes_and_goes_at_once_is_gone() {
        let mut queue = WorkQueue::default();
        applied(&mut queue, pod("shop", "a", "1"));
        queue.deleted("shop", "a", Instant::now());
        assert_eq!(next_pod(&mut queue, Vec::new()), ("shop/a".to_owned(), true, None));
        assert!(queue.is_empty());
    }

    #[test]
    fn how_far_was_heard_is_told_when_all_before_it_has_been_passed_on() {
        let mut queue = WorkQueue::default();
        queue.reach(reached(1));
        assert_eq!(queue.take_reached(), Some(reached(1)), "the queue is empty");
        applied(&mut queue, pod("flood", "a", "1"));
        queue.reach(reached(2));
        applied(&mut queue, pod("quiet", "p", "1"));
        queue.reach(reached(3));
        assert_eq!(queue.take_reached(), None);
        next_pod(&mut queue, vec![touch("orders", "a")]);
        assert_eq!(queue.take_reached(), None, "the dirty mark of the pod is pending");
        // A later change of a pending pod counts as received with the earlier one, which still blocks.
        applied(&mut queue, pod("flood", "a", "2"));
        while queue.take_reached().is_none() {
            match queue.next_of(|_| true).expect("an item is left") {
                WorkItem::Pod(name, heard) => {
                    assert_ne!(&*name.0, "flood", "the bookmark waited for a later change");
                    queue.done_pod(&name, &heard, 1);
                }
                WorkItem::DirtyMark(_, touched) => queue.done_touch(&touched),
            }
        }
        while let Some(next) = queue.next_of(|_| true) {
            match next {
                WorkItem::Pod(name, heard) => queue.done_pod(&name, &heard, 1),
                WorkItem::DirtyMark(_, touched) => queue.done_touch(&touched),
            }
        }
        assert_eq!(queue.take_reached(), Some(reached(3)));
        assert!(queue.open.is_empty());
    }
}
