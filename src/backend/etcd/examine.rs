//! Read-only checks: the status of each member, and whether the user may perform a write, without performing it.
//!
//! etcd checks the permissions of a transaction before its conditions. So a transaction whose conditions never hold
//! tests the permissions and changes nothing.

use std::sync::Arc;

use etcd_client::{Compare, CompareOp, DeleteOptions, PutOptions, Txn, TxnOp};

use super::connection::{Call, Connection};
use super::endpoint::Endpoint;
use super::error::{Error, Result};
use super::requests::{Status, end_of, status_of};
use crate::model::{Key, LeaseId, Prefix, Transaction};

impl Connection {
    /// Returns the status of the member behind each endpoint, or the error, in the order of the endpoints.
    pub async fn status_of_each(&self) -> Vec<(String, Result<Status>)> {
        let ask = async |endpoint: Arc<Endpoint>| {
            let kind = Call {
                name: "status",
                attempt_timeout: self.timeouts().request,
                refused: |_| false,
                hedge: None,
            };
            let status = |endpoint: &Endpoint| {
                let mut client = endpoint.maintenance.clone();
                async move { client.status().await }
            };
            let answer = self.ask(&kind, &endpoint, kind.attempt_timeout, false, status).await;
            let answer = match answer {
                Err(error @ (Error::Unreachable { .. } | Error::Timeout { .. })) if !error.is_no_leader() => {
                    Err(endpoint.foreign().await.unwrap_or(error))
                }
                answer => answer,
            };
            (endpoint.url.clone(), answer.and_then(|answer| status_of(&answer)))
        };
        futures::future::join_all(self.all_endpoints().into_iter().map(ask)).await
    }

    /// Returns an error unless the user may read, write and delete `key`.
    pub async fn may_write(&self, key: &str) -> Result<()> {
        self.may(key, vec![TxnOp::put(key, "", None)], vec![TxnOp::get(key, None)])
            .await
    }

    /// Returns an error unless the user may read and write all of `keys`.
    pub async fn may_write_all(&self, keys: &[Key]) -> Result<()> {
        for part in keys.chunks(Transaction::MAX_OPS) {
            let Some(first) = part.first() else { continue };
            let puts = part.iter().map(|key| TxnOp::put(&**key, "", None)).collect();
            let gets = part.iter().map(|key| TxnOp::get(&**key, None)).collect();
            self.may(first, puts, gets).await?;
        }
        Ok(())
    }

    /// Returns an error unless the user may attach `key` to `lease`. etcd denies that if the lease has another key that
    /// the user may not write.
    pub async fn may_attach(&self, key: &str, lease: LeaseId) -> Result<()> {
        let options = PutOptions::new().with_lease(lease.0);
        let put = TxnOp::put(key, "", Some(options));
        self.may(key, vec![put], vec![TxnOp::get(key, None)]).await
    }

    /// Returns an error unless the user may write every possible key below the prefix.
    pub async fn may_write_below(&self, prefix: &Prefix) -> Result<()> {
        let key = prefix.as_str();
        let all = DeleteOptions::new().with_range(end_of(prefix));
        self.may(key, vec![TxnOp::delete(key, Some(all))], vec![TxnOp::get(key, None)])
            .await
    }

    /// Returns an error unless the user may perform `ops` and `reads`.
    async fn may(&self, key: &str, ops: Vec<TxnOp>, reads: Vec<TxnOp>) -> Result<()> {
        // Neither condition ever holds: no revision and no version is negative.
        let never = [
            Compare::create_revision(key, CompareOp::Less, 0),
            Compare::version(key, CompareOp::Less, 0),
        ];
        let answer = self
            .txn("txn", Txn::new().when(never).and_then(ops).or_else(reads), |_| false)
            .await?;
        if answer.succeeded() {
            return Err(Error::malformed("txn", "an impossible condition held"));
        }
        Ok(())
    }
}
