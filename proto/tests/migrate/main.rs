//! The state of a server that goes on in another process.

mod fits;
mod lockstep;
mod refused;

use turnpike_testkit::rig as lab;
