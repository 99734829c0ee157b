//! Authorities and the certificates that they sign, made on the spot.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// A certificate and its private key, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// Whether a certificate is valid now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// For decades.
    Valid,
    /// For three days.
    Ending,
    /// It was, in 2001.
    Expired,
}

/// An authority that signs certificates.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A new one of this name.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key is made");
        Self(CertifiedIssuer::self_signed(params, key).expect("it signs itself"))
    }

    /// Its own certificate, as PEM: who has it trusts all that it signs.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for servers of these names and addresses. They may use it as clients, too: etcd's members do.
    pub fn server(&self, names: &[&str], validity: Validity) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).expect("they are names");
        self.sign(params, "etcd", validity)
    }

    /// A certificate for a client of this common name, which etcd takes for the name of a user.
    pub fn client(&self, common_name: &str, validity: Validity) -> Pair {
        self.sign(CertificateParams::default(), common_name, validity)
    }

    fn sign(&self, mut params: CertificateParams, common_name: &str, validity: Validity) -> Pair {
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        match validity {
            Validity::Valid => {}
            Validity::Ending => params.not_after = (SystemTime::now() + Duration::from_hours(72)).into(),
            Validity::Expired => {
                params.not_before = date_time_ymd(2000, 1, 1);
                params.not_after = date_time_ymd(2001, 1, 1);
            }
        }
        let key = KeyPair::generate().expect("a key is made");
        let certificate = params.signed_by(&key, &self.0).expect("it is signed");
        Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// A key pair for signing tokens (ES256): the private and the public key, as PEM.
pub fn token_keys() -> (String, String) {
    let key = KeyPair::generate().expect("a key is made");
    (key.serialize_pem(), key.public_key_pem())
}
