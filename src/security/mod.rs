//! Who may come in: TLS, tokens and their roles, and how many connections there are. docs/security.md has the threats
//! that this is for.

mod connection;
mod guard;
mod in_flight;
mod listener;
mod tls;
mod tokens;

pub use connection::{OpenRequest, Peer, Untaken};
pub use guard::{Answer, Guarded};
pub use in_flight::{Account, GivenUp, InFlight, Incomplete};
pub use listener::{Admission, Incoming, Limits, Listening, Place, Stream, admit, admit_unix};
pub use tls::{Tls, TlsFiles};
pub use tokens::{Denied, Role, Roles, TokenFile, Tokens};
