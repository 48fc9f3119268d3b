//! Simulated rate networks with known truth: what the method's claims are tested on.
//!
//! `tau dr/dt = -r + J tanh(r) + c + xi` with `J = (1/N) M A M^T + g chi / sqrt(N)`. With normal
//! `M` the latents `kappa` of `r = M kappa` obey `tau dkappa/dt = -kappa + <tanh'> A kappa` for
//! large `N` (Mastrogiuseppe & Ostojic 2018), so that `A` chooses the regime: a small `A` a stable
//! point, one real eigenvalue above 1 two stable points, a complex pair above 1 a limit cycle, a
//! real pair above 1 a ring; `A = 0` with `g` above 1 is chaotic (Sompolinsky, Crisanti & Sommers
//! 1988).

mod animal;
mod connectivity;
mod draws;
mod drive;
mod ensemble;
mod flow;
mod herd;
mod planar;
mod simulation;
mod truth;

pub(crate) use animal::Task;
pub use animal::{Animal, AnimalSettings, REGIME_NAMES, Regime};
pub(crate) use connectivity::Architecture;
pub(crate) use drive::Input;
pub(crate) use ensemble::{Kind, View, specimen};
pub(crate) use flow::Transfer;
pub(crate) use herd::{Family, HERD_BIN_S, wandering};
pub(crate) use planar::{PLANAR_NAMES, PlanarKind, PlanarReadout, PlanarTask};
pub use simulation::{Dwell, Simulation};
pub(crate) use truth::{Truth, truth};
