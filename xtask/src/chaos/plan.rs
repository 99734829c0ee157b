//! What a seed stands for: which faults come when, and what is done to Kubernetes and to etcd meanwhile. What exists at the time
//! is known only then, so actions carry a raw number (`pick`) that chooses among it.

use std::{fmt, time::Duration};

use super::{record::FaultKind, rng::Rng};

/// Deployments and what selects their pods go by a number below this.
pub const APPS: usize = 4;
/// The last of them is in a namespace of its own.
pub const EDGE_APP: usize = APPS - 1;
/// Registrations go by a number below this; there are more than apps, so that pods are registered twice.
pub const REGISTRATIONS: usize = 4;
/// The types of addresses that the registrations with numbers from there on have mostly; the others have the addresses of
/// pods mostly.
pub const ADDRESSES: [&str; 6] = [
    "NodePort",
    "NodePort",
    "HostIP",
    "ClusterIP",
    "ExternalIP",
    "LoadBalancer",
];
/// The registrations with numbers from there on are in the second namespace and Registry.
pub const EDGE_SLOTS: usize = REGISTRATIONS + ADDRESSES.len();
/// All registrations have numbers below this.
pub const SLOTS: usize = EDGE_SLOTS + 2;
/// The bare pods with numbers from there on are in the second namespace.
pub const EDGE_PODS: usize = 8;
/// Bare pods go by a number below this.
pub const BARE_PODS: usize = EDGE_PODS + 2;
/// Nodes go by a number below this.
pub const NODES: usize = 3;
/// The most pods of one Deployment.
const REPLICAS: u64 = 6;

/// One or two faults at a time, and the time after them.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    /// Faults of different parts of the system, at the same time.
    pub faults: Vec<PlannedFault>,
    /// For how long everything is well before the next round. The workload goes on.
    pub calm: Duration,
    /// Whether everything is then brought to rest and checked.
    pub quiet: bool,
}

/// A fault to come.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedFault {
    /// What kind.
    pub kind: FaultKind,
    /// Since the round began.
    pub after: Duration,
    /// How long it lasts until the repair begins.
    pub lasts: Duration,
    /// Chooses what it affects.
    pub pick: u64,
}

/// The rounds of a seed, without end. Every kind of fault comes once before any comes again.
pub struct Rounds {
    rng: Rng,
    deck: Vec<FaultKind>,
    dealt: usize,
}

impl Rounds {
    /// Of a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed, 1),
            deck: Vec::new(),
            dealt: 0,
        }
    }

    fn draw(&mut self) -> FaultKind {
        if self.deck.is_empty() {
            self.deck = FaultKind::ALL.to_vec();
            self.rng.shuffle(&mut self.deck);
        }
        self.deck.pop().expect("just filled")
    }

    fn planned(&mut self, kind: FaultKind) -> PlannedFault {
        let rng = &mut self.rng;
        let (least, most) = match kind {
            FaultKind::OperatorKill | FaultKind::OperatorsKill => (0, 5_000),
            FaultKind::OperatorRestart => (0, 2_000),
            FaultKind::OperatorPause => (100, 2_000),
            FaultKind::OperatorStall => (4_000, 8_000),
            // From what is over before it is noticed to what a standby replica has to end.
            FaultKind::OperatorCutOff => (3_000, 35_000),
            FaultKind::SlowLink | FaultKind::SlowEtcdLink => (2_000, 15_000),
            // Added to the TTL.
            FaultKind::OperatorsGone => (3_000, 4_000),
            FaultKind::MemberKill | FaultKind::QuorumLoss => (500, 7_000),
            // Twice: before the learner comes, and before it is promoted.
            FaultKind::MemberReplacement => (0, 3_000),
            FaultKind::MemberPause | FaultKind::ApiserverKill | FaultKind::ApiserverPause => (500, 8_000),
            // Between the two steps.
            FaultKind::CredentialRotation => (0, 1_500),
            FaultKind::Compaction => (0, 1),
        };
        PlannedFault {
            kind,
            after: rng.milliseconds(0, 1_500),
            lasts: rng.milliseconds(least, most),
            pick: rng.next(),
        }
    }
}

impl Iterator for Rounds {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        let first = self.draw();
        let mut faults = vec![self.planned(first)];
        if self.rng.percent(40) {
            let second = self.draw();
            if second.part() == first.part() {
                self.deck.push(second);
            } else {
                faults.push(self.planned(second));
            }
        }
        self.dealt += 1;
        Some(Round {
            faults,
            calm: self.rng.milliseconds(5_000, 13_000),
            quiet: self.dealt.is_multiple_of(3),
        })
    }
}

/// Something that people and controllers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A Deployment gets another number of pods.
    Scale { app: usize, replicas: u32 },
    /// A bare pod is created, unless it is there.
    CreatePod { slot: usize },
    /// A bare pod is deleted.
    DeletePod { slot: usize },
    /// All pods of an app are deleted in one request.
    DeletePods { app: usize },
    /// A bare pod gets the labels of another app.
    Relabel { slot: usize, app: usize },
    /// A pod becomes ready, or unready, whichever it is not.
    Toggle { pick: u64 },
    /// A pod becomes unready and ready again at once.
    Flap { pick: u64 },
    /// A pod gets an IPv6 address beside its other one, or loses it.
    Readdress { pick: u64 },
    /// A registration is created, or changed to this shape.
    Register { slot: usize, shape: u64 },
    /// A registration is deleted.
    Unregister { slot: usize },
    /// All registrations are deleted in one request.
    UnregisterAll,
    /// A Service asks for a registration of this shape by its annotations.
    Annotate { app: usize, shape: u64 },
    /// A Service loses its annotations.
    Unannotate { app: usize },
    /// Another client edits or deletes the registration that is kept for an annotated Service.
    Meddle { app: usize, pick: u64 },
    /// A node gets another zone or another label, or loses it.
    RelabelNode { node: usize, pick: u64 },
    /// A node becomes ready, or unready, whichever it is not.
    ToggleNode { node: usize },
    /// A node is excluded from load balancers, marked for removal or made unschedulable, or that is undone.
    ReserveNode { node: usize, pick: u64 },
    /// A node gets an address that is reached from outside, or loses it.
    ReachNode { node: usize, pick: u64 },
    /// The Registry allows other labels of nodes to be published.
    AllowLabels { pick: u64 },
    /// The traffic of a Service goes to pods of the node that it reaches, or of all nodes.
    Route { app: usize, local: bool },
    /// A Service gets other external IPs, or its load balancer other addresses.
    Lead { app: usize, pick: u64 },
    /// The foreign client writes a key beside those of a registration.
    ForeignNear { pick: u64 },
    /// The foreign client takes the key that a bare pod is about to want.
    ForeignTakes { slot: usize, pick: u64 },
    /// The foreign client changes one of its keys.
    ForeignChanges { pick: u64 },
    /// The foreign client deletes one of its keys.
    ForeignLeaves { pick: u64 },
}

impl Action {
    /// What it is called in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scale { .. } => "Deployment scaled",
            Self::CreatePod { .. } => "pod created",
            Self::DeletePod { .. } => "pod deleted",
            Self::DeletePods { .. } => "all pods of an app deleted",
            Self::Relabel { .. } => "pod relabelled",
            Self::Toggle { .. } => "pod's readiness toggled",
            Self::Flap { .. } => "pod flapped",
            Self::Readdress { .. } => "pod's IPv6 address added or removed",
            Self::Register { .. } => "registration created or changed",
            Self::Unregister { .. } => "registration deleted",
            Self::UnregisterAll => "all registrations deleted",
            Self::Annotate { .. } => "Service annotated",
            Self::Unannotate { .. } => "Service's annotations removed",
            Self::Meddle { .. } => "kept registration edited or deleted",
            Self::RelabelNode { .. } => "node relabelled",
            Self::ToggleNode { .. } => "node's readiness toggled",
            Self::ReserveNode { .. } => "node excluded, marked, cordoned or restored",
            Self::ReachNode { .. } => "node's external address added or removed",
            Self::AllowLabels { .. } => "Registry's list of node labels changed",
            Self::Route { .. } => "Service's traffic policy changed",
            Self::Lead { .. } => "Service's addresses changed",
            Self::ForeignNear { .. } => "foreign client wrote a key of its own",
            Self::ForeignTakes { .. } => "foreign client took a pod's key",
            Self::ForeignChanges { .. } => "foreign client changed a key",
            Self::ForeignLeaves { .. } => "foreign client deleted a key",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The actions of a seed, without end, each with the pause before it.
pub struct Actions(Rng);

impl Actions {
    /// Of a seed.
    pub fn new(seed: u64) -> Self {
        Self(Rng::new(seed, 2))
    }
}

impl Iterator for Actions {
    type Item = (Duration, Action);

    fn next(&mut self) -> Option<Self::Item> {
        let rng = &mut self.0;
        let pause = rng.milliseconds(30, 400);
        let mut slot_of = |n: usize| super::rng::index(rng.next(), n);
        let (app, slot, registration) = (slot_of(APPS), slot_of(BARE_PODS), slot_of(SLOTS));
        let node = slot_of(NODES);
        let (chance, pick) = (rng.below(134), rng.next());
        let action = match chance {
            0..12 => Action::Scale {
                app,
                replicas: u32::try_from(pick % (REPLICAS + 1)).expect("it fits"),
            },
            12..23 => Action::CreatePod { slot },
            23..31 => Action::DeletePod { slot },
            31..35 => Action::Relabel { slot, app },
            35..52 => Action::Toggle { pick },
            52..63 => Action::Flap { pick },
            63..73 => Action::Register {
                slot: registration,
                shape: pick,
            },
            73..76 => Action::Unregister { slot: registration },
            76..80 => Action::Annotate { app, shape: pick },
            80..82 => Action::Unannotate { app },
            82..84 => Action::Meddle { app, pick },
            84..87 => Action::ForeignNear { pick },
            87..92 => Action::ForeignTakes { slot, pick },
            92..94 => Action::ForeignChanges { pick },
            94..100 => Action::ForeignLeaves { pick },
            100..106 => Action::RelabelNode { node, pick },
            106..108 => Action::ToggleNode { node },
            108..112 => Action::ReserveNode { node, pick },
            112..116 => Action::Route {
                app,
                local: pick.is_multiple_of(2),
            },
            116..120 => Action::Readdress { pick },
            120..123 => Action::DeletePods { app },
            123 => Action::UnregisterAll,
            124..127 => Action::ReachNode { node, pick },
            127..130 => Action::AllowLabels { pick },
            _ => Action::Lead { app, pick },
        };
        Some((pause, action))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_plans_the_same_twice_and_another_seed_another_thing() {
        let rounds = |seed| Rounds::new(seed).take(20).collect::<Vec<_>>();
        let actions = |seed| Actions::new(seed).take(200).collect::<Vec<_>>();
        assert_eq!(rounds(5), rounds(5));
        assert_eq!(actions(5), actions(5));
        assert_ne!(rounds(5), rounds(6));
        assert_ne!(actions(5), actions(6));
    }

    #[test]
    fn each_fault_kind_comes_before_repeats_and_pairs_hit_different_parts() {
        for seed in 0..50 {
            let mut seen = Vec::new();
            for round in Rounds::new(seed) {
                if let [first, second] = &round.faults[..] {
                    assert_ne!(first.kind.part(), second.kind.part());
                }
                seen.extend(round.faults.iter().map(|fault| fault.kind));
                if seen.len() >= FaultKind::ALL.len() {
                    break;
                }
            }
            let first: BTreeSet<_> = seen.iter().take(FaultKind::ALL.len()).collect();
            assert_eq!(first.len(), FaultKind::ALL.len(), "seed {seed}: {seen:?}");
        }
    }

    #[test]
    fn every_action_is_planned_sooner_or_later() {
        let names: BTreeSet<_> = Actions::new(1).take(1000).map(|(_, action)| action.name()).collect();
        assert_eq!(names.len(), 25);
    }
}
