//! What the command is asked for.

use std::path::PathBuf;
use std::str::FromStr;

/// One of several parts of the ensemble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 0.
    pub index: u64,
    /// Parts in all.
    pub of: u64,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("expected a part and how many there are, e.g. 0/4, found '{text}'");
        let (index, of) = text.split_once('/').ok_or_else(wrong)?;
        let (index, of) = index.parse().ok().zip(of.parse().ok()).ok_or_else(wrong)?;
        if index < of { Ok(Self { index, of }) } else { Err(wrong()) }
    }
}

/// Learn from simulated networks what counts tell of the edge of chaos, and of regimes
#[derive(Debug, clap::Args)]
pub struct AtlasArgs {
    /// Folder of the parts and of what is learned from them
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// Networks in all, for the edge of chaos; 0 leaves it out
    #[arg(long, default_value_t = 7200)]
    pub networks: u64,
    /// Animals, for the recogniser of regimes; 0 leaves it out
    #[arg(long, default_value_t = 12_000)]
    pub animals: u64,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Simulate only one of several parts, e.g. 0/4; the one that finishes last learns from all
    #[arg(long, value_name = "I/N", default_value = "0/1")]
    pub shard: Shard,
}
