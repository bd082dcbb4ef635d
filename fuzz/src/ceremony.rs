//! The specification of a ceremony: what is accepted leaves files of its own folder, each once.

use std::collections::BTreeSet;

pub fn run(bytes: &[u8]) {
    let Some(products) = server::decoders::ceremony_specification(bytes) else { return };
    assert!(!products.is_empty());
    for product in &products {
        assert!(!product.starts_with(['.', '-']) && !product.contains(['/', '\\', '\0']), "{product}");
    }
    let unique: BTreeSet<_> = products.iter().collect();
    assert_eq!(unique.len(), products.len());
}
