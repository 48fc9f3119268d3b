//! Closing the loop: a regime's begin or end, or a probability that stays above a threshold, makes
//! something happen outside.
//!
//! A [`Watch`] on the session's own thread looks at every outcome before anybody else has it, and
//! sends datagrams itself. Everything slower is done by a [`Worker`] of the trigger's own, which
//! also keeps the record. Triggers act only while they are armed (`bus::Triggers`).

mod condition;
mod firing;
mod limits;
mod message;
mod settings;
mod target;
mod watch;
mod worker;

pub(crate) use limits::DAY_NS;
#[cfg(feature = "lsl")]
pub(crate) use settings::LslTarget;
pub(crate) use settings::{
    DAILY_MAX, HttpTarget, LATE, REFRACTORY, RedisTarget, SerialTarget, Settings, TRIGGERS_MAX,
    Target, UdpTarget, When,
};
pub(crate) use watch::{Watch, open};
pub(crate) use worker::Worker;
