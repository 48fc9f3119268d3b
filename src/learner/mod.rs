//! Small networks that learn from rows of features, and what both readers of counts
//! ([`crate::edge`], [`crate::recogniser`]) prepare rows with.

mod arrays;
mod network;
mod scaling;
mod subspace;

pub(crate) use arrays::{ArraysFault, networks_from, networks_to, take};
pub(crate) use network::{Link, Network, Plan};
pub(crate) use scaling::Scaling;
pub(crate) use subspace::leading;
