//! The named facts of an endpoint, for consumers that accept arbitrary metadata.

use std::collections::BTreeMap;

use crate::model::Endpoint;

/// Returns the metadata, and the zone unless the metadata has an entry `zone`.
pub fn facts(endpoint: &Endpoint) -> BTreeMap<&str, &str> {
    let metadata = endpoint.metadata.iter();
    let mut facts: BTreeMap<&str, &str> = metadata.map(|(key, value)| (&**key, &**value)).collect();
    if let Some(zone) = &endpoint.zone {
        facts.entry("zone").or_insert(zone);
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::endpoints::orders;

    #[test]
    fn a_zone_in_the_metadata_wins_over_that_of_the_node() {
        let mut endpoint = orders();
        endpoint.zone = Some("of-the-node".into());
        assert_eq!(facts(&endpoint)["zone"], "eu-1a");
        endpoint.metadata = std::sync::Arc::default();
        assert_eq!(facts(&endpoint)["zone"], "of-the-node");
        endpoint.zone = None;
        assert!(facts(&endpoint).is_empty());
    }
}
