//! Mechanism that both daemons need, and no policy. In reading order.

pub mod error;
pub mod time;

pub use error::Error;
