//! A foreign client that writes to the same etcd: beside the operator's keys, and where they would go. It takes only
//! free keys and changes only its own, so any other change of its keys is the operator's.

use std::{collections::BTreeMap, time::Duration};

use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use tokio::time::timeout;

use super::{
    record::{FOREIGN, ForeignWrite, Outcome},
    rng::index,
    scene::Scene,
};

/// How long etcd may take to answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// The most keys at a time.
const KEYS: usize = 30;

/// The foreign client and the keys that it may have.
#[derive(Default)]
pub struct ForeignClient {
    keys: BTreeMap<String, String>,
    written: u64,
}

impl ForeignClient {
    /// Takes a key if it is free. Whether that went as it should.
    pub async fn take(&mut self, scene: &Scene, key: String) -> bool {
        if self.keys.len() >= KEYS {
            return self.leave(scene, 0).await;
        }
        let value = self.value();
        let free = Compare::create_revision(key.as_str(), CompareOp::Equal, 0);
        let put = TxnOp::put(key.as_str(), value.as_str(), None);
        let outcome = attempt(scene, &key, false, free, put).await;
        if outcome != Outcome::Refused {
            self.keys.insert(key, value);
        }
        outcome != Outcome::Unknown
    }

    /// Changes one of its keys.
    pub async fn change(&mut self, scene: &Scene, pick: u64) -> bool {
        let Some((key, old)) = self.pick(pick) else { return true };
        let value = self.value();
        let own = Compare::value(key.as_str(), CompareOp::Equal, old);
        let put = TxnOp::put(key.as_str(), value.as_str(), None);
        let outcome = attempt(scene, &key, false, own, put).await;
        match outcome {
            Outcome::Done(_) => drop(self.keys.insert(key, value)),
            // The key does not exist, or its value is unknown: the foreign client leaves it alone.
            Outcome::Refused | Outcome::Unknown => drop(self.keys.remove(&key)),
        }
        outcome != Outcome::Unknown
    }

    /// Deletes one of its keys.
    pub async fn leave(&mut self, scene: &Scene, pick: u64) -> bool {
        let Some((key, value)) = self.pick(pick) else {
            return true;
        };
        let own = Compare::value(key.as_str(), CompareOp::Equal, value);
        let delete = TxnOp::delete(key.as_str(), None);
        let outcome = attempt(scene, &key, true, own, delete).await;
        if outcome != Outcome::Unknown {
            self.keys.remove(&key);
        }
        outcome != Outcome::Unknown
    }

    fn pick(&self, pick: u64) -> Option<(String, String)> {
        if self.keys.is_empty() {
            return None;
        }
        let (key, value) = self.keys.iter().nth(index(pick, self.keys.len()))?;
        Some((key.clone(), value.clone()))
    }

    fn value(&mut self) -> String {
        self.written += 1;
        format!("{FOREIGN}{}", self.written)
    }
}

async fn attempt(scene: &Scene, key: &str, delete: bool, when: Compare, then: TxnOp) -> Outcome {
    let at = scene.now();
    let asking = async {
        let mut client = scene.bed.registry().client().await.ok()?;
        let answer = client.txn(Txn::new().when([when]).and_then([then])).await.ok()?;
        let revision = answer.header()?.revision();
        Some(if answer.succeeded() {
            Outcome::Done(revision)
        } else {
            Outcome::Refused
        })
    };
    let outcome = timeout(PATIENCE, asking)
        .await
        .ok()
        .flatten()
        .unwrap_or(Outcome::Unknown);
    scene.record_foreign_write(ForeignWrite {
        key: key.to_owned(),
        delete,
        at,
        outcome,
    });
    outcome
}
