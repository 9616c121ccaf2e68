pub const FALLBACK_IMAGE_ALIASES: &[&str] = &["lab"];
