use std::sync::Arc;

/// Identifies one pod, also among pods of the same name that follow each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodRef {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// `metadata.uid`.
    pub uid: Arc<str>,
}
