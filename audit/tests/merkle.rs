//! The tree against published vectors and two other implementations.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise, and says so")]

use audit::{
    CheckpointBody, ConsistencyProver, Frontier, Hash, TileWriter, check_consistency, leaf_hash,
    parse_witness_request, split_bundle, tile_paths, witness_request,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ct_merkle::mem_backed_tree::MemoryBackedTree;
use proptest::prelude::*;
use serde_json::Value;
use sha2::Sha256;
use tlog_tiles::{Hash as TlogHash, check_record};

fn vectors(name: &str) -> Vec<Value> {
    let path = format!("{}/../tests/vectors/merkle/merkle-{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn hash(value: &Value) -> Option<Hash> {
    BASE64.decode(value.as_str()?).ok()?.try_into().ok()
}

fn proof(value: &Value) -> Option<Vec<Hash>> {
    match value {
        Value::Null => Some(Vec::new()),
        _ => value.as_array()?.iter().map(hash).collect(),
    }
}

#[test]
fn inclusion_proofs_are_judged_as_the_published_vectors_say() {
    let mut judged = 0;
    for vector in vectors("inclusion") {
        let parts = (hash(&vector["root"]), hash(&vector["leafHash"]), proof(&vector["proof"]));
        // A hash of another length is not a hash: the parser of any proof refuses it before.
        let (Some(root), Some(leaf), Some(proof)) = parts else {
            assert_eq!(vector["wantErr"], true, "{}", vector["_path"]);
            continue;
        };
        let proof = proof.into_iter().map(TlogHash).collect();
        let (size, index) = (vector["treeSize"].as_u64().unwrap(), vector["leafIdx"].as_u64().unwrap());
        let verdict = check_record(&proof, size, TlogHash(root), index, TlogHash(leaf));
        assert_eq!(verdict.is_err(), vector["wantErr"] == true, "{}", vector["_path"]);
        judged += 1;
    }
    assert!(judged >= 70, "{judged}");
}

#[test]
fn consistency_proofs_are_judged_as_the_published_vectors_say() {
    let mut judged = 0;
    for vector in vectors("consistency") {
        let parts = (hash(&vector["root1"]), hash(&vector["root2"]), proof(&vector["proof"]));
        let (Some(root1), Some(root2), Some(proof)) = parts else {
            // Its two equal roots are no hashes ("don't care"): the one such vector that wants no error.
            let unusable =
                vector["_path"] == "consistency/additional/sizes-are-equal-one-and-proof-is-empty.json";
            assert_eq!(vector["wantErr"], !unusable, "{}", vector["_path"]);
            continue;
        };
        let body =
            |size: &Value, root| CheckpointBody { origin: "log".into(), size: size.as_u64().unwrap(), root };
        let (old, new) = (body(&vector["size1"], root1), body(&vector["size2"], root2));
        let verdict = check_consistency(&old, &new, &proof);
        assert_eq!(verdict.is_err(), vector["wantErr"] == true, "{}", vector["_path"]);
        judged += 1;
    }
    assert!(judged >= 70, "{judged}");
}

fn entry(index: u64) -> Vec<u8> {
    index.to_string().into_bytes()
}

#[test]
fn the_frontier_grows_to_the_roots_of_another_implementation_and_survives_storage() {
    let mut frontier = Frontier::new();
    let mut other = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    // TRUST: the root of the empty tree is SHA-256 of nothing.
    assert_eq!(BASE64.encode(frontier.root()), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    for index in 0..600 {
        frontier.push(leaf_hash(&entry(index)));
        other.push(entry(index));
        assert_eq!(frontier.root().as_slice(), other.root().as_bytes().as_slice(), "size {}", index + 1);
        frontier = Frontier::from_parts(frontier.size(), frontier.hashes().to_vec()).unwrap();
    }
    assert!(Frontier::from_parts(600, frontier.hashes()[1..].to_vec()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn streamed_consistency_proofs_are_those_of_another_implementation(old in 1usize..400, more in 0usize..400) {
        let new = old + more;
        let mut tree = MemoryBackedTree::<Sha256, Vec<u8>>::new();
        let mut prover = ConsistencyProver::new(old as u64, new as u64);
        let (mut frontier, mut old_root) = (Frontier::new(), None);
        for index in 0..new as u64 {
            tree.push(entry(index));
            let leaf = leaf_hash(&entry(index));
            prover.push(leaf);
            frontier.push(leaf);
            if frontier.size() == old as u64 {
                old_root = Some(frontier.root());
            }
        }
        let proof = prover.finish();
        let expected = if more == 0 { Vec::new() } else { tree.prove_consistency(more).as_bytes().to_vec() };
        prop_assert_eq!(proof.concat(), expected);
        let body = |size, root| CheckpointBody { origin: "log".into(), size, root };
        let (old, new) = (body(old as u64, old_root.unwrap()), body(new as u64, frontier.root()));
        prop_assert_eq!(check_consistency(&old, &new, &proof), Ok(()));
        let request = witness_request(old.size, &proof, b"checkpoint\n");
        prop_assert_eq!(parse_witness_request(&request, b"checkpoint\n"), Ok((old.size, proof)));
    }
}

/// C2SP tlog-tiles: floor(size / 256^level) hashes at each level, 256 to a full tile, the rest in one partial.
fn tiles_by_formula(size: u64) -> Vec<(String, usize)> {
    let number = |n: u64| match n {
        0..1000 => format!("{n:03}"),
        _ => format!("x{:03}/{:03}", n / 1000, n % 1000),
    };
    let mut files = Vec::new();
    for level in 0u32..4 {
        let hashes = size / 256u64.pow(level);
        for tile in 0..hashes.div_ceil(256) {
            let width = (hashes - tile * 256).min(256);
            let partial = if width == 256 { String::new() } else { format!(".p/{width}") };
            files.push((format!("tile/{level}/{}{partial}", number(tile)), width as usize * 32));
            if level == 0 {
                files.push((format!("tile/entries/{}{partial}", number(tile)), 0));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn the_tile_set_of_each_size_is_that_of_the_formula() {
    let sizes = [0, 1, 2, 255, 256, 257, 511, 70_000, 65_535, 65_536, 65_537, 256_001];
    for size in sizes {
        let mut paths = tile_paths(size);
        paths.sort();
        let expected: Vec<String> = tiles_by_formula(size).into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, expected, "{size}");
    }
    // One writer over all sizes: what it has completed so far plus its partials are the set of that size.
    let (mut writer, mut full) = (TileWriter::new(), Vec::new());
    for size in 0..=65_537 {
        if size > 0 {
            let entry = entry(size - 1);
            full.extend(writer.push(leaf_hash(&entry), &entry).unwrap());
        }
        if sizes.contains(&size) {
            let mut files: Vec<(String, usize)> = Vec::new();
            for file in full.iter().cloned().chain(writer.partials()) {
                let hashes = if file.path.starts_with("tile/entries/") {
                    split_bundle(&file.bytes).unwrap();
                    0
                } else {
                    file.bytes.len()
                };
                files.push((file.path, hashes));
            }
            files.sort();
            assert_eq!(files, tiles_by_formula(size), "{size}");
        }
    }
}
