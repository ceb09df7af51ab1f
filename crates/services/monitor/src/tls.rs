//! Certificate and key of the API, read again when they change.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Context;
use axum_server::tls_rustls::RustlsConfig;

/// How often it is looked whether there are new ones.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificate {
    /// From the runtime's settings for this bot; `None` where neither file is named.
    pub(crate) fn from_settings(settings: &BTreeMap<String, String>, wrong: &mut Vec<String>) -> Option<Self> {
        let file = |name: &str| settings.get(name).map(PathBuf::from);
        match (file("tls_cert_file"), file("tls_key_file")) {
            (Some(certificate), Some(key)) => return Some(Self { certificate, key }),
            (None, None) => {}
            _ => wrong.push("one of tls_cert_file and tls_key_file is set: expected both, or neither".to_owned()),
        }
        None
    }

    pub(crate) async fn load(&self) -> anyhow::Result<RustlsConfig> {
        let loaded = RustlsConfig::from_pem_file(&self.certificate, &self.key).await;
        loaded.with_context(|| self.words())
    }

    /// Takes what was renewed. What cannot be read leaves the earlier one in use, and says so once.
    pub(crate) async fn keep_fresh(self, config: RustlsConfig) {
        let mut known = self.changed_at();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = self.changed_at();
            if now == known {
                continue;
            }
            known = now;
            match config.reload_from_pem_file(&self.certificate, &self.key).await {
                Ok(()) => tracing::info!("the API shows its new certificate"),
                Err(e) => tracing::warn!("{}: {e}; the earlier one stays in use", self.words()),
            }
        }
    }

    fn changed_at(&self) -> [Option<SystemTime>; 2] {
        let changed = |file: &Path| file.metadata().and_then(|meta| meta.modified()).ok();
        [changed(&self.certificate), changed(&self.key)]
    }

    fn words(&self) -> String {
        format!(
            "expected a certificate in {} and its key in {}, both PEM",
            self.certificate.display(),
            self.key.display()
        )
    }
}
