//! Defaults of the configuration.

use crate::bus::ModelSource;

/// Default address of gRPC.
pub(crate) const GRPC_LISTEN: &str = "127.0.0.1:7733";
/// Default address of ZeroMQ counts in (PULL).
pub(crate) const ZEROMQ_PULL: &str = "127.0.0.1:7734";
/// Default address of ZeroMQ decisions and events out (PUB).
pub(crate) const ZEROMQ_PUBLISH: &str = "127.0.0.1:7735";
/// Default address of HTTP: metrics, health, the page and its data.
pub(crate) const HTTP_LISTEN: &str = "127.0.0.1:9464";
/// Default largest message, bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Default number of connections to each port.
pub(crate) const CONNECTIONS_MAX: usize = 4096;
/// Default number of connections to each port from one address.
pub(crate) const CONNECTIONS_PER_PEER_MAX: usize = 2048;
/// Default number of gRPC calls that run at once on one connection: the least that HTTP/2
/// recommends (RFC 9113, 6.5.2).
pub(crate) const STREAMS_PER_CONNECTION_MAX: usize = 100;
/// Default bins that wait for a session.
pub(crate) const QUEUE_BINS: usize = 1024;
/// Default longest gap that is predicted through, bins; after a longer one the fit restarts.
pub(crate) const GAP_BINS_MAX: usize = 1000;
/// Default number of events a session keeps for subscribers that resume.
pub(crate) const EVENTS_KEPT: usize = 10_000;
/// Default time for ending, seconds.
pub(crate) const DRAIN_S: f64 = 5.0;
/// Default time of counts on which a session calibrates itself, seconds.
pub(crate) const CALIBRATE_S: f64 = 60.0;
/// Default rate of the metrics, Hz.
pub(crate) const METRICS_HZ: f64 = 10.0;
/// Model that is part of the binary.
pub(crate) const BUILTIN_MODEL: &str = ModelSource::BUILTIN;
/// Most sessions of one daemon.
pub(crate) const SESSIONS_MAX: usize = 256;
