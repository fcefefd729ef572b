//! Trees made of manifests in files.
