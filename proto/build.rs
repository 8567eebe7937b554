//! Compiles `proto/merganser/v1/*.proto` in pure Rust: no `protoc` is needed.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use protox::prost::Message;

/// The folder that import paths start from.
const ROOT: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let mut files =
        fs::read_dir(Path::new(ROOT).join("merganser/v1"))?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    files.sort();

    let descriptors = protox::compile(&files, [ROOT])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("merganser.v1.bin"), descriptors.encode_to_vec())?;

    // Ordered maps make the encoding of a message a function of its content.
    // A message is looked through before it is decoded, see `codec`.
    let code = tonic_prost_build::configure().codec_path("crate::codec::BoundedCodec");
    code.btree_map(".merganser.v1").bytes(".merganser.v1").compile_fds(descriptors)?;
    Ok(())
}
