//! What others call: gRPC, ZeroMQ, HTTP and the live page.

mod describe;
pub(crate) mod grpc;
pub(crate) mod http;
pub(crate) mod page;
pub(crate) mod zeromq;

pub(crate) use describe::describe;
