//! Who may come in: TLS, tokens and their roles, and how many connections there are. docs/security.md has the threats
//! that this is for.

mod listener;
mod tls;
mod tokens;

pub use listener::{Admission, Incoming, Limits, Peer, Stream, admit, admit_unix};
pub use tls::{Tls, TlsFiles};
pub use tokens::{Denied, Role, Roles, TokenFile, Tokens};
