//! `Registry.spec.guard`: when removals are held back.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When removals are held back because too many keys would go at once on a mere suspicion. Pods that were deleted or
/// terminate are facts, and their keys go at once.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Guard {
    /// What happens when more keys would go than the limits below allow. Hold: they are kept for holdSeconds, or until
    /// their pods are back, or until an admin approves as the condition Held of this Registry says. Warn: they go, and
    /// an Event, the operator's log and metrics tell. Off: they go. Left out, it is Hold.
    #[serde(default)]
    pub mode: GuardMode,

    /// Losses within so many seconds count together: 1 to 3600; left out, 60.
    #[serde(default = "default_window_seconds")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 3600").message("windowSeconds must be 1 to 3600; 60 suits most"))]
    pub window_seconds: u32,

    /// How many percent of this Registry's keys may go within the window because their pods are no longer ready or were
    /// missing from a list: 1 to 99; left out, 50. What would go beyond that is held.
    #[serde(default = "default_max_loss_percent")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 99").message("maxLossPercent must be 1 to 99; 50 suits most. mode: Off holds nothing"))]
    pub max_loss_percent: u32,

    /// A loss of fewer keys than this is never held: 1 to 100000; left out, 10.
    #[serde(default = "default_min_keys")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 100000").message("minKeys must be 1 to 100000; 10 suits most"))]
    pub min_keys: u32,

    /// How long keys are held, in seconds: 1 to 86400; left out, 300.
    #[serde(default = "default_hold_seconds")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 86400").message("holdSeconds must be 1 to 86400; 300 suits most"))]
    pub hold_seconds: u32,
}

/// What happens when more keys would go than the limits allow.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuardMode {
    /// They go.
    Off,
    /// They go, and an Event, the operator's log and metrics tell.
    Warn,
    /// They are kept for a while.
    #[default]
    Hold,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            mode: GuardMode::Hold,
            window_seconds: 60,
            max_loss_percent: 50,
            min_keys: 10,
            hold_seconds: 300,
        }
    }
}

fn default_window_seconds() -> u32 {
    60
}

fn default_max_loss_percent() -> u32 {
    50
}

fn default_min_keys() -> u32 {
    10
}

fn default_hold_seconds() -> u32 {
    300
}
