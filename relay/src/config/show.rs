//! The configuration in force, for people: every option's value as it would be written, secrets never.

use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use super::types::{
    DefaultFamily, ExternalAddress, Hidden, IoBackend, LogFormat, LogLevel, Offload, OffloadMode, PortRange,
    ProxyUdp, TlsVersion,
};

/// What may be shown of an option's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Nothing is set.
    Nothing,
    /// A text, word or number.
    One(String),
    /// Texts.
    Many(Vec<String>),
    /// That many secrets.
    Secrets(usize),
}

/// A value that knows how it is shown. A type without it can't become an option.
pub(super) trait ToShown {
    /// `value` is what stands for the value in the help: for a duration, its unit.
    fn to_shown(&self, value: &str) -> Shown;
}

macro_rules! as_text {
    ($($type:ty => |$value:ident| $text:expr;)*) => {
        $(impl ToShown for $type {
            fn to_shown(&self, _: &str) -> Shown {
                let $value = self;
                Shown::One($text.to_string())
            }
        })*
    };
}

as_text! {
    bool => |value| value;
    u32 => |value| value;
    String => |value| value;
    NonZero<usize> => |value| value;
    PortRange => |value| value;
    DefaultFamily => |value| value.name();
    IoBackend => |value| value.name();
    Offload => |value| value.name();
    OffloadMode => |value| value.name();
    ProxyUdp => |value| value.name();
    TlsVersion => |value| value.name();
    LogLevel => |value| value.name();
    LogFormat => |value| value.name();
}

impl ToShown for Duration {
    fn to_shown(&self, value: &str) -> Shown {
        Shown::One(match value {
            "US" => self.as_micros().to_string(),
            "MS" => self.as_millis().to_string(),
            _ => self.as_secs().to_string(),
        })
    }
}

impl<T: ToShownItem> ToShown for Option<T> {
    fn to_shown(&self, _: &str) -> Shown {
        self.as_ref().map_or(Shown::Nothing, |value| Shown::One(value.to_item()))
    }
}

impl<T: ToShownItem> ToShown for Vec<T> {
    fn to_shown(&self, _: &str) -> Shown {
        Shown::Many(self.iter().map(ToShownItem::to_item).collect())
    }
}

impl<T> ToShown for Hidden<Vec<T>> {
    fn to_shown(&self, _: &str) -> Shown {
        Shown::Secrets(self.0.len())
    }
}

/// A value within a list or an option that may be unset.
pub(super) trait ToShownItem {
    fn to_item(&self) -> String;
}

macro_rules! as_item {
    ($($type:ty => |$value:ident| $text:expr;)*) => {
        $(impl ToShownItem for $type {
            fn to_item(&self) -> String {
                let $value = self;
                $text.to_string()
            }
        })*
    };
}

as_item! {
    std::net::SocketAddr => |value| value;
    std::net::IpAddr => |value| value;
    ipnet::IpNet => |value| value;
    NonZero<u32> => |value| value;
    NonZero<u64> => |value| value;
    String => |value| value;
    PathBuf => |value| value.display();
    ExternalAddress => |value| value;
}
