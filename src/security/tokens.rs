//! Bearer tokens in files, each with what it allows.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::telemetry::{self, Throttle};

/// Files are read again so often: a token is taken from, or given to, somebody without a restart.
const REREAD: Duration = Duration::from_secs(1);
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

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No token, or none that is known.
    #[error("expected 'authorization: Bearer TOKEN' with a token that is known here")]
    Unknown,
    /// A token without the role that this needs.
    #[error("expected a token with the role that this needs, found one without it")]
    Role,
}

type Fingerprint = [u8; 32];

struct Known {
    read: Instant,
    tokens: Vec<(Fingerprint, Roles)>,
}

/// Tokens that are known, as the files have them.
pub struct Tokens {
    files: Vec<TokenFile>,
    known: Mutex<Known>,
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
    if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
        bail!("expected a file of at most {FILE_BYTES_MAX} bytes");
    }
    let text = std::fs::read_to_string(path)?;
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
    pub fn open(files: Vec<TokenFile>) -> Result<Self> {
        let mut tokens = Vec::new();
        for (i, file) in files.iter().enumerate() {
            let found = read_file(&file.path)
                .with_context(|| format!("token[{i}].file ({})", file.path.display()))?;
            if found.is_empty() {
                bail!("token[{i}].file: expected a token in {}, found none", file.path.display());
            }
            tokens.extend(found.into_iter().map(|t| (t, file.roles.clone())));
        }
        let known = Mutex::new(Known { read: Instant::now(), tokens });
        Ok(Self { files, known, throttle: Mutex::default() })
    }

    /// Whether tokens are asked for at all.
    #[must_use]
    pub fn are_needed(&self) -> bool {
        !self.files.is_empty()
    }

    /// Judges an `authorization` header. Whatever is wrong is counted, and logged at a limited rate, without what was
    /// presented.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, authorization: Option<&str>, role: Role) -> Result<(), Denied> {
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
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.read.elapsed() > REREAD {
            self.reread(&mut known);
        }
        let (scheme, token) =
            authorization.and_then(|a| a.trim().split_once(' ')).ok_or(Denied::Unknown)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Denied::Unknown);
        }
        let presented = fingerprint(token.trim());
        // All are looked at, whichever fits.
        let (mut found, mut allowed) = (false, false);
        for (token, roles) in &known.tokens {
            let same = equal(token, &presented);
            found |= same;
            allowed |= same && roles.allow(role);
        }
        match (found, allowed) {
            (_, true) => Ok(()),
            (true, false) => Err(Denied::Role),
            _ => Err(Denied::Unknown),
        }
    }

    /// Takes the files as they are now; a file that cannot be read leaves all as it was.
    fn reread(&self, known: &mut Known) {
        known.read = Instant::now();
        let mut tokens = Vec::new();
        for (i, file) in self.files.iter().enumerate() {
            match read_file(&file.path) {
                Ok(found) => tokens.extend(found.into_iter().map(|t| (t, file.roles.clone()))),
                Err(e) => {
                    tracing::error!(
                        "token[{i}].file cannot be read, its tokens stay as they were: {e:#}"
                    );
                    return;
                }
            }
        }
        if tokens != known.tokens {
            tracing::info!("tokens have changed");
            known.tokens = tokens;
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
        std::thread::sleep(REREAD + Duration::from_millis(50));
        assert_eq!(check("cccccccccccccccc", Role::Control), Err(Denied::Unknown));
        assert_eq!(check("dddddddddddddddd", Role::Control), Ok(()));
        std::fs::write(path("all"), "short").expect("written");
        std::thread::sleep(REREAD + Duration::from_millis(50));
        assert_eq!(check("dddddddddddddddd", Role::Control), Ok(()), "a bad file changes nothing");
        let short = Tokens::open(vec![file("all", &[Role::Read])]).err().expect("refused");
        assert!(
            format!("{short:#}").contains("at least 16 characters, found one of 5"),
            "{short:#}"
        );
    }
}
