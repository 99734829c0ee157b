//! Continues the watches of a broken stream where they ended. A short outage of etcd, or of a member, then costs what has
//! changed meanwhile, and not a list of every key.

use super::{Interruption, Mirror};
use crate::backend::etcd::error::Error;
use crate::backend::etcd::requests::Read;
use crate::backend::etcd::watches::Watches;
use crate::model::{KeyValue, Prefix, Revision};

impl Mirror {
    /// Adds the watches of the last stream to `watches`, but for those whose history etcd has compacted away. Returns false
    /// if all prefixes must be listed.
    pub(super) async fn resume(&mut self, watches: &mut Watches) -> Result<bool, Interruption> {
        if self.positions.is_empty() {
            return Ok(false);
        }
        if !self.has_same_history().await? {
            self.positions.clear();
            return Ok(false);
        }
        for (root, from) in self.not_compacted().await? {
            watches.add(root, from).await?;
        }
        Ok(true)
    }

    /// Whether the history of etcd contains the newest write on a lease that the mirror has reported. The cluster's id and
    /// revision alone are no proof: an etcd that was restored from a backup may have the same id, and a higher revision if
    /// it has been written to since. Nothing proves the history after that write, so positions behind it are dropped.
    async fn has_same_history(&mut self) -> Result<bool, Interruption> {
        let Some((key, newest)) = self.history.newest.clone() else {
            return Ok(false);
        };
        let Read {
            held,
            cluster_id,
            revision,
        } = self.connection.get_at(&key, None).await?;
        if !self.history.agrees(cluster_id, revision) {
            return Err(Interruption::Restored);
        }
        self.positions.retain(|(_, from)| *from <= newest.mod_revision + 1);
        let is_newest = |held: Option<KeyValue>| held.as_ref() == Some(&newest);
        if is_newest(held) {
            return Ok(true);
        }
        match self.connection.get_at(&key, Some(newest.mod_revision)).await {
            Ok(then) => Ok(is_newest(then.held)),
            Err(error) if error.is_compacted() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the positions whose history etcd still has, including the revision before each: some releases lose a
    /// deletion at the compacted revision.
    async fn not_compacted(&mut self) -> Result<Vec<(Prefix, Revision)>, Error> {
        self.positions.sort_by_key(|(_, from)| *from);
        let (mut low, mut high) = (0, self.positions.len());
        // Usually nothing is compacted away, so the search begins with the oldest position.
        let mut middle = 0;
        while low < high {
            let before = self.positions[middle].1 - 1;
            match self.connection.get_at(self.essential.as_str(), Some(before)).await {
                Ok(_) => high = middle,
                Err(error) if error.is_compacted() => low = middle + 1,
                Err(error) => return Err(error),
            }
            middle = usize::midpoint(low, high);
        }
        Ok(self.positions[low..].to_vec())
    }
}
