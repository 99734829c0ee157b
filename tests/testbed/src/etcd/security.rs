//! Who may enter an etcd cluster: TLS of its members, certificates of its clients, users and their roles.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, Permission, TlsOptions, UserAddOptions};

use super::{EtcdCluster, certificates::Pair};
use crate::error::{Doing, Result};

/// How members speak with their clients: by https.
#[derive(Clone, Debug)]
pub struct Security {
    /// What members present.
    pub server: Pair,
    /// The certificate of the authority that signed it, for the bed's own clients.
    pub authority: String,
    /// Set when clients have to present a certificate too.
    pub clients: Option<ClientCertificates>,
}

/// The certificates of clients.
#[derive(Clone, Debug)]
pub struct ClientCertificates {
    /// The certificate of the authority that signs them.
    pub authority: String,
    /// What the bed's own clients present.
    pub own: Pair,
}

/// What the members of one cluster have of it.
#[derive(Debug)]
pub(super) struct Entrance {
    security: Option<Security>,
    folder: PathBuf,
    /// The password of root, once authentication is on.
    root: Mutex<Option<String>>,
}

impl Entrance {
    pub(super) fn new(security: Option<Security>, folder: PathBuf) -> Result<Self> {
        let entrance = Self {
            security,
            folder,
            root: Mutex::new(None),
        };
        if let Some(security) = &entrance.security {
            fs::create_dir_all(&entrance.folder).doing(|| "create the folder of certificates")?;
            entrance.present(&security.server)?;
            if let Some(clients) = &security.clients {
                replace(&entrance.folder.join("clients.crt"), &clients.authority)?;
            }
        }
        Ok(entrance)
    }

    /// The flags that make a member do as wanted; it tells its health without TLS at `health`.
    pub(super) fn args(&self, health: &str) -> Vec<String> {
        let Some(security) = &self.security else {
            return Vec::new();
        };
        let path = |file: &str| self.folder.join(file).display().to_string();
        let mut args = vec![
            "--cert-file".to_owned(),
            path("server.crt"),
            "--key-file".to_owned(),
            path("server.key"),
            "--listen-metrics-urls".to_owned(),
            health.to_owned(),
        ];
        if security.clients.is_some() {
            args.extend([
                "--client-cert-auth".to_owned(),
                "--trusted-ca-file".to_owned(),
                path("clients.crt"),
            ]);
        }
        args
    }

    pub(super) fn is_secure(&self) -> bool {
        self.security.is_some()
    }

    /// What members present from now on: etcd reads it for every connection.
    fn present(&self, pair: &Pair) -> Result<()> {
        replace(&self.folder.join("server.key"), &pair.key)?;
        replace(&self.folder.join("server.crt"), &pair.certificate)
    }

    /// What the bed's own clients need.
    pub(super) fn options(&self) -> ConnectOptions {
        let options = self.anonymous_options();
        match &*self.root.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(password) => options.with_user("root", password).with_auto_token_refresh(true),
            None => options,
        }
    }

    /// Likewise without a user: a learner takes no login.
    pub(super) fn anonymous_options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new().with_connect_timeout(Duration::from_secs(2));
        if let Some(security) = &self.security {
            let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(&security.authority));
            if let Some(ClientCertificates { own, .. }) = &security.clients {
                tls = tls.identity(Identity::from_pem(&own.certificate, &own.key));
            }
            options = options.with_tls(tls);
        }
        options
    }
}

fn replace(path: &Path, text: &str) -> Result<()> {
    let next = path.with_extension("new");
    let written = fs::write(&next, text).and_then(|()| fs::rename(&next, path));
    written.doing(|| format!("write {}", path.display()))
}

impl EtcdCluster {
    /// What members present from now on.
    pub fn present(&self, pair: &Pair) -> Result<()> {
        self.entrance.present(pair)
    }

    /// Turns authentication on, with a user root of this password. The bed's own clients use it from now on.
    pub async fn enable_auth(&self, password: &str) -> Result<()> {
        let mut client = self.client().await?;
        let doing = || "turn authentication on";
        client.user_add("root", password, None).await.doing(doing)?;
        // Releases before 3.6 make the role on their own.
        let _ = client.role_add("root").await;
        client.user_grant_role("root", "root").await.doing(doing)?;
        client.auth_enable().await.doing(doing)?;
        *self.entrance.root.lock().unwrap_or_else(PoisonError::into_inner) = Some(password.to_owned());
        Ok(())
    }

    /// Turns authentication on for clients that present a certificate, whose common name is their user. The certificate of
    /// the bed's own clients is that of root, so that no password and no token of theirs can become invalid.
    pub async fn enable_auth_by_certificate(&self) -> Result<()> {
        let mut client = self.client().await?;
        let doing = || "turn authentication on";
        let no_password = UserAddOptions::new().with_no_pwd();
        client.user_add("root", "", Some(no_password)).await.doing(doing)?;
        // Releases before 3.6 make the role on their own.
        let _ = client.role_add("root").await;
        client.user_grant_role("root", "root").await.doing(doing)?;
        client.auth_enable().await.map(drop).doing(doing)
    }

    /// A user with a role of the same name, which may read and write below these prefixes and nowhere else.
    pub async fn add_user(&self, name: &str, password: &str, prefixes: &[&str]) -> Result<()> {
        let mut client = self.client().await?;
        client.user_add(name, password, None).await.doing(|| "add a user")?;
        client.role_add(name).await.doing(|| "add a role")?;
        for prefix in prefixes {
            self.grant(&mut client, name, prefix).await?;
        }
        client.user_grant_role(name, name).await.doing(|| "grant a role")?;
        Ok(())
    }

    async fn grant(&self, client: &mut Client, role: &str, prefix: &str) -> Result<()> {
        let permission = Permission::read_write(prefix).with_prefix();
        let granted = client.role_grant_permission(role, permission).await;
        granted.map(drop).doing(|| "grant a permission")
    }

    /// Lets a role read and write below one more prefix.
    pub async fn grant_prefix(&self, role: &str, prefix: &str) -> Result<()> {
        let mut client = self.client().await?;
        self.grant(&mut client, role, prefix).await
    }

    /// Takes it back.
    pub async fn revoke_prefix(&self, role: &str, prefix: &str) -> Result<()> {
        let mut client = self.client().await?;
        let options = etcd_client::RoleRevokePermissionOptions::new().with_prefix();
        let revoked = client.role_revoke_permission(role, prefix, Some(options)).await;
        revoked.map(drop).doing(|| "revoke a permission")
    }

    /// Gives a user another password.
    pub async fn set_password(&self, name: &str, password: &str) -> Result<()> {
        let mut client = self.client().await?;
        let changed = client.user_change_password(name, password).await;
        changed.map(drop).doing(|| "change a password")
    }
}
