//! Reads the expiry times of certificates from their DER encoding (RFC 5280, section 4.1), so that users can renew them
//! before the store rejects the connection.

use jiff::civil::DateTime;
use jiff::{Timestamp, tz::TimeZone};

use super::tls::Tls;

/// Universal tags of ASN.1, and the tag of a certificate's optional version.
const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;

/// The expiry times of an access's certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validity {
    /// The client certificate: the earliest expiry in its chain.
    pub client: Option<Timestamp>,
    /// The trusted CAs: the latest expiry, because the list may contain a CA that is being replaced.
    pub authority: Option<Timestamp>,
}

impl Tls {
    /// Returns the expiry times of the certificates, as far as they can be read.
    pub fn validity(&self) -> Validity {
        let ends = |pem| -> Vec<Timestamp> {
            let all = super::tls::certificates(pem).unwrap_or_default();
            all.iter().filter_map(|certificate| not_after(certificate)).collect()
        };
        let chain = self.identity.as_ref().map(|identity| ends(&identity.certificate));
        Validity {
            client: chain.and_then(|chain| chain.into_iter().min()),
            authority: ends(&self.ca).into_iter().max(),
        }
    }
}

/// Returns the end of the validity period from a certificate's DER; `None` if the bytes are no certificate.
fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let (SEQUENCE, certificate, _) = element(certificate)? else {
        return None;
    };
    let (SEQUENCE, mut rest, _) = element(certificate)? else {
        return None;
    };
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.2;
    }
    // Serial number, algorithm and issuer.
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (SEQUENCE, validity, _) = element(rest)? else {
        return None;
    };
    let (_, _, rest) = element(validity)?;
    let (kind, text, _) = element(rest)?;
    time(kind, std::str::from_utf8(text).ok()?)
}

/// Returns tag and content of the first element, and the bytes after it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // Certificates are shorter than a length of three bytes can express.
        0x81..=0x83 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// Parses `YYMMDDHHMMSSZ` (years 1950 to 2049) or `YYYYMMDDHHMMSSZ`.
fn time(kind: u8, text: &str) -> Option<Timestamp> {
    let digits = text
        .strip_suffix('Z')
        .filter(|digits| digits.bytes().all(|c| c.is_ascii_digit()))?;
    let (year, rest) = match (kind, digits.len()) {
        (UTC_TIME, 12) => {
            let year: i16 = digits[..2].parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &digits[2..])
        }
        (GENERALIZED_TIME, 14) => (digits[..4].parse().ok()?, &digits[4..]),
        _ => return None,
    };
    let part = |at: usize| rest[2 * at..2 * at + 2].parse::<i8>().ok();
    let civil = DateTime::new(year, part(0)?, part(1)?, part(2)?, part(3)?, part(4)?, 0).ok()?;
    TimeZone::UTC.to_timestamp(civil).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use testbed::Authority;

    use super::*;
    use crate::backend::tls::{Identity, certificates};

    fn tls(ca: String, certificate: Option<String>) -> Tls {
        let identity = |certificate: String| Identity {
            certificate: certificate.into(),
            key: String::new().into(),
        };
        Tls {
            ca: ca.into(),
            identity: certificate.map(identity),
            server_name: None,
        }
    }

    /// A certificate made by openssl: `Not After : Feb  3 19:06:35 2032 GMT`.
    const KNOWN: &str = include_str!("validity/known.pem");

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn the_end_is_read_as_openssl_wrote_it() {
        let known = tls(KNOWN.to_owned(), None).validity();
        assert_eq!(known.authority, Some(at("2032-02-03T19:06:35Z")));
        assert_eq!(known.client, None);
    }

    #[test]
    fn of_a_chain_the_first_end_counts_and_of_authorities_the_last() {
        let authority = Authority::new("validity");
        let expired = authority.client("old", testbed::Validity::Expired).certificate;
        let valid = authority.client("new", testbed::Validity::Valid).certificate;
        let both = format!("{valid}{expired}");
        let validity = tls(both.clone(), Some(both)).validity();
        assert_eq!(validity.client, Some(at("2001-01-01T00:00:00Z")));
        assert_eq!(validity.authority, tls(valid, None).validity().authority);
        assert!(
            validity.authority > Some(at("2050-01-01T00:00:00Z")),
            "times from 2050 on have another encoding"
        );
    }

    #[test]
    fn years_of_two_digits_are_those_around_2000() {
        assert_eq!(time(UTC_TIME, "491231235959Z"), Some(at("2049-12-31T23:59:59Z")));
        assert_eq!(time(UTC_TIME, "500101000000Z"), Some(at("1950-01-01T00:00:00Z")));
        assert_eq!(
            time(GENERALIZED_TIME, "20500101000000Z"),
            Some(at("2050-01-01T00:00:00Z"))
        );
        for wrong in [
            "",
            "Z",
            "4912312359Z",
            "499931235959Z",
            "49123123595ßZ",
            "491231235959+0100",
        ] {
            assert_eq!(time(UTC_TIME, wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_no_certificate_any_more_is_read_without_harm(at in 0..500usize, byte: u8, cut in 0..800usize) {
            let mut der = certificates(&KNOWN.to_owned().into()).expect("a certificate")[0].to_vec();
            let place = at % der.len();
            der[place] = byte;
            der.truncate(cut.max(1));
            let _ = not_after(&der);
        }
    }
}
