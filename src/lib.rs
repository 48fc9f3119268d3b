//! regimed
pub mod inference;
pub mod model;
pub mod recording;
pub mod training;
