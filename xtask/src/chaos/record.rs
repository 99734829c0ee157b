//! What was seen and done in a run, as data on one clock: all that the checker knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use testbed::Event;

use super::wanted::Registration;

/// Time since the run began.
pub type Moment = Duration;

/// What the values of the foreign client's keys begin with. Nothing that is registered does.
pub const FOREIGN: &str = "foreign ";

/// A time with a begin and an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its begin.
    pub from: Moment,
    /// Its end.
    pub to: Moment,
}

impl Span {
    /// How long it is.
    pub fn length(self) -> Duration {
        self.to.saturating_sub(self.from)
    }

    /// Its parts that are in none of some others.
    pub fn without(self, others: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut others: Vec<Self> = others.into_iter().collect();
        others.sort_by_key(|one| one.from);
        let (mut parts, mut from) = (Vec::new(), self.from);
        for one in others {
            if one.from > from {
                parts.push(Self {
                    from,
                    to: one.from.min(self.to),
                });
            }
            from = from.max(one.to);
        }
        parts.push(Self { from, to: self.to });
        parts.retain(|part| part.from < part.to);
        parts
    }

    /// Whether the two have a moment in common.
    pub fn meets(self, other: Self) -> bool {
        self.from <= other.to && self.to >= other.from
    }
}

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// When the record ends.
    pub end: Moment,
    /// The events of etcd, in their order, and when the recorder received them.
    pub etcd: Vec<(Moment, Event)>,
    /// What was seen in Kubernetes, in the order in which the recorder received it.
    pub kubernetes: Vec<Sighting>,
    /// When changes in Kubernetes could be missed: from the loss of a watch to the list that took its place.
    pub gaps: Vec<Span>,
    /// What was broken, and when it was repaired.
    pub faults: Vec<Fault>,
    /// What the foreign client did to keys.
    pub foreign_writes: Vec<ForeignWrite>,
    /// When nothing was changed or broken and everything had come to rest.
    pub quiets: Vec<Span>,
}

/// Something seen in Kubernetes.
#[derive(Clone, Debug, PartialEq)]
pub struct Sighting {
    /// When the recorder received it.
    pub at: Moment,
    /// What was seen.
    pub sight: Sight,
}

/// An object as it is from now on; none when it is gone.
#[derive(Clone, Debug, PartialEq)]
pub enum Sight {
    /// A pod, by its name.
    Pod(String, Option<Pod>),
    /// A registration, by its name.
    Registration(String, Option<Registration>),
    /// A node, by its name.
    Node(String, Option<Node>),
    /// A Service, by its name.
    Service(String, Option<Service>),
    /// A Registry, by its name.
    Registry(String, Option<Registry>),
}

impl Sight {
    /// The name of the object.
    pub fn name(&self) -> &str {
        match self {
            Self::Pod(name, _)
            | Self::Registration(name, _)
            | Self::Node(name, _)
            | Self::Service(name, _)
            | Self::Registry(name, _) => name,
        }
    }
}

/// What matters of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is ready, or only its readiness gate keeps it from that, and neither terminating nor ended.
    pub ready: bool,
    /// Whether only its readiness gate keeps it from being ready, or its kubelet has yet to see that the gate is open.
    pub waits: bool,
    /// Since when it has been ready, or only its readiness gate has kept it from that, as Kubernetes says to the second.
    pub since: Option<Moment>,
    /// Its readiness gate, if it declares one.
    pub gate: Option<Gate>,
    /// Its IPv4 address.
    pub address: Option<String>,
    /// Its IPv6 address.
    pub ipv6: Option<String>,
    /// The IPv4 address of its node, as the pod knows it.
    pub host: Option<String>,
    /// Its node.
    pub node: Option<String>,
    /// Its containers' named ports.
    pub ports: BTreeMap<String, u16>,
    /// Those of its containers' named ports that are also ports of its node, with the numbers there.
    pub host_ports: BTreeMap<String, u16>,
}

impl Pod {
    /// Whether a Service sends it traffic.
    pub fn serves(&self) -> bool {
        self.ready && !self.waits
    }
}

/// What matters of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether load balancers may not use it, be it ready or not.
    pub excluded: bool,
    /// The IPv4 address at which it is reached from outside.
    pub external: Option<String>,
    /// The IPv4 address at which it is reached inside.
    pub internal: Option<String>,
}

/// What matters of a Registry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Registry {
    /// The labels of nodes that registrations may publish, besides those that they always may.
    pub node_labels: BTreeSet<String>,
    /// How many keys each namespace may have in it.
    pub keys_per_namespace: Option<usize>,
}

/// What matters of a Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    /// Whether its traffic from outside goes only to pods of the node that it reaches.
    pub local: bool,
    /// Its IPv4 address in the cluster.
    pub cluster_ip: Option<String>,
    /// Its external IPs.
    pub external_ips: Vec<String>,
    /// The addresses and host names of its load balancer.
    pub ingress: Vec<String>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServicePort {
    /// Its name.
    pub name: String,
    /// The number at the Service's own addresses.
    pub port: u64,
    /// The number on nodes.
    pub node_port: Option<u64>,
}

/// The state of a pod's readiness gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// The pod waits for it.
    Closed,
    /// The operator has opened it, because the pod is registered.
    Registered,
    /// The operator has opened it, because no registration selects the pod.
    NotSelected,
    /// The operator has opened it, because the pod had waited for too long, or again.
    WaitedTooLong,
}

/// Something that was broken for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What kind of trouble.
    pub kind: FaultKind,
    /// What it affected.
    pub target: String,
    /// From when until everything served again.
    pub span: Span,
    /// Whether no operator could renew a lease meanwhile.
    pub halts: bool,
    /// Whether other operators work on meanwhile.
    pub relieved: bool,
    /// The Registry whose operators it affects, if it is not all of them.
    pub registry: Option<String>,
}

/// The kinds of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// An operator is killed and started again.
    OperatorKill,
    /// An operator is ended by SIGTERM and started again.
    OperatorRestart,
    /// An operator is paused for less than its session.
    OperatorPause,
    /// An operator is paused for longer than its session.
    OperatorStall,
    /// An operator's way to kube-apiserver is cut; its way to etcd is not.
    OperatorCutOff,
    /// An operator's way to kube-apiserver is slow.
    SlowLink,
    /// An operator's way to etcd is slow.
    SlowEtcdLink,
    /// All operators are killed, for less than a TTL.
    OperatorsKill,
    /// All operators are down for longer than a TTL.
    OperatorsGone,
    /// A member of the etcd is killed and started again.
    MemberKill,
    /// A member of the etcd is paused.
    MemberPause,
    /// A member of the etcd is removed, added as a learner without data, and promoted.
    MemberReplacement,
    /// So many members are killed that the etcd has no quorum.
    QuorumLoss,
    /// The operators' password or client certificate is replaced.
    CredentialRotation,
    /// The etcd forgets its past.
    Compaction,
    /// kube-apiserver is killed and started again.
    ApiserverKill,
    /// kube-apiserver is paused.
    ApiserverPause,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::OperatorKill,
        Self::OperatorRestart,
        Self::OperatorPause,
        Self::OperatorStall,
        Self::OperatorCutOff,
        Self::SlowLink,
        Self::SlowEtcdLink,
        Self::OperatorsKill,
        Self::OperatorsGone,
        Self::MemberKill,
        Self::MemberPause,
        Self::MemberReplacement,
        Self::QuorumLoss,
        Self::CredentialRotation,
        Self::Compaction,
        Self::ApiserverKill,
        Self::ApiserverPause,
    ];

    /// Which part of the system it affects: faults of one part never overlap.
    pub fn part(self) -> Part {
        match self {
            Self::OperatorKill
            | Self::OperatorRestart
            | Self::OperatorPause
            | Self::OperatorStall
            | Self::OperatorCutOff
            | Self::SlowLink
            | Self::SlowEtcdLink
            | Self::OperatorsKill
            | Self::OperatorsGone => Part::Operators,
            Self::MemberKill
            | Self::MemberPause
            | Self::MemberReplacement
            | Self::QuorumLoss
            | Self::CredentialRotation
            | Self::Compaction => Part::Etcd,
            Self::ApiserverKill | Self::ApiserverPause => Part::Kubernetes,
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::OperatorKill => "operator killed",
            Self::OperatorRestart => "operator restarted",
            Self::OperatorPause => "operator paused, shorter than its session",
            Self::OperatorStall => "operator paused, longer than its session",
            Self::OperatorCutOff => "operator cut off from kube-apiserver",
            Self::SlowLink => "operator's link to kube-apiserver slow",
            Self::SlowEtcdLink => "operator's links to etcd slow",
            Self::OperatorsKill => "all operators killed, shorter than a TTL",
            Self::OperatorsGone => "all operators down, longer than a TTL",
            Self::MemberKill => "etcd member killed",
            Self::MemberPause => "etcd member paused",
            Self::MemberReplacement => "etcd member replaced",
            Self::QuorumLoss => "etcd quorum lost",
            Self::CredentialRotation => "credentials for etcd replaced",
            Self::Compaction => "etcd compacted",
            Self::ApiserverKill => "kube-apiserver killed",
            Self::ApiserverPause => "kube-apiserver paused",
        })
    }
}

/// What can be in trouble on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The operators.
    Operators,
    /// The etcd in which they register.
    Etcd,
    /// The control plane.
    Kubernetes,
}

/// Something that the foreign client tried to do to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignWrite {
    /// The key.
    pub key: String,
    /// Whether it was to go.
    pub delete: bool,
    /// When it was tried.
    pub at: Moment,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a foreign client's attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It happened at this revision.
    Done(i64),
    /// It did not happen.
    Refused,
    /// etcd did not answer: it may have happened, or may happen later.
    Unknown,
}
