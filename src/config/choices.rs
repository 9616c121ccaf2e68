//! Enums whose variants are words in the settings.

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
    /// The kind of server that pixels run on.
    BackendKind { Incus = "incus", TrueNas = "truenas" }

    /// Where egress policies are enforced.
    EgressPlacement {
        /// `Gateway`, unless the settings name a network for the pixels.
        Auto = "auto",
        Gateway = "gateway",
        /// Inside each pixel.
        Pixel = "pixel",
    }

    /// What keeps console sessions.
    Multiplexer {
        /// zmx if the pixel has it, else tmux.
        Auto = "auto",
        Zmx = "zmx",
        Tmux = "tmux",
        /// A plain shell that ends with the connection.
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
