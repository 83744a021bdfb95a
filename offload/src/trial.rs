//! Tries whether an interface takes the program, and takes it off again: nothing less makes a driver say why not.

use super::features::Netdev;
use super::maps::Sizes;
use super::probe;
use super::xdp::{Mode, Xdp, XdpError};

/// Attaches the program, switched off, to an interface, and takes it off again. Many drivers reset their queues for
/// either: the link may pause. Gives what is known of it then.
///
/// # Errors
/// Why it can't be there, in the kernel's words, and what to type.
pub fn attach(device: &str) -> Result<String, String> {
    let facts = probe::facts(device);
    probe::verdict(&facts).map_err(|unfit| unfit.to_string())?;
    let mut xdp = Xdp::load(Sizes::SMALL).map_err(|error| error.to_string())?;
    let below = facts.layers.device;
    xdp.attach(below, Mode::Native).map_err(|error| match error {
        XdpError::Attach(refusal) => refusal.explain(device),
        error => error.to_string(),
    })?;
    // Many drivers say what they can transmit only while a program is there.
    let features = Netdev::open().and_then(|mut netdev| netdev.features(below));
    xdp.detach(below).map_err(|error| error.to_string())?;
    Ok(match features {
        Ok(features) if features.transmit => "transmits what came in elsewhere".to_owned(),
        Ok(_) => "transmits nothing that came in elsewhere: only what it received itself".to_owned(),
        Err(_) => "the kernel does not say what it transmits".to_owned(),
    })
}
