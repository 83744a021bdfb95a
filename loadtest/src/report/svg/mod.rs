//! Charts as SVG: small, without scripts, nothing loaded from elsewhere.

pub mod bars;
pub mod lines;

use std::fmt::{Arguments, Write as _};

/// Text inside an element or an attribute of HTML or SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

pub(super) fn push(out: &mut String, text: Arguments<'_>) {
    out.write_fmt(text).expect("writing to a String doesn't fail");
}
