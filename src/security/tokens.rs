//! Bearer tokens in files, each with what it allows.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::telemetry::Throttle;
use crate::{files, telemetry};

/// Shorter tokens can be guessed.
const LENGTH_MIN: usize = 16;
/// Longest file of tokens.
const FILE_BYTES_MAX: u64 = 1 << 16;

/// Something that is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Decisions, events, sessions, metrics.
    Read,
    /// Counts in.
    Ingest,
    /// Everything: sessions at run time as well.
    Control,
}

impl Role {
    /// All, by their names.
    pub const NAMES: [(&'static str, Self); 3] =
        [("read", Self::Read), ("ingest", Self::Ingest), ("control", Self::Control)];
}

/// Roles of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles(pub Vec<Role>);

impl Roles {
    fn allow(&self, role: Role) -> bool {
        self.0.contains(&role) || self.0.contains(&Role::Control)
    }
}

/// A file with a token in each line, and their roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFile {
    /// The file.
    pub path: PathBuf,
    /// What its tokens allow.
    pub roles: Roles,
}

/// Why a request is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// No token, or none that is known.
    #[error("expected 'authorization: Bearer TOKEN' with a token that is known here")]
    Unknown,
    /// A token without the role that this needs.
    #[error("expected a token with the role that this needs, found one without it")]
    Role,
}

type Fingerprint = [u8; 32];

/// Tokens that are known, as the files had them when they were read last.
pub(crate) struct Tokens {
    files: Vec<TokenFile>,
    /// Fingerprints of the tokens in each file, in the order of `files`.
    known: RwLock<Vec<Vec<Fingerprint>>>,
    /// Bounds the log lines of failed attempts. Locked for a failure only.
    throttle: Mutex<Throttle>,
}

fn fingerprint(token: &str) -> Fingerprint {
    Sha256::digest(token.as_bytes()).into()
}

/// Compares in a time that does not depend on where they differ.
fn equal(a: &Fingerprint, b: &Fingerprint) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0u8, |d, (x, y)| d | (x ^ y))) == 0
}

fn read_file(path: &Path) -> Result<Vec<Fingerprint>> {
    let text = files::read_text(path, FILE_BYTES_MAX)?;
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    let mut found = Vec::new();
    for line in lines {
        if line.len() < LENGTH_MIN {
            let n = line.len();
            bail!("expected tokens of at least {LENGTH_MIN} characters, found one of {n}");
        }
        found.push(fingerprint(line));
    }
    Ok(found)
}

impl Tokens {
    /// Reads all files.
    ///
    /// # Errors
    /// A file that cannot be read, or without a token, or with one too short.
    pub(crate) fn open(files: Vec<TokenFile>) -> Result<Self> {
        let mut tokens = Vec::new();
        for (i, file) in files.iter().enumerate() {
            let found = read_file(&file.path)
                .with_context(|| format!("token[{i}].file ({})", file.path.display()))?;
            if found.is_empty() {
                bail!("token[{i}].file: expected a token in {}, found none", file.path.display());
            }
            tokens.push(found);
        }
        Ok(Self { files, known: RwLock::new(tokens), throttle: Mutex::default() })
    }

    /// Number of files.
    #[must_use]
    pub(crate) fn n_files(&self) -> usize {
        self.files.len()
    }

    /// Reads one file again, so that tokens are added or revoked without a restart. Blocks while
    /// reading; no caller of [`Self::check`] waits for it.
    ///
    /// # Errors
    /// Why it cannot be read: its tokens stay as they were.
    pub(crate) fn reread(&self, file: usize) -> Result<()> {
        let TokenFile { path, .. } = &self.files[file];
        let found = read_file(path).with_context(|| {
            format!("token[{file}].file ({}): its tokens stay as they were", path.display())
        })?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known[file] != found {
            known[file] = found;
            tracing::info!(file = %path.display(), "tokens have changed");
        }
        Ok(())
    }

    /// Whether tokens are asked for at all.
    #[must_use]
    pub(crate) fn are_needed(&self) -> bool {
        !self.files.is_empty()
    }

    /// Checks an `authorization` header. Every failure is counted, and logged at a limited rate,
    /// without the presented token.
    ///
    /// # Errors
    /// The reason for which the call is denied.
    pub(crate) fn check(&self, authorization: Option<&str>, role: Role) -> Result<(), Denied> {
        if !self.are_needed() {
            return Ok(());
        }
        let judged = self.judge(authorization, role);
        if let Err(denied) = judged {
            telemetry::denied(match denied {
                Denied::Unknown => "unknown_token",
                Denied::Role => "role",
            });
            let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(held_back) = throttle.pass(Instant::now()) {
                tracing::warn!(?role, held_back, "a request was denied: {denied}");
            }
        }
        judged
    }

    fn judge(&self, authorization: Option<&str>, role: Role) -> Result<(), Denied> {
        let (scheme, token) =
            authorization.and_then(|a| a.trim().split_once(' ')).ok_or(Denied::Unknown)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Denied::Unknown);
        }
        let presented = fingerprint(token.trim());
        // Compares with all of them, whichever matches, so that the time reveals nothing.
        let (mut found, mut allowed) = (false, false);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        for (tokens, TokenFile { roles, .. }) in known.iter().zip(&self.files) {
            for token in tokens {
                let same = equal(token, &presented);
                found |= same;
                allowed |= same && roles.allow(role);
            }
        }
        match (found, allowed) {
            (_, true) => Ok(()),
            (true, false) => Err(Denied::Role),
            _ => Err(Denied::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_allow_their_roles_and_are_exchanged_without_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("read"), "# for dashboards\naaaaaaaaaaaaaaaa\nbbbbbbbbbbbbbbbb\n")
            .expect("written");
        std::fs::write(path("all"), "cccccccccccccccc").expect("written");
        let file = |name: &str, roles: &[Role]| TokenFile {
            path: path(name),
            roles: Roles(roles.to_vec()),
        };
        let files = vec![file("read", &[Role::Read]), file("all", &[Role::Control])];
        let tokens = Tokens::open(files).expect("tokens");
        let check = |token: &str, role| tokens.check(Some(&format!("Bearer {token}")), role);
        assert_eq!(check("aaaaaaaaaaaaaaaa", Role::Read), Ok(()));
        assert_eq!(check("bbbbbbbbbbbbbbbb", Role::Read), Ok(()));
        assert_eq!(check("bbbbbbbbbbbbbbbb", Role::Ingest), Err(Denied::Role));
        for role in [Role::Read, Role::Ingest, Role::Control] {
            assert_eq!(check("cccccccccccccccc", role), Ok(()));
            assert_eq!(check("cccccccccccccccx", role), Err(Denied::Unknown));
            assert_eq!(tokens.check(None, role), Err(Denied::Unknown));
            assert_eq!(tokens.check(Some("Basic cccccccccccccccc"), role), Err(Denied::Unknown));
        }
        std::fs::write(path("all"), "dddddddddddddddd").expect("written");
        tokens.reread(1).expect("read");
        assert_eq!(check("cccccccccccccccc", Role::Control), Err(Denied::Unknown));
        assert_eq!(check("dddddddddddddddd", Role::Control), Ok(()));
        // A bad file keeps its former tokens, and does not affect the others.
        std::fs::write(path("all"), "short").expect("written");
        std::fs::write(path("read"), "eeeeeeeeeeeeeeee").expect("written");
        let why = format!("{:#}", tokens.reread(1).expect_err("too short"));
        assert!(why.contains("token[1].file") && why.contains("found one of 5"), "{why}");
        tokens.reread(0).expect("read");
        assert_eq!(check("dddddddddddddddd", Role::Control), Ok(()));
        assert_eq!(check("aaaaaaaaaaaaaaaa", Role::Read), Err(Denied::Unknown));
        assert_eq!(check("eeeeeeeeeeeeeeee", Role::Read), Ok(()));
        std::fs::remove_file(path("all")).expect("removed");
        assert!(tokens.reread(1).is_err());
        assert_eq!(check("dddddddddddddddd", Role::Control), Ok(()));
        std::fs::write(path("all"), "short").expect("written");
        let short = Tokens::open(vec![file("all", &[Role::Read])]).err().expect("refused");
        assert!(
            format!("{short:#}").contains("at least 16 characters, found one of 5"),
            "{short:#}"
        );
    }
}
