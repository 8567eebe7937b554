//! `docs/reference.md`, the parts of it that are made from the code: settings from their types, sub-commands from the programs.
//!
//! A part stands between `<!-- made: NAME -->` and `<!-- made until here -->`; everything else in the page is written by hand and stays.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use storage::config::{ByteSize, Config, Period};

/// The page.
pub const PAGE: &str = "docs/reference.md";
const BEGINS: &str = "<!-- made: ";
const ENDS: &str = "<!-- made until here -->";
const CLOSES: &str = " -->";
/// Where the types of settings are declared, folders whole.
const SOURCES: [&str; 2] = ["storage/src/config", "views/src/schema.rs"];
/// Keys that are whoever writes the file's own.
const OPEN_TABLE: &str = "events.attributes";
/// Who reads a section, where the code does not tell by itself: a section and a key have one name, or only some keys are read.
const READERS: [(&str, &str); 5] = [
    ("log", "`speed-layer`; `batch-layer` reads `partitions`, where no version tells"),
    ("speed_layer", "`speed-layer`, and by its `load` and `dead-letter replay` for the address"),
    ("serving_layer", "`serving-layer`, and by its `get` and `rows` for the address"),
    ("views", "`batch-layer`; the other layers read definitions from the store"),
    ("batch_layer", "`batch-layer`"),
];
const PROGRAMS: [&str; 3] = ["speed-layer", "batch-layer", "serving-layer"];

/// The page of the repository at `root` as it should be, with what the programs in `bin` say.
///
/// # Errors
/// A part that nobody knows how to make; a setting without a sentence; a program that cannot be run.
pub fn made(root: &Path, bin: &Path) -> Result<String> {
    let page = std::fs::read_to_string(root.join(PAGE)).context(PAGE)?;
    let (mut text, mut lines) = (String::new(), page.lines());
    while let Some(line) = lines.next() {
        text += line;
        text.push('\n');
        let Some(name) = line.strip_prefix(BEGINS).and_then(|rest| rest.strip_suffix(CLOSES)) else { continue };
        ensure!(lines.by_ref().any(|line| line == ENDS), "{PAGE}: the part {name} has no end");
        let part = match name {
            "settings" => settings(root)?,
            name if PROGRAMS.contains(&name) => program(bin, name)?,
            name => bail!("{PAGE}: nobody knows how to make the part {name}"),
        };
        text += &format!("{}\n{ENDS}\n", part.trim_end());
    }
    Ok(text)
}

/// What a program says about its command line.
fn program(bin: &Path, name: &str) -> Result<String> {
    let said = Command::new(bin.join(name)).arg("reference").output().with_context(|| bin.join(name).display().to_string())?;
    ensure!(said.status.success(), "{name} reference: {}", String::from_utf8_lossy(&said.stderr));
    Ok(String::from_utf8(said.stdout)?)
}

/// A table for each section.
fn settings(root: &Path) -> Result<String> {
    let structs = Structs::read(root)?;
    let defaults = serde_json::to_value(Config::default())?;
    let file: toml::Table = std::fs::read_to_string(root.join("merganser.toml"))?.parse()?;
    let mut text = String::new();
    for field in structs.fields("Config")? {
        let section = &field.name;
        let values = defaults[section].as_object().with_context(|| format!("[{section}] is no section"))?;
        let of_section =
            structs.0.get(&field.kind).with_context(|| format!("no source declares {}, the type of [{section}]", field.kind))?;
        // Writing to a text does not fail.
        let _written = writeln!(text, "### `[{section}]`\n\n{} Read by {}.\n", sentence(&field.doc), readers(root, section)?);
        let _written = writeln!(text, "| setting | type | default | what |\n|---|---|---|---|");
        for Field { name, kind, doc } in &of_section.fields {
            let path = format!("{section}.{name}");
            let default = values.get(name).with_context(|| format!("{path}: it has no default, or is not written"))?;
            ensure!(!doc.is_empty(), "{path}: its field has no sentence");
            let in_file = file.get(section).and_then(|section| section.get(name)).is_some();
            ensure!(in_file || default.is_null(), "{path}: merganser.toml, which names every setting, does not name it");
            let row = [format!("`{name}`"), kind_of(&path, kind, default), shown(default), doc.replace('|', "\\|")];
            let _written = writeln!(text, "| {} |", row.join(" | "));
        }
        text.push('\n');
    }
    Ok(text)
}

/// The programs in whose code the section is read.
fn readers(root: &Path, section: &str) -> Result<String> {
    if let Some((_, readers)) = READERS.iter().find(|(named, _)| *named == section) {
        return Ok((*readers).to_owned());
    }
    let mut readers = Vec::new();
    for program in PROGRAMS {
        let mut sources = Vec::new();
        rust_files(&root.join(program).join("src"), &mut sources)?;
        for source in sources {
            if reads(&std::fs::read_to_string(source)?, section) {
                readers.push(program);
                break;
            }
        }
    }
    match readers[..] {
        [] => Ok("all three programs".to_owned()),
        [one] => Ok(format!("`{one}`")),
        [first, second] => Ok(format!("`{first}` and `{second}`")),
        _ => Ok("all three programs".to_owned()),
    }
}

/// Whether a source reads `config.<section>`.
fn reads(source: &str, section: &str) -> bool {
    let name = format!("config.{section}");
    source.match_indices(&name).any(|(at, _)| !source[at + name.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '('))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(())
}

/// The type of a setting in the words of its readers, with its unit.
fn kind_of(path: &str, kind: &str, default: &Value) -> String {
    let text = default.as_str().unwrap_or_default().to_owned();
    let is_path = path.ends_with("dir") || path.ends_with("_file");
    match kind {
        _ if path == OPEN_TABLE => "a type for each name",
        _ if kind.starts_with("Vec<") => "list",
        _ if kind.contains("Period") => "time: `ms`, `s`, `m`, `h`, `d`",
        _ if kind.contains("ByteSize") => "size: `B`, `KiB`, `MiB`, `GiB`",
        "bool" => "true or false",
        "f64" | "f32" => "number",
        "u8" | "u16" | "u32" | "u64" | "usize" | "i32" | "i64" => "whole number",
        "PathBuf" => "path",
        "String" if is_path => "path",
        "String" if path.ends_with("_address") => "`IP:PORT`",
        "String" if text.starts_with("http://") => "URL",
        _ if Period::try_from(text.clone()).is_ok() => "time: `ms`, `s`, `m`, `h`, `d`",
        _ if ByteSize::try_from(text).is_ok() => "size: `B`, `KiB`, `MiB`, `GiB`",
        _ => "text",
    }
    .to_owned()
}

fn shown(default: &Value) -> String {
    match default {
        Value::Null => "none".to_owned(),
        Value::Object(table) if table.is_empty() => "none".to_owned(),
        other => format!("`{other}`"),
    }
}

fn sentence(doc: &str) -> String {
    let doc = doc.trim_end();
    if doc.ends_with('.') { doc.to_owned() } else { format!("{doc}.") }
}

/// A field of a struct of settings.
#[derive(Clone, Debug)]
struct Field {
    name: String,
    kind: String,
    doc: String,
}

#[derive(Clone, Debug, Default)]
struct Struct {
    fields: Vec<Field>,
}

/// Structs of settings by their names, with the sentences that stand above their fields.
struct Structs(BTreeMap<String, Struct>);

impl Structs {
    fn read(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for source in SOURCES {
            let path = root.join(source);
            if path.is_dir() { rust_files(&path, &mut files)? } else { files.push(path) }
        }
        let mut structs = BTreeMap::new();
        for file in files {
            structs.extend(structs_of(&std::fs::read_to_string(&file).with_context(|| file.display().to_string())?));
        }
        Ok(Self(structs))
    }

    fn fields(&self, name: &str) -> Result<&[Field]> {
        Ok(&self.0.get(name).with_context(|| format!("no source declares {name}"))?.fields)
    }
}

/// The public structs with named fields in a source that rustfmt has laid out.
fn structs_of(source: &str) -> BTreeMap<String, Struct> {
    let (mut structs, mut lines) = (BTreeMap::new(), source.lines());
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("pub struct ").and_then(|rest| rest.strip_suffix(" {")) else { continue };
        let (mut found, mut doc, mut is_skipped) = (Struct::default(), Vec::new(), false);
        for line in lines.by_ref().take_while(|line| *line != "}") {
            let line = line.trim();
            if let Some(sentence) = line.strip_prefix("/// ") {
                doc.push(sentence);
            } else if line == "#[serde(skip)]" {
                is_skipped = true;
            } else if let Some((name, kind)) = line.strip_prefix("pub ").and_then(|field| field.strip_suffix(',')?.split_once(": ")) {
                let kind = kind.rsplit("::").next().unwrap_or(kind);
                let field = Field { name: name.to_owned(), kind: kind.to_owned(), doc: std::mem::take(&mut doc).join(" ") };
                found.fields.extend((!std::mem::take(&mut is_skipped)).then_some(field));
            }
        }
        structs.insert(name.to_owned(), found);
    }
    structs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that fields are read with their types and all of their sentences, and nothing that is no field.
    #[test]
    fn sources() {
        let source = "/// Of it.\npub struct A {\n    /// One.\n    /// More.\n    #[serde(default)]\n    pub a: super::Period,\n    /// Not set.\n    #[serde(skip)]\n    pub not: u8,\n    /// Two.\n    pub b_c: Vec<String>,\n}\n\nstruct B {\n    pub d: u8,\n}\n";
        let structs = structs_of(source);
        let fields: Vec<_> = structs["A"].fields.iter().map(|f| (f.name.as_str(), f.kind.as_str(), f.doc.as_str())).collect();
        assert_eq!(fields, [("a", "Period", "One. More."), ("b_c", "Vec<String>", "Two.")]);
        assert_eq!(structs.len(), 1);
    }

    /// Proves that a section is read where it is named whole.
    #[test]
    fn reading() {
        assert!(reads("let log = &config.log;", "log") && reads("self.config.log.dir", "log"));
        assert!(!reads("config.log_format", "log") && !reads("config.store()", "store"));
    }
}
