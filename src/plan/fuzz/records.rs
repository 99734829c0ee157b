//! Arbitrary records below the meta prefix, as any client with access may have written them. One on each line, such as
//! `leases/0000000000000011 {"v":1,"ttl":30}`.

use super::cluster::{Operator, Truth, Wish, content, pod};
use crate::fuzz::Rng;
use crate::model::{Checkpoint, Freshness, LeaseId, WatchTarget};
use crate::plan::meta::MetaKeys;
use crate::plan::testing::{Etcd, meta};

/// Generates a line.
pub(crate) fn any_record(rng: &mut Rng) -> String {
    const NUMBERS: [&str; 9] = [
        "0",
        "1",
        "30",
        "-1",
        "4294967296",
        "18446744073709551615",
        "18446744073709551616",
        "1e30",
        "\"30\"",
    ];
    let number = |rng: &mut Rng| NUMBERS[rng.below(NUMBERS.len())];
    match rng.below(8) {
        0..=2 => {
            let ids = [
                "11",
                "0000000000000012",
                "0",
                "ffffffffffffffff",
                "7fffffffffffffff",
                "+13",
                "zz",
                "",
                "1/2",
            ];
            let id = ids[rng.below(ids.len())];
            format!("leases/{id} {{\"v\":{},\"ttl\":{}}}", number(rng), number(rng))
        }
        3 | 4 => {
            let (until, lost, of) = (number(rng), number(rng), number(rng));
            format!(
                "hold {{\"v\":1,\"id\":\"h{}\",\"until\":{until},\"lost\":{lost},\"of\":{of}}}",
                rng.below(3)
            )
        }
        5 => {
            let kind = rng.one_of(&["pods", "registrations", "", "gadgets"]);
            format!(
                "heard/{} {{\"v\":1,\"heard\":{{\"{kind}\":{}}}}}",
                rng.below(3),
                number(rng)
            )
        }
        6 => format!("leader {{\"identity\":\"{}\"}}", number(rng)),
        _ => {
            let values = [
                "",
                "{}",
                "null",
                "[]",
                "{\"v\":1}",
                "\u{0}",
                "{\"v\":1,\"ttl\":30,\"ttl\":31}",
            ];
            let keys = ["hold", "heard/0", "leases/11", "registries/x/hold", "else"];
            format!("{} {}", rng.one_of(&keys), rng.one_of(&values))
        }
    }
}

/// Whatever the records contain, the operator keeps working, and etcd ends up with the keys of its pods.
pub(crate) fn records(input: &[u8]) -> String {
    let mut etcd = Etcd::new();
    let mut read = [0; 3];
    let prefix = meta().prefix().as_str().to_owned();
    for line in String::from_utf8_lossy(input).lines().take(40) {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        read_back(value.as_bytes(), &mut read);
        let key = format!("{prefix}{key}");
        // A lease record is on the lease that it names; one by a foreign client is on no lease.
        let lease = meta().recorded_lease(&key).filter(|_| !value.ends_with(' '));
        etcd.record(&key, value, lease.unwrap_or(LeaseId::NONE));
    }
    let mut truth = Truth::default();
    let wish = Wish {
        created: 1,
        app: "orders".to_owned(),
        prefix: "/s".to_owned(),
        whole: true,
        ttl: 30,
        min_ready: 0,
        suspended: false,
    };
    truth.wishes.insert("a".to_owned(), wish);
    for (name, address) in [("p0", 1), ("p1", 2), ("p2", 3)] {
        truth
            .pods
            .insert(name.to_owned(), pod(name, "orders", address, "ready", 0));
    }
    let mut operator = Operator::new(&mut etcd);
    operator.hear_all(&truth);
    operator.come_to_rest(&mut etcd);
    let before = content(&etcd);
    assert_eq!(
        before.keys().filter(|key| key.starts_with("/s/")).count(),
        3,
        "{before:?}"
    );

    // With so many pods gone, the guard must deal with the recorded hold.
    let mut next = Operator::new(&mut etcd);
    for pod in truth.pods.values_mut().take(2) {
        pod.ready = false;
    }
    next.hear_all(&truth);
    next.come_to_rest(&mut etcd);
    let after = content(&etcd);
    assert_eq!(
        after.keys().filter(|key| key.starts_with("/s/")).count(),
        1,
        "{after:?}"
    );
    format!("{read:?} {}", etcd.recorded().len())
}

/// A value that can be decoded must survive being encoded and decoded again.
fn read_back(value: &[u8], read: &mut [usize; 3]) {
    if let Some(hold) = MetaKeys::recorded_hold(value) {
        read[0] += 1;
        assert_eq!(MetaKeys::recorded_hold(&MetaKeys::hold_value(hold.clone())), Some(hold));
    }
    if let Some(ttl) = MetaKeys::recorded_ttl(value) {
        read[1] += 1;
        assert_eq!(MetaKeys::recorded_ttl(&MetaKeys::record_value(ttl)), Some(ttl));
    }
    if let Some(observed) = Checkpoint::read(value) {
        read[2] += 1;
        assert_eq!(Checkpoint::read(&observed.value()), Some(observed.clone()));
        Freshness::new(["pods", "serviceregistrations"].map(WatchTarget::of_cluster))
            .lacks(&observed, std::time::Instant::now());
    }
}
