//! The secrets of a control plane that lives for minutes: a token, and the key that signs service accounts' tokens.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{
    rand::{SecureRandom, SystemRandom},
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::json;

use crate::error::{Doing, Error, Result};

/// What precedes the 65 bytes of a P-256 point in its SubjectPublicKeyInfo (RFC 5480): ids of ecPublicKey and prime256v1.
const P256_HEADER: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Files that kube-apiserver and kube-controller-manager are pointed at.
pub(super) struct Credentials {
    /// Of the user `admin`, who may do everything.
    pub token: String,
    pub tokens: PathBuf,
    pub signing_key: PathBuf,
    pub public_key: PathBuf,
}

impl Credentials {
    /// Makes new ones and writes their files.
    pub fn create(folder: &Path) -> Result<Self> {
        let token = random_name(32)?;
        let unusable = |_| Error::Invalid("the system's random numbers cannot be read".into());
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).map_err(unusable)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random)
            .expect("a pair just generated parses");
        let public = [&P256_HEADER, pair.public_key().as_ref()].concat();
        Ok(Self {
            tokens: write(folder, "tokens.csv", &format!("{token},admin,admin,system:masters\n"))?,
            signing_key: write(folder, "service-accounts.key", &pem("PRIVATE KEY", document.as_ref()))?,
            public_key: write(folder, "service-accounts.pub", &pem("PUBLIC KEY", &public))?,
            token,
        })
    }

    /// Writes a kubeconfig for `admin`, complete in itself so that it can be copied away.
    pub fn kubeconfig(&self, server: &str, certificates: &[u8], path: &Path) -> Result<()> {
        let text = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "bed", "cluster": {"server": server, "certificate-authority-data": STANDARD.encode(certificates)}}],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": "admin"}}],
            "current-context": "bed",
        });
        // JSON is YAML, which is all that readers of kubeconfigs ask for.
        fs::write(path, format!("{text:#}\n")).doing(|| format!("write {}", path.display()))
    }
}

/// Random lower-case letters and digits, fit for Kubernetes names.
pub(crate) fn random_name(length: usize) -> Result<String> {
    let mut bytes = vec![0; length];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::Invalid("the system's random numbers cannot be read".into()))?;
    let letters = b"abcdefghijklmnopqrstuvwxyz012345";
    Ok(bytes
        .iter()
        .map(|byte| char::from(letters[usize::from(byte % 32)]))
        .collect())
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, text).doing(|| format!("write {}", path.display()))?;
    Ok(path)
}
