//! What was found, a line each.

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Good,
    /// It works, but not as well as it could.
    Warning,
    /// It does not work.
    Failure,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warn",
            Self::Failure => "FAIL",
        }
    }
}

/// One line, and what to do.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub(super) level: Level,
    what: String,
    found: String,
    /// What helps; empty where nothing needs to be done.
    cure: String,
}

impl Finding {
    pub(super) fn good(what: impl Into<String>, found: impl Into<String>) -> Self {
        let (what, found) = (what.into(), found.into());
        Self { level: Level::Good, what, found, cure: String::new() }
    }

    pub(super) fn bad(
        level: Level,
        what: impl Into<String>,
        found: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self { level, what: what.into(), found: found.into(), cure: cure.into() }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:<5} {:<22} {}", self.level.word(), self.what, self.found)?;
        if self.cure.is_empty() { Ok(()) } else { write!(f, " -> {}", self.cure) }
    }
}
