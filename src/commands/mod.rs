//! One file per command of the binary.

mod abilities;
pub mod access;
pub mod atlas;
pub mod brand;
pub mod calibrate;
mod card;
pub mod demo;
pub mod doctor;
mod drawing;
pub mod edge;
mod endpoint;
pub mod evaluate;
pub mod export;
pub mod init;
pub mod inspect;
pub mod journal;
pub mod manual;
mod picture;
pub mod pretrain;
mod progress;
pub mod recordings;
pub mod replay;
mod scoreboard;
pub mod serve;
pub mod sessions;
pub mod simulate;
pub mod watch;
