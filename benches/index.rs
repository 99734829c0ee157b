//! Benchmarks of the index: bytes per pod, time per event, time per relist. Run with `cargo bench --bench index`.
//!
//! Bytes are those allocated and not freed, including the spare capacity of containers. Times are the median of several
//! rounds over all pods in a scattered order, so that a large index includes its cache misses.

use std::alloc::System;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leasehold::index::{
    Addresses, Index, Pod, PodChange, PodPort, PodView, Port, PortTarget, Registration, Selector, Target,
};
use leasehold::model::{Families, NamespaceScope, Protocol, RegistrationRef};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SIZES: [u32; 3] = [1_000, 10_000, 50_000];
const NAMESPACES: u32 = 10;
const PODS_PER_TEMPLATE: u32 = 10;
const PODS_PER_NODE: u32 = 50;
const ROUNDS: usize = 7;

/// The owner of the pods, which determines the labels that they share.
#[derive(Clone, Copy)]
enum Owner {
    /// All pods of one ReplicaSet share all labels.
    Deployment,
    /// Each pod has a label that differs from the others.
    StatefulSet,
}

fn pod(number: u32, owner: Owner) -> Pod {
    let template = number / PODS_PER_TEMPLATE;
    let hash = format!(
        "{:010x}",
        u64::from(template).wrapping_mul(0x9e37_79b9) & 0xff_ffff_ffff
    );
    let name = match owner {
        Owner::Deployment => format!("shop-backend-orders-{template:05}-{}-{:05x}", &hash[..6], number),
        Owner::StatefulSet => format!(
            "shop-backend-orders-database-{template:05}-{:03}",
            number % PODS_PER_TEMPLATE
        ),
    };
    let mut labels = BTreeMap::from([
        ("app.kubernetes.io/name".to_owned(), service(template)),
        (
            "app.kubernetes.io/instance".to_owned(),
            format!("production-{template:05}"),
        ),
        ("app.kubernetes.io/version".to_owned(), "1.42.7".to_owned()),
        ("app.kubernetes.io/managed-by".to_owned(), "Helm".to_owned()),
    ]);
    match owner {
        Owner::Deployment => labels.insert("pod-template-hash".to_owned(), hash),
        Owner::StatefulSet => labels.insert("statefulset.kubernetes.io/pod-name".to_owned(), name.clone()),
    };
    Pod {
        namespace: namespace(template),
        name,
        labels,
        addresses: Addresses {
            v4: Some(Ipv4Addr::from_bits(0x0a00_0000 + number)),
            v6: None,
        },
        host_addresses: Addresses {
            v4: Some(Ipv4Addr::from_bits(0x0a01_0000 + number / PODS_PER_NODE)),
            v6: None,
        },
        node: Some(format!("ip-10-0-{:05}.eu-central-1.internal", number / PODS_PER_NODE)),
        ports: [("grpc", 8080), ("metrics", 9090)]
            .map(|(name, number)| PodPort {
                name: name.to_owned(),
                number,
                protocol: Protocol::Tcp,
                host_port: None,
            })
            .into(),
        ready: true,
        ..Pod::default()
    }
}

fn namespace(template: u32) -> String {
    format!("team-{}", template % NAMESPACES)
}

fn service(template: u32) -> String {
    format!("orders-{template:05}")
}

fn registration(template: u32) -> Registration {
    let name: Arc<str> = service(template).into();
    let match_labels = BTreeMap::from([
        ("app.kubernetes.io/managed-by".into(), "Helm".into()),
        ("app.kubernetes.io/name".into(), name.clone()),
    ]);
    Registration {
        reference: RegistrationRef::new(namespace(template), name.clone()),
        uid: "0b0e1f2a-93d4-4c55-8a6b-7c8d9e0f1a2b".into(),
        created: 1_763_700_000,
        generation: 1,
        selector: Selector {
            match_labels,
            ..Selector::default()
        },
        publish_not_ready: false,
        min_ready_seconds: None,
        target: Target::Pods,
        registry: "default".into(),
        service: name,
        ports: vec![Port {
            name: "grpc".into(),
            target: PortTarget::Name {
                name: "grpc".into(),
                protocol: None,
            },
            scheme: Some("grpc".into()),
        }],
        families: Families::default(),
        weight: Some(10),
        version_label: Some("app.kubernetes.io/version".into()),
        metadata: Arc::default(),
        metadata_labels: Vec::new(),
        node_labels: Vec::new(),
    }
}

fn index_of_registrations(pods: u32) -> Index {
    let mut index = Index::new();
    for template in 0..pods / PODS_PER_TEMPLATE {
        index.apply_registration(registration(template));
    }
    index
}

/// Bytes allocated and not freed since `region` began.
fn held(region: &Region<'_, System>) -> isize {
    let change = region.change();
    change.bytes_allocated.cast_signed() - change.bytes_deallocated.cast_signed()
}

fn bytes_per_pod(pods: u32, owner: Owner, selected: bool) -> isize {
    let mut index = if selected {
        index_of_registrations(pods)
    } else {
        Index::new()
    };
    let region = Region::new(ALLOCATOR);
    for number in 0..pods {
        index.apply_pod(&pod(number, owner));
    }
    assert_eq!(index.pod_count(), pods as usize);
    held(&region) / isize::try_from(pods).expect("a benchmark's size is small")
}

/// Returns the bytes that ten thousand relists retain, each with every tenth pod replaced by a new one.
fn growth_over_relists() -> isize {
    const PODS: u32 = 100;
    let mut index = index_of_registrations(PODS);
    let mut relist = |generation: u32| {
        index.begin_pod_relist(&NamespaceScope::Cluster);
        for number in 0..PODS {
            let replaced = if number % 10 == 0 { generation } else { 0 };
            let mut pod = pod(number, Owner::StatefulSet);
            pod.name = format!("{}-{replaced}", pod.name);
            pod.labels
                .insert("statefulset.kubernetes.io/pod-name".to_owned(), pod.name.clone());
            index.apply_pod(&pod);
        }
        index.end_pod_relist(&NamespaceScope::Cluster);
    };
    // All numbers have the same length, so that the names do not grow.
    (10_000..10_100).for_each(&mut relist);
    let region = Region::new(ALLOCATOR);
    (10_100..20_100).for_each(&mut relist);
    held(&region)
}

fn median(mut rounds: Vec<Duration>) -> Duration {
    rounds.sort_unstable();
    rounds[rounds.len() / 2]
}

/// Flips the readiness of each pod once and reads the changed view. Returns the time per event.
fn event(index: &mut Index, pods: &mut [Pod]) -> Duration {
    let count = u32::try_from(pods.len()).expect("a benchmark's size is small");
    let rounds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        for step in 0..pods.len() {
            // 7919 is prime and divides none of the sizes, so each pod is visited once.
            let pod = &mut pods[step * 7919 % count as usize];
            pod.ready = !pod.ready;
            assert_eq!(index.apply_pod(pod), PodChange::Facts);
            let selecting = index.registering(&pod.namespace, &pod.name);
            assert_eq!(selecting.len(), 1);
            for registration in selecting {
                let view = index.view(&registration, &pod.name);
                assert_eq!(matches!(view, PodView::Ready(_)), pod.ready);
            }
        }
        start.elapsed() / count
    });
    median(rounds.collect())
}

/// Relists without a change. Returns the total time.
fn relist(index: &mut Index, pods: &[Pod]) -> Duration {
    let rounds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        index.begin_pod_relist(&NamespaceScope::Cluster);
        assert!(pods.iter().all(|pod| index.apply_pod(pod) == PodChange::None));
        assert_eq!(index.end_pod_relist(&NamespaceScope::Cluster), []);
        start.elapsed()
    });
    median(rounds.collect())
}

fn main() {
    println!("name of a pod: {} characters", pod(0, Owner::Deployment).name.len());
    for pods in SIZES {
        for (owner, what) in [(Owner::Deployment, "Deployment"), (Owner::StatefulSet, "StatefulSet")] {
            for (selected, whether) in [(false, "unselected"), (true, "selected")] {
                let bytes = bytes_per_pod(pods, owner, selected);
                println!("{pods:>6} pods, {what:<11} {whether:<10} {bytes:>5} bytes a pod");
            }
        }
    }
    println!("10000 relists with churn leave {} bytes behind", growth_over_relists());

    let mut events = Vec::new();
    for size in SIZES {
        let mut pods: Vec<_> = (0..size).map(|number| pod(number, Owner::Deployment)).collect();
        let mut index = index_of_registrations(size);
        for pod in &pods {
            index.apply_pod(pod);
        }
        let (event, relist) = (event(&mut index, &mut pods), relist(&mut index, &pods));
        println!("{size:>6} pods: ready flip and view {event:?}, relist without change {relist:?}");
        events.push(event);
    }
    println!(
        "a ready flip at 50k pods costs {:.2} times one at 1k",
        events[2].as_secs_f64() / events[0].as_secs_f64()
    );
}
