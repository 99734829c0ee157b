//! Permissions in every etcd release: what etcd answers, and how the operator works with only some of them.

use std::time::Duration;

use leasehold::backend::etcd::{Connection, Error, renew};
use leasehold::backend::{Access, LeaseEvent, Leases, Timeouts, User};
use leasehold::model::{Key, LeaseId, Prefix};
use leasehold::telemetry::Calls;
use testbed::{EtcdCluster, EtcdConfig, EtcdVersion};
use tokio::sync::{mpsc, watch};

use crate::common::{Running, SOON, grant, put};
use crate::view::View;

/// The name of the user and of its role.
const USER: &str = "operator";
const TTL: u32 = 6;

/// Starts an etcd of this release with authentication, and connects as a user who may write below these prefixes.
async fn enter(version: EtcdVersion, prefixes: &[&str]) -> (EtcdCluster, Connection) {
    let config = EtcdConfig {
        version,
        ..EtcdConfig::default()
    };
    let cluster = EtcdCluster::temporary_with(config).await.expect("etcd starts");
    cluster.enable_auth("root-of-rights").await.expect("auth is on");
    cluster.add_user(USER, "pw-of-rights", prefixes).await.expect("a user");
    let access = Access {
        user: Some(User {
            name: USER.to_owned().into(),
            password: "pw-of-rights".to_owned().into(),
        }),
        ..Access::open(cluster.endpoints())
    };
    let connection = Connection::new(&access, Timeouts::default(), Calls::default())
        .await
        .expect("the endpoints are addresses");
    (cluster, connection)
}

fn is_denied<T: std::fmt::Debug>(answer: Result<T, Error>) -> bool {
    match answer {
        Ok(_) => false,
        Err(Error::PermissionDenied { .. }) => true,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn permission_checks_use_no_revision_on_every_etcd_release() {
    for version in EtcdVersion::ALL {
        let (cluster, connection) = enter(version, &["/a/", "/shop/b/", "/shop/c/"]).await;
        let (ours, mixed) = (grant(&connection, 60).await, grant(&connection, 60).await);
        put(&cluster, "/a/1", "x", ours).await;
        put(&cluster, "/a/2", "x", mixed).await;
        put(&cluster, "/z/1", "x", mixed).await;
        let before = cluster.revision().await.expect("revision");
        let below = async |folder: &str| !is_denied(connection.may_write_below(&Prefix::below(folder)).await);
        assert!(below("/a/").await && below("/a/deeper/").await && below("/shop/b/").await);
        assert!(!below("/").await && !below("/shop/").await && !below("/z/").await);
        let all = async |keys: &[&str]| {
            let keys: Vec<Key> = keys.iter().map(|key| Key::from(*key)).collect();
            !is_denied(connection.may_write_all(&keys).await)
        };
        assert!(all(&["/a/1", "/shop/b/1", "/shop/c/1"]).await);
        assert!(!all(&["/a/1", "/z/1", "/shop/c/1"]).await);
        assert!(connection.may_attach("/a/3", ours).await.is_ok());
        assert!(
            is_denied(connection.may_attach("/a/3", mixed).await),
            "{version:?}: a key is on it that may not be written"
        );
        assert_eq!(cluster.revision().await.expect("revision"), before, "{version:?}");
        assert_eq!(cluster.dump("").await.expect("dump").len(), 3);
    }
}

#[tokio::test]
async fn denied_renewals_are_reported_and_block_no_other_lease() {
    for version in EtcdVersion::ALL {
        let (cluster, connection) = enter(version, &["/a/"]).await;
        let mut client = cluster.client().await.expect("connect");
        let mut leases = Vec::new();
        let mut denied = Vec::new();
        // The leases that may be renewed come last, because their TTL runs from here.
        for i in 0..60 {
            let (place, ttl) = if i < 30 { ("z", 600) } else { ("a", TTL) };
            let lease = grant(&connection, ttl).await;
            let options = etcd_client::PutOptions::new().with_lease(lease.0);
            let key = format!("/{place}/{i}");
            client.put(key, "x", Some(options)).await.expect("put");
            leases.push((lease, TTL));
            denied.extend((place == "z").then_some(lease));
        }
        let wanted = watch::Sender::new(Leases::new(leases.iter().copied().collect()));
        let (sender, mut events) = mpsc::channel(100);
        let (said, _soonest) = watch::channel(None);
        let (inner, subscribed) = (connection.clone(), wanted.subscribe());
        let _running = Running::spawn(|shutdown| renew(inner, subscribed, sender, said, shutdown));
        let mut reported: Vec<LeaseId> = Vec::new();
        let by = tokio::time::Instant::now() + Duration::from_secs(3) * TTL;
        while let Ok(Some(observed)) = tokio::time::timeout_at(by, events.recv()).await {
            match observed {
                LeaseEvent::Denied(lease) => reported.push(lease),
                LeaseEvent::Lapsed(lease) => panic!("{version:?}: {lease} lapsed"),
            }
        }
        reported.sort();
        reported.dedup();
        denied.sort();
        assert_eq!(reported, denied, "{version:?}");
        assert_eq!(cluster.dump("/a/").await.expect("dump").len(), 30, "{version:?}");
    }
}

#[tokio::test]
async fn unreadable_prefix_is_reported_and_shown_once_granted() {
    let (cluster, connection) = enter(EtcdVersion::default(), &["/meta/", "/a/"]).await;
    put(&cluster, "/z/1", "1", LeaseId::NONE).await;
    let mut view = View::start(&connection, ["/meta/", "/a/", "/z/"]);
    view.until_milestones("snapshot /meta/ snapshot /a/ denied /z/ complete ")
        .await;
    put(&cluster, "/a/1", "1", LeaseId::NONE).await;
    view.until_equal(&cluster, "/a/").await;
    cluster.grant_prefix(USER, "/z/").await.expect("granted");
    view.until_milestones("snapshot /z/ complete ").await;
    assert_eq!(view.content.len(), 2);
    put(&cluster, "/z/1", "2", LeaseId::NONE).await;
    put(&cluster, "/a/1", "2", LeaseId::NONE).await;
    view.until_equal(&cluster, "/").await;
}

#[tokio::test]
async fn what_lies_in_a_scope_that_may_not_be_read_is_followed_for_itself() {
    let (cluster, connection) = enter(EtcdVersion::default(), &["/meta/", "/z/in/"]).await;
    put(&cluster, "/z/in/1", "1", LeaseId::NONE).await;
    let mut view = View::start(&connection, ["/meta/", "/z/", "/z/in/"]);
    view.until_milestones("snapshot /meta/ denied /z/ snapshot /z/in/ complete ")
        .await;
    put(&cluster, "/z/in/1", "2", LeaseId::NONE).await;
    view.until_equal(&cluster, "/z/in/").await;
    cluster.grant_prefix(USER, "/z/").await.expect("granted");
    view.until_milestones("snapshot /z/in/ snapshot /z/ complete ").await;
    put(&cluster, "/z/in/1", "3", LeaseId::NONE).await;
    put(&cluster, "/z/2", "1", LeaseId::NONE).await;
    view.until_equal(&cluster, "/z/").await;
}

#[tokio::test]
async fn granted_outer_prefix_ends_the_denial_of_those_inside_it_with_one_list() {
    let (cluster, connection) = enter(EtcdVersion::default(), &["/meta/"]).await;
    let mut view = View::start(&connection, ["/meta/", "/z/", "/z/in/"]);
    view.until_milestones("snapshot /meta/ denied /z/ denied /z/in/ complete ")
        .await;
    cluster.grant_prefix(USER, "/z/").await.expect("granted");
    view.until("both prefixes", |view| {
        view.read_at.contains_key(&Prefix::below("/z/")) && view.milestones.ends_with("complete ")
    })
    .await;
    assert!(
        view.milestones.ends_with("snapshot /z/in/ snapshot /z/ complete "),
        "{}",
        view.milestones
    );
    view.milestones.clear();
    put(&cluster, "/z/in/1", "1", LeaseId::NONE).await;
    view.until_equal(&cluster, "/z/").await;
    // Longer than the pause between two attempts of a denied prefix.
    view.assert_quiet(Duration::from_secs(11)).await;
    assert_eq!(view.milestones, "");
}

#[tokio::test]
async fn revoked_prefix_is_reported_when_the_view_is_rebuilt() {
    let (cluster, connection) = enter(EtcdVersion::default(), &["/meta/", "/a/", "/z/"]).await;
    let mut view = View::start(&connection, ["/meta/", "/a/", "/z/"]);
    view.until_milestones("complete ").await;
    cluster.revoke_prefix(USER, "/z/").await.expect("revoked");
    cluster.member(0).kill().await.expect("killed");
    cluster.restart(0).await.expect("restarted");
    view.until("the prefix to be denied", |view| {
        view.milestones.contains("denied /z/ complete ")
    })
    .await;
    assert!(!view.milestones.contains("snapshot /z/"), "{}", view.milestones);
    put(&cluster, "/a/1", "1", LeaseId::NONE).await;
    view.until_equal(&cluster, "/a/").await;
    tokio::time::timeout(SOON, async { cluster.grant_prefix(USER, "/z/").await })
        .await
        .expect("in time")
        .expect("granted");
    view.until_milestones("snapshot /z/ complete ").await;
}
