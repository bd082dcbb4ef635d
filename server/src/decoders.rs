//! The daemon's readers of files that persons bring, for the fuzz targets; no part of the daemon.

/// Reads a ceremony's specification; the files that the ceremony would leave, when it is accepted.
pub fn ceremony_specification(bytes: &[u8]) -> Option<Vec<String>> {
    crate::ceremony::products_of(bytes)
}
