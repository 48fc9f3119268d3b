//! The protobuf package `regimed.v1`, generated from `proto/`.
#![allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]

tonic::include_proto!("regimed.v1");

/// Descriptors of the package, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/regimed_descriptor.bin"));
