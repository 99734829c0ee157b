//! What an etcd holds now.

use std::collections::BTreeMap;

use etcd_client::{GetOptions, ResponseHeader};

use super::EtcdCluster;
use crate::error::{Doing, Result};

/// A key's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The value; bytes that are not UTF-8 are replaced.
    pub value: String,
    /// The lease it is attached to; 0 for none.
    pub lease: i64,
    /// The revision at which the key came to be.
    pub create_revision: i64,
    /// The revision of its last write.
    pub mod_revision: i64,
}

impl EtcdCluster {
    /// Every key under a prefix, by a linearizable read.
    pub async fn dump(&self, prefix: &str) -> Result<BTreeMap<String, Held>> {
        let mut client = self.client().await?;
        let options = match prefix {
            "" => GetOptions::new().with_all_keys(),
            _ => GetOptions::new().with_prefix(),
        };
        let answer = client
            .get(prefix, Some(options))
            .await
            .doing(|| format!("read the prefix {prefix}"))?;
        let held = answer.kvs().iter().map(|kv| {
            let held = Held {
                value: String::from_utf8_lossy(kv.value()).into_owned(),
                lease: kv.lease(),
                create_revision: kv.create_revision(),
                mod_revision: kv.mod_revision(),
            };
            (String::from_utf8_lossy(kv.key()).into_owned(), held)
        });
        Ok(held.collect())
    }

    /// The present revision, by a linearizable read. It writes nothing.
    pub async fn revision(&self) -> Result<i64> {
        let mut client = self.client().await?;
        let options = GetOptions::new().with_count_only();
        let answer = client.get("\0", Some(options)).await.doing(|| "read the revision")?;
        Ok(answer.header().map_or(0, ResponseHeader::revision))
    }
}
