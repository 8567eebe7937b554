/// `merganser.toml` and its environment.
pub(crate) mod config;
/// Raw events, records, columns.
pub(crate) mod event;
/// Layouts of the master dataset.
pub(crate) mod layout;
/// The file of dead letters.
pub(crate) mod letters;
/// Event files of `speed-layer load`.
pub(crate) mod load;
/// The log's files.
pub(crate) mod log;
/// Manifests and stored definitions.
pub(crate) mod manifest;
/// Decimals and times.
pub(crate) mod number;
/// Position tokens.
pub(crate) mod position;
/// View definitions from a grammar.
pub(crate) mod select;
/// View definitions from any text.
pub(crate) mod sql;
