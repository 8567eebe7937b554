//! Lists for people.

/// The rows under the header, each column as wide as its widest cell.
pub(crate) fn aligned<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let header = header.map(str::to_owned).to_vec();
    lines(&std::iter::once(header).chain(rows.into_iter().map(Vec::from)).collect::<Vec<_>>())
}

/// The rows, which have a cell of each column, each column as wide as its widest cell.
pub(crate) fn lines(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect::<Vec<_>>();
        padded.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
