//! One bed for all tests of a binary.

use tokio::sync::{OnceCell, oneshot};

use crate::{Bed, BedConfig, Result};

static SHARED: OnceCell<Bed> = OnceCell::const_new();

/// The bed that this process's tests share: one node, one etcd member, default versions. Started by the first call; it ends
/// with the process. Tests keep apart by [`Bed::namespace`] and by key prefixes, and break no server of it.
pub async fn shared() -> Result<&'static Bed> {
    SHARED.get_or_try_init(start).await
}

/// Every test has a runtime of its own that ends with it, so the bed's client runs on one that never ends.
async fn start() -> Result<Bed> {
    let (done, started) = oneshot::channel();
    let run = move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime starts");
        runtime.block_on(async {
            // When no test waits any more, the bed is dropped and ends.
            let _ = done.send(Bed::start(BedConfig::default()).await);
            std::future::pending::<()>().await;
        });
    };
    std::thread::Builder::new()
        .name("shared bed".to_owned())
        .spawn(run)
        .expect("a thread starts");
    started.await.expect("the bed's thread never ends")
}
