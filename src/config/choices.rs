//! Enums for settings that accept a fixed set of words.

use std::fmt;

use super::key::Key;
use super::layer::Layers;
use super::setting::setting;
use super::spanned_toml::Node;
use super::value_kind::ValueKind;
use crate::egress::Mode;
use crate::model::NicKind;

macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident {
        $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)?
    })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            pub const NAMES: &'static [&'static str] = &[$($word),+];

            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }

        setting! {
            $name: Key::new(ValueKind::Choice(Self::NAMES)), |value| Self::from_name(value.as_str()?);
        }
    )*};
}

choices! {
    /// The server software that pixels run on.
    BackendKind { Incus = "incus", TrueNas = "truenas" }

    /// Where egress policies are enforced.
    EgressPlacement {
        /// `Gateway`, unless the settings name a network for pixels.
        Auto = "auto",
        Gateway = "gateway",
        /// Each pixel enforces its own policy.
        Pixel = "pixel",
    }

    /// The program that keeps console sessions running after a disconnect.
    Multiplexer {
        /// zmx if installed in the pixel, else tmux.
        Auto = "auto",
        Zmx = "zmx",
        Tmux = "tmux",
        /// No program: a plain shell that ends with the connection.
        None = "none",
    }
}

setting! {
    Mode: Key::new(ValueKind::Choice(Mode::NAMES)), |value| Mode::from_name(value.as_str()?);
    NicKind: Key::new(ValueKind::Choice(&["macvlan", "bridged"])), |value| {
        match value.as_str()? {
            "macvlan" => Some(NicKind::Macvlan),
            "bridged" => Some(NicKind::Bridged),
            _ => None,
        }
    };
}
