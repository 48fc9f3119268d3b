//! The protobuf package `regimed.v1`, generated from `proto/`.
#![allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]

pub mod codec;
mod encoded;

pub use encoded::{DecisionUpdate, Encoded};

tonic::include_proto!("regimed.v1");

/// Descriptors of the package, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/regimed_descriptor.bin"));

/// Names of enumerations in JSON: those of the protocol.
macro_rules! named {
    ($function:ident, $of:ty) => {
        fn $function<S: serde::Serializer>(value: &i32, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_str(<$of>::try_from(*value).unwrap_or_default().as_str_name())
        }
    };
}
named!(signature_name, Signature);
named!(session_state_name, SessionState);
named!(calibration_state_name, CalibrationState);
