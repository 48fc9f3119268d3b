//! Tokens and certificates, read again while the daemon runs; and what each call needs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::bus::{Condition, Registry};
use crate::config::Config;
use crate::security::{Role, Tls, TlsFiles, Tokens};
use crate::tasks;

/// Interval at which files are read again.
const REREAD_EVERY: Duration = Duration::from_secs(1);

/// Certificates and tokens, read again when their files change.
pub(crate) struct Access {
    pub(super) tokens: Arc<Tokens>,
    pub(super) grpc_tls: Option<Arc<Tls>>,
    pub(super) http_tls: Option<Arc<Tls>>,
}

/// Reads certificates and tokens.
///
/// # Errors
/// A file that cannot be read, or is of another kind.
pub(crate) fn access(config: &Config) -> Result<Access> {
    let tls = |protocol: &'static [u8]| {
        let open = |files: &TlsFiles| Tls::open(files.clone(), protocol).map(Arc::new);
        config.tls.as_ref().map(open).transpose()
    };
    Ok(Access {
        tokens: Arc::new(Tokens::open(config.tokens.clone())?),
        grpc_tls: tls(b"h2")?,
        http_tls: tls(b"http/1.1")?,
    })
}

type Reread = Arc<dyn Fn() -> Result<()> + Send + Sync>;

impl Access {
    /// Files, each reread independently: one that hangs or cannot be read does not affect the
    /// others.
    fn files(&self) -> Vec<Reread> {
        let mut files: Vec<Reread> = Vec::new();
        for file in 0..self.tokens.n_files() {
            let tokens = self.tokens.clone();
            files.push(Arc::new(move || tokens.reread(file)));
        }
        for tls in [&self.grpc_tls, &self.http_tls].into_iter().flatten() {
            let tls = tls.clone();
            files.push(Arc::new(move || tls.reread()));
        }
        files
    }

    /// Reads every file again once a second, and at once when it is asked for; what cannot be read
    /// is a condition.
    pub(super) fn keep_reading(
        &self,
        registry: &Arc<Registry>,
        asked: &Arc<Notify>,
    ) -> Vec<JoinHandle<()>> {
        let problems = Arc::new(Problems { registry: registry.clone(), by_file: Mutex::default() });
        let one = |(number, reread): (usize, Reread)| {
            let (problems, asked) = (problems.clone(), asked.clone());
            tasks::spawn(async move {
                loop {
                    let _ = tokio::time::timeout(REREAD_EVERY, asked.notified()).await;
                    let reread = reread.clone();
                    // Fails only while the runtime shuts down.
                    let Ok(read) = tokio::task::spawn_blocking(move || reread()).await else {
                        return;
                    };
                    problems.set(number, read.err().map(|e| format!("{e:#}")));
                }
            })
        };
        self.files().into_iter().enumerate().map(one).collect()
    }
}

/// Files that cannot be read.
struct Problems {
    registry: Arc<Registry>,
    /// The condition lists all bad files; it ends when the last one is good again.
    by_file: Mutex<BTreeMap<usize, String>>,
}

impl Problems {
    fn set(&self, file: usize, problem: Option<String>) {
        let mut by_file = self.by_file.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            Some(problem) => by_file.insert(file, problem),
            None => by_file.remove(&file),
        };
        let all: Vec<&str> = by_file.values().map(String::as_str).collect();
        let found = (!all.is_empty()).then(|| all.join("; "));
        self.registry.conditions.set("", Condition::CredentialsUnreadable, found);
    }
}

/// What a call needs, by the service it is of.
pub(super) fn needs_ingest(path: &str) -> &'static [Role] {
    // An exchange also returns decisions.
    if path.ends_with("/Exchange") { &[Role::Ingest, Role::Read] } else { &[Role::Ingest] }
}

pub(super) fn needs_read(_: &str) -> &'static [Role] {
    &[Role::Read]
}

pub(super) fn needs_control(_: &str) -> &'static [Role] {
    &[Role::Control]
}

/// Probes, reflection and health are asked before there is a token; they reveal nothing of an
/// experiment.
pub(super) fn needs_nothing(_: &str) -> &'static [Role] {
    &[]
}
