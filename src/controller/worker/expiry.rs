//! Reports certificates that expire soon, while there is time to renew them.

use jiff::{SignedDuration, Timestamp};

use crate::backend::Validity;

/// How long before the expiry the report starts.
const NOTICE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A message about certificates that expire soon or have expired at `now`. None while all are valid for longer.
pub fn notice(validity: &Validity, now: Timestamp) -> Option<String> {
    let ends = |end: &Timestamp| end.duration_since(now) < NOTICE;
    let say = |what: &str, end: Timestamp, remedy: &str| {
        let is = if end > now { "expires at" } else { "expired at" };
        format!("{what} {is} {end:.0}: {remedy}.")
    };
    let client = validity.client.filter(ends).map(|end| {
        let remedy = "store a new one in the Secret that spec.etcd.tls.clientCertSecretRef names";
        say("The operator's client certificate", end, remedy)
    });
    let authority = validity.authority.filter(ends).map(|end| {
        let remedy = "add the next CA certificate beside it in the object that spec.etcd.tls.caRef names";
        say("The CA certificate that verifies etcd's certificates", end, remedy)
    });
    let all: Vec<String> = client.into_iter().chain(authority).collect();
    (!all.is_empty()).then(|| all.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_expiry_is_reported_from_a_week_before_and_afterwards() {
        let end: Timestamp = "2030-01-08T12:00:00Z".parse().expect("a time");
        let validity = Validity {
            client: Some(end),
            authority: None,
        };
        let reported = |now: &str| notice(&validity, now.parse().expect("a time"));
        assert_eq!(reported("2030-01-01T12:00:00Z"), None);
        let soon = reported("2030-01-01T12:00:01Z").expect("soon");
        assert!(
            soon.starts_with("The operator's client certificate expires at 2030-01-08T12:00:00Z: store a new one"),
            "{soon}"
        );
        assert_eq!(
            reported("2030-01-05T00:00:00Z"),
            Some(soon),
            "the message stays the same until the expiry"
        );
        let past = reported("2030-01-08T12:00:00Z").expect("past");
        assert!(past.contains("expired at 2030-01-08T12:00:00Z"), "{past}");
    }

    #[test]
    fn both_expiries_are_reported_and_no_certificate_never_expires() {
        let now = Timestamp::UNIX_EPOCH;
        let both = Validity {
            client: Some(now),
            authority: Some(now),
        };
        let reported = notice(&both, now).expect("both");
        assert!(
            reported.contains("client certificate") && reported.contains("CA certificate"),
            "{reported}"
        );
        assert_eq!(notice(&Validity::default(), now), None);
    }
}
