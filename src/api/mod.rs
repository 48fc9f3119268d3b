//! What others call: gRPC, ZeroMQ, HTTP and the live page.

mod describe;
pub mod grpc;
pub mod http;
pub mod page;
pub mod zeromq;

pub use describe::describe;
