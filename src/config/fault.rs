//! A fault of a configuration, and its place.

use std::path::PathBuf;

/// One thing wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Line, from 1; 0 where the fault is of the whole file.
    pub line: usize,
    /// Key as written, e.g. `session[1].model`.
    pub key: String,
    /// Expected and found.
    pub problem: String,
}

/// Everything wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// Each fault, in the file's order.
    pub faults: Vec<Fault>,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let n = self.faults.len();
        write!(f, "{}: {n} fault{}", self.path.display(), if n == 1 { "" } else { "s" })?;
        for fault in &self.faults {
            match fault.line {
                0 => write!(f, "\n  {}: {}", fault.key, fault.problem)?,
                line => write!(f, "\n  line {line}: {}: {}", fault.key, fault.problem)?,
            }
        }
        Ok(())
    }
}
