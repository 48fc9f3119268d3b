//! The gRPC services that need no more than the sessions: counts in, decisions and events out.

pub(crate) mod ingest;
pub(crate) mod regimes;
