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

    /// A certificate for such names that may only be shown by clients.
    pub fn misused(&self, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).expect("they are names");
        self.sign_for(
            params,
            "etcd",
            Validity::Valid,
            vec![ExtendedKeyUsagePurpose::ClientAuth],
        )
    }

    /// A certificate for a client of this common name, which etcd takes for the name of a user.
    pub fn client(&self, common_name: &str, validity: Validity) -> Pair {
        self.sign(CertificateParams::default(), common_name, validity)
    }

    fn sign(&self, params: CertificateParams, common_name: &str, validity: Validity) -> Pair {
        let both = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign_for(params, common_name, validity, both)
    }

    fn sign_for(
        &self,
        mut params: CertificateParams,
        common_name: &str,
        validity: Validity,
        usages: Vec<ExtendedKeyUsagePurpose>,
    ) -> Pair {
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = usages;
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

/// A certificate for these names that signs itself; with `authority` it is that of an authority (CA:TRUE), as
/// `openssl req -x509` makes it.
pub fn self_signed(names: &[&str], authority: bool) -> Pair {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("they are names");
    params.distinguished_name.push(DnType::CommonName, "etcd");
    params.is_ca = if authority {
        IsCa::Ca(BasicConstraints::Unconstrained)
    } else {
        IsCa::ExplicitNoCa
    };
    let key = KeyPair::generate().expect("a key is made");
    let certificate = params.self_signed(&key).expect("it signs itself");
    Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    }
}

/// A key pair for signing tokens (ES256): the private and the public key, as PEM.
pub fn token_keys() -> (String, String) {
    let key = KeyPair::generate().expect("a key is made");
    (key.serialize_pem(), key.public_key_pem())
}
