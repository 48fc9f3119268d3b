//! Access control: TLS, tokens and their roles, bounds on connections. docs/security.md lists the
//! threats.

mod connection;
mod guard;
mod in_flight;
mod listener;
mod tls;
mod tokens;

pub(crate) use connection::{Peer, Untaken};
pub(crate) use guard::{Answer, Guarded};
pub(crate) use in_flight::{Account, InFlight};
pub(crate) use listener::{
    AFTER_ERROR, Admission, Incoming, Limits, Listening, Place, admit, admit_unix,
};
pub(crate) use tls::{Tls, TlsFiles};
pub(crate) use tokens::{Denied, Role, Roles, TokenFile, Tokens};
