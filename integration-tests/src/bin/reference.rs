//! `make reference`: writes the made parts of `docs/reference.md` anew, from the settings and the programs as they are.
#![allow(clippy::print_stdout)]

use anyhow::{Context, Result};
use integration_tests::docs::reference::{PAGE, made};

fn main() -> Result<()> {
    let root = std::env::current_dir()?;
    let bin = std::env::current_exe()?.parent().context("a program lies in a folder")?.to_owned();
    let (before, text) = (std::fs::read_to_string(root.join(PAGE))?, made(&root, &bin)?);
    if before == text {
        println!("{PAGE} is as it should be");
    } else {
        std::fs::write(root.join(PAGE), text)?;
        println!("{PAGE} is written anew");
    }
    Ok(())
}
