//! The filter bank with other experts beside it, and one posterior of them all.

mod averages;
mod expert;
mod pooled;
mod rates;
mod recurrent;

pub(crate) use averages::AveragesFilter;
pub(crate) use expert::Expert;
#[cfg(test)]
pub(crate) use pooled::example_experts;
pub(crate) use pooled::{PROBABILITY_MIN, Pooled, combine};
pub(crate) use rates::RateFilter;
pub(crate) use recurrent::RecurrentFilter;
