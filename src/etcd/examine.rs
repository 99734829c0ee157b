//! What only an examination asks of etcd: each member by itself, and whether something would be allowed, without doing it.

use std::sync::Arc;

use etcd_client::{Compare, CompareOp, Txn, TxnOp};

use super::connection::{Call, Connection};
use super::endpoint::Endpoint;
use super::error::{Error, Result};
use super::requests::{Status, status_of};

impl Connection {
    /// What the member behind each endpoint says of itself, or why it says nothing: the endpoints in their order.
    pub async fn status_of_each(&self) -> Vec<(String, Result<Status>)> {
        let ask = async |endpoint: Arc<Endpoint>| {
            let kind = Call {
                name: "status",
                patience: self.timeouts().request,
                refused: |_| false,
                hedged: false,
            };
            let status = |endpoint: &Endpoint| {
                let mut client = endpoint.maintenance.clone();
                async move { client.status().await }
            };
            let answer = self.attempt(&kind, &endpoint, kind.patience, status).await;
            (endpoint.url.clone(), answer.and_then(|answer| status_of(&answer)))
        };
        futures::future::join_all(self.all_endpoints().into_iter().map(ask)).await
    }

    /// Whether `key` may be read, written and removed; an error says why not. Nothing is changed: etcd checks the rights
    /// of a transaction before it looks at its conditions, and this one's never hold.
    pub async fn may_write(&self, key: &str) -> Result<()> {
        let never = Compare::create_revision(key, CompareOp::Less, 0);
        let request = Txn::new()
            .when([never])
            .and_then([TxnOp::put(key, "", None)])
            .or_else([TxnOp::get(key, None)]);
        let answer = self.txn(request, |_| false).await?;
        if answer.succeeded() {
            return Err(Error::malformed("txn", "a condition held that cannot"));
        }
        Ok(())
    }
}
