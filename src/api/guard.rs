//! `Registry.spec.guard`: mass-removal protection.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Mass-removal protection: when to hold removals because too many endpoints would lose keys at once though the end of
/// their pods is not confirmed. Keys of pods that were deleted or are terminating are always removed at once. While an edit
/// is held, keys of pods that are no longer ready are removed at once as well, unless these are too many. An endpoint is a
/// pod, node or address of a registration; it counts once, in however many formats it is registered.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
// KubeSchema copies this attribute to structs of other names, so it names the type.
#[serde(rename_all = "camelCase", default = "Guard::default")]
pub struct Guard {
    /// What to do when more endpoints would lose keys than the limits below allow. Hold: keep the keys for holdSeconds, or
    /// until they are desired again (the pods are ready, or the edit is undone), their pods end, or an admin approves the
    /// removal as the condition RemovalsHeld of this Registry describes. Warn: remove them and report it by an Event, the
    /// operator's log and metrics. Off: remove them. Defaults to Hold.
    pub mode: GuardMode,

    /// The length of the window in which removals are counted together, in seconds. Defaults to 60.
    #[schemars(range(min = 1, max = 3600))]
    pub window_seconds: u32,

    /// The percentage of this Registry's endpoints that may lose keys within the window although the end of their pods is
    /// not confirmed. Defaults to 50. Removals beyond that are held, first those of the namespaces that would lose more than
    /// this percentage of their own endpoints.
    #[schemars(range(min = 1, max = 99))]
    pub max_loss_percent: u32,

    /// The minimum number of endpoints: when fewer lose keys, nothing is held. The keys of an endpoint count as one.
    /// Defaults to 10.
    #[schemars(range(min = 1, max = 100_000))]
    pub min_endpoints: u32,

    /// How long keys are held, in seconds. Defaults to 300.
    #[schemars(range(min = 1, max = 86_400))]
    pub hold_seconds: u32,
}

/// What to do when more endpoints would lose keys than the limits allow.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardMode {
    /// Remove them.
    Off,
    /// Remove them, and report it by an Event, the operator's log and metrics.
    Warn,
    /// Keep them for holdSeconds, until they are desired again, their pods end, or an admin approves.
    Hold,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            mode: GuardMode::Hold,
            window_seconds: 60,
            max_loss_percent: 50,
            min_endpoints: 10,
            hold_seconds: 300,
        }
    }
}
