//! engine
pub mod mmsg;
