//! Compiles the contract without protoc; keeps the descriptor bytes with their custom options.
use std::{env, error::Error, fs, path::PathBuf};

const SOURCES: [&str; 17] = [
    "chancery/options/v1/rule.proto",
    "chancery/v1/common.proto",
    "chancery/v1/rotation.proto",
    "chancery/v1/operation.proto",
    "chancery/v1/device.proto",
    "chancery/v1/standing.proto",
    "chancery/v1/order.proto",
    "chancery/v1/session_keys.proto",
    "chancery/v1/rsp.proto",
    "chancery/v1/ota.proto",
    "chancery/v1/scp11.proto",
    "chancery/v1/keyset.proto",
    "chancery/v1/certificate.proto",
    "chancery/v1/anchor.proto",
    "chancery/v1/audit.proto",
    "chancery/v1/transport_key.proto",
    "chancery/records/v1/records.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=chancery");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(false);
    compiler.open_files(SOURCES)?;
    // prost drops custom options when it re-encodes a descriptor set, so these bytes are kept as they are.
    let descriptor = compiler.encode_file_descriptor_set();
    fs::write(out.join("descriptor.bin"), &descriptor)?;
    let descriptor_set = prost::Message::decode(descriptor.as_slice())?;
    tonic_prost_build::configure().build_transport(true).compile_fds(descriptor_set)?;
    Ok(())
}
