//! Walls in motion.
