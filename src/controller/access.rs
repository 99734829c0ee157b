//! Resolves the TLS and user settings of a Registry, and the Secrets that they name, into the access to its etcd.

use std::collections::BTreeSet;

use crate::api::{CaKind, EtcdSpec, Reason};
use crate::backend::{Access, Identity, Malformed, Tls, User};
use crate::kube::{Content, Source, SourceKind};
use crate::secret::SecretString;

/// Why the credentials of a Registry are unusable, before etcd has seen them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Wrong {
    pub reason: Reason,
    /// Describes the problem and what to do about it.
    pub message: String,
}

/// Why no access can be resolved yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// The content of a named object is not known yet.
    NotObserved,
    Wrong(Wrong),
}

/// Returns the Secrets and ConfigMaps that a Registry names.
pub fn sources(spec: &EtcdSpec) -> BTreeSet<Source> {
    let mut all = BTreeSet::new();
    let mut named = |kind, name: &str| {
        all.insert(Source {
            kind,
            name: name.into(),
        });
    };
    if let Some(tls) = &spec.tls {
        named(kind(tls.ca_ref.kind), &tls.ca_ref.name);
        if let Some(own) = &tls.client_cert_secret_ref {
            named(SourceKind::Secret, &own.name);
        }
    }
    if let Some(auth) = &spec.auth {
        named(SourceKind::Secret, &auth.secret_ref.name);
    }
    all
}

fn kind(kind: CaKind) -> SourceKind {
    match kind {
        CaKind::Secret => SourceKind::Secret,
        CaKind::ConfigMap => SourceKind::ConfigMap,
    }
}

/// Resolves the access that `spec` describes. `known` returns the content of the objects in `namespace` that the spec
/// names.
pub fn resolve<'a>(
    spec: &EtcdSpec,
    namespace: &str,
    known: impl Fn(&Source) -> Option<&'a Content>,
) -> Result<Access, Unresolved> {
    let look = Look {
        namespace,
        known: &known,
    };
    let tls = match &spec.tls {
        None => None,
        Some(tls) => {
            let ca_place = &tls.ca_ref;
            let ca_kind = kind(ca_place.kind);
            let ca = look.up(ca_kind, &ca_place.name, &ca_place.key)?;
            let identity = match &tls.client_cert_secret_ref {
                None => None,
                Some(own) => Some(Identity {
                    certificate: look.up(SourceKind::Secret, &own.name, "tls.crt")?,
                    key: look.up(SourceKind::Secret, &own.name, "tls.key")?,
                }),
            };
            let of_own = tls.client_cert_secret_ref.as_ref().map_or("", |own| &own.name);
            let tls = Tls {
                ca,
                identity,
                server_name: tls.server_name.clone(),
            };
            tls.check().map_err(|malformed| {
                let place = match malformed {
                    Malformed::Ca => format!(
                        "{} of the {} {namespace}/{}",
                        ca_place.key,
                        ca_kind.as_str(),
                        ca_place.name
                    ),
                    Malformed::Certificate => format!("tls.crt of the Secret {namespace}/{of_own}"),
                    Malformed::Key | Malformed::KeyOfAnother => format!("tls.key of the Secret {namespace}/{of_own}"),
                    Malformed::ServerName => "spec.etcd.tls".to_owned(),
                };
                Unresolved::Wrong(Wrong {
                    reason: Reason::CredentialsMalformed,
                    message: format!("{place} cannot be used: {malformed}"),
                })
            })?;
            Some(tls)
        }
    };
    let user = match &spec.auth {
        None => None,
        Some(auth) => Some(User {
            name: look.up_line(&auth.secret_ref.name, &auth.username_key)?,
            password: look.up_line(&auth.secret_ref.name, &auth.password_key)?,
        }),
    };
    Ok(Access {
        endpoints: spec.endpoints.clone(),
        tls,
        user,
    })
}

/// Some editors begin a file with this mark. The mark is not part of a password or PEM file.
const BYTE_ORDER_MARK: char = '\u{feff}';
/// Editors and `echo` end a file with these characters. No user name or password ends with them; a space at the end is
/// kept.
const LINE_ENDS: [char; 2] = ['\r', '\n'];

struct Look<'l, F> {
    namespace: &'l str,
    known: &'l F,
}

impl<'a, F: Fn(&Source) -> Option<&'a Content>> Look<'_, F> {
    /// Returns the value of this key of a Secret, without line breaks at its end.
    fn up_line(&self, name: &str, key: &str) -> Result<SecretString, Unresolved> {
        let text = self.up(SourceKind::Secret, name, key)?;
        match text.reveal().trim_end_matches(LINE_ENDS) {
            "" => Err(Unresolved::Wrong(Wrong {
                reason: Reason::CredentialsMissing,
                message: format!(
                    "the key {key} of the Secret {}/{name} contains only line breaks: set a value",
                    self.namespace
                ),
            })),
            kept if kept.len() == text.reveal().len() => Ok(text),
            kept => Ok(SecretString::from(kept.to_owned())),
        }
    }

    fn up(&self, kind: SourceKind, name: &str, key: &str) -> Result<SecretString, Unresolved> {
        let source = Source {
            kind,
            name: name.into(),
        };
        let object = format!("the {} {}/{name}", kind.as_str(), self.namespace);
        let wrong = |reason, message| Err(Unresolved::Wrong(Wrong { reason, message }));
        let missing = Reason::CredentialsMissing;
        match (self.known)(&source) {
            None => Err(Unresolved::NotObserved),
            Some(Content::Absent) => wrong(
                missing,
                format!("{object} does not exist: create it with the key {key}"),
            ),
            Some(Content::Forbidden(words)) => wrong(
                missing,
                format!("the operator may not read {object} ({words}): grant its service account list and watch"),
            ),
            Some(Content::Present(data)) => match data.get(key) {
                None => wrong(
                    missing,
                    format!("{object} has no key {key}: add it, or use another key"),
                ),
                Some(None) => wrong(
                    Reason::CredentialsMalformed,
                    format!("the key {key} of {object} is not valid UTF-8: replace its value"),
                ),
                Some(Some(text)) => match text.reveal().strip_prefix(BYTE_ORDER_MARK).unwrap_or(text.reveal()) {
                    "" => wrong(missing, format!("the key {key} of {object} is empty: set a value")),
                    kept if kept.len() == text.reveal().len() => Ok(text.clone()),
                    kept => Ok(SecretString::from(kept.to_owned())),
                },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn spec() -> EtcdSpec {
        serde_json::from_value(json!({
            "endpoints": ["http://e:2379"],
            "auth": {"secretRef": {"name": "etcd-user"}, "passwordKey": "pw"},
        }))
        .expect("decodes")
    }

    #[test]
    fn the_ca_is_read_from_the_kind_of_object_that_the_reference_names() {
        for (kind, expected) in [
            (json!(null), SourceKind::Secret),
            (json!("Secret"), SourceKind::Secret),
            (json!("ConfigMap"), SourceKind::ConfigMap),
        ] {
            let mut ca = json!({"name": "etcd-ca"});
            if !kind.is_null() {
                ca["kind"] = kind;
            }
            let spec =
                json!({"endpoints": ["https://e:2379"], "tls": {"caRef": ca, "clientCertSecretRef": {"name": "own"}}});
            let all = sources(&serde_json::from_value(spec).expect("decodes"));
            let source = |kind, name: &str| Source {
                kind,
                name: name.into(),
            };
            assert_eq!(
                all,
                [source(expected, "etcd-ca"), source(SourceKind::Secret, "own")].into()
            );
        }
    }

    fn resolved(content: Option<&Content>) -> Result<Access, Unresolved> {
        resolve(&spec(), "ops", |source| {
            assert_eq!((&*source.name, source.kind), ("etcd-user", SourceKind::Secret));
            content
        })
    }

    fn present(keys: &[(&str, Option<&str>)]) -> Content {
        let hidden = |text: &str| SecretString::from(text.to_owned());
        Content::Present(
            keys.iter()
                .map(|(key, text)| ((*key).to_owned(), text.map(hidden)))
                .collect::<BTreeMap<_, _>>(),
        )
    }

    fn wrong(content: &Content) -> (Reason, String) {
        match resolved(Some(content)) {
            Err(Unresolved::Wrong(Wrong { reason, message })) => (reason, message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_missing_is_named_with_its_place() {
        assert_eq!(resolved(None), Err(Unresolved::NotObserved));
        let (reason, message) = wrong(&Content::Absent);
        assert_eq!(reason, Reason::CredentialsMissing);
        assert!(message.contains("Secret ops/etcd-user does not exist"), "{message}");
        let (reason, message) = wrong(&present(&[("username", Some("u"))]));
        assert_eq!(reason, Reason::CredentialsMissing);
        assert!(message.contains("ops/etcd-user has no key pw"), "{message}");
        let (reason, _) = wrong(&present(&[("username", Some("u")), ("pw", None)]));
        assert_eq!(reason, Reason::CredentialsMalformed);
    }

    #[test]
    fn line_ends_and_byte_order_marks_are_no_part_of_user_and_password() {
        for (name, password, expected) in [
            ("somebody\n", "swordfish\n", "swordfish"),
            ("somebody\r\n", "swordfish\r\n", "swordfish"),
            ("\u{feff}somebody", "\u{feff}swordfish\n\n", "swordfish"),
            // Characters that may be intended are kept.
            ("somebody", " sword\nfish ", " sword\nfish "),
            ("somebody", "swordfish \n", "swordfish "),
            ("somebody", "sword\u{feff}fish", "sword\u{feff}fish"),
        ] {
            let access = resolved(Some(&present(&[("username", Some(name)), ("pw", Some(password))])));
            let user = access.expect("resolves").user.expect("a user");
            assert_eq!((user.name.reveal(), user.password.reveal()), ("somebody", expected));
        }
        for empty in ["\n", "\r\n", "\u{feff}", "\u{feff}\n"] {
            let (reason, message) = wrong(&present(&[("username", Some("u")), ("pw", Some(empty))]));
            assert_eq!(reason, Reason::CredentialsMissing);
            assert!(message.contains("the key pw of the Secret ops/etcd-user"), "{message}");
        }
    }

    #[test]
    fn user_and_password_come_from_the_keys_that_are_named_and_are_not_shown() {
        let access = resolved(Some(&present(&[
            ("username", Some("somebody")),
            ("pw", Some("swordfish")),
        ])));
        let access = access.expect("resolves");
        let user = access.user.as_ref().expect("a user");
        assert_eq!((user.name.reveal(), user.password.reveal()), ("somebody", "swordfish"));
        let shown = format!("{access:?}");
        assert!(!shown.contains("swordfish") && !shown.contains("somebody"), "{shown}");
    }
}
