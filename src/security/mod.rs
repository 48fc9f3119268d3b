//! Who may come in: TLS, tokens and their roles, and how many connections there are.
//! docs/security.md has the threats that this is for.

mod connection;
mod guard;
mod in_flight;
mod listener;
mod tls;
mod tokens;

pub(crate) use connection::{Peer, Untaken};
pub(crate) use guard::{Answer, Guarded};
pub(crate) use in_flight::{Account, InFlight};
pub(crate) use listener::{Admission, Incoming, Limits, Listening, Place, admit, admit_unix};
pub(crate) use tls::{Tls, TlsFiles};
pub(crate) use tokens::{Denied, Role, Roles, TokenFile, Tokens};
