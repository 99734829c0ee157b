//! The labels of the metrics of a Registry.

use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyWrite {
    /// The key was created or its value replaced.
    Put,
    /// The key was deleted.
    Delete,
    /// The guard of the key did not hold: the key is not in the expected state, or it is a foreign key.
    Refused,
}

impl EncodeLabelValue for KeyWrite {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let word = match self {
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Refused => "refused",
        };
        EncodeLabelValue::encode(&word, encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfRegistry {
    pub registry: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfWrite {
    pub registry: Arc<str>,
    pub kind: KeyWrite,
}

/// The owner of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    /// The operator.
    Client,
    /// The CAs that the operator trusts.
    Authority,
}

impl EncodeLabelValue for Owner {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let word = match self {
            Self::Client => "client",
            Self::Authority => "authority",
        };
        EncodeLabelValue::encode(&word, encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfCertificate {
    pub registry: Arc<str>,
    pub certificate: Owner,
}
