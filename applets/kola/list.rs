//! `kola list`.

use color_eyre::eyre::Result;
use mantle::output;
use mantle::platform::distribution::DISTRIBUTIONS;
use serde::Serialize;

use super::register::{self, Test, Text};

/// Architectures that tests can be registered for.
const ARCHITECTURES: [&str; 1] = ["amd64"];

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row<'a> {
    name: &'a str,
    platforms: Vec<&'a str>,
    architectures: Vec<&'a str>,
    distros: Vec<&'a str>,
}

/// Prints all registered tests, sorted bytewise by name.
///
/// # Errors
/// When stdout fails.
pub fn run(json: bool) -> Result<()> {
    let mut tests: Vec<&Test> = register::all().map(AsRef::as_ref).collect();
    tests.sort_by_key(|t| &t.name);
    if json { print_json(&tests) } else { print_table(&tests) }
}

fn remaining<'a>(known: Vec<&'a str>, allowed: &'a [Text], refused: &[Text]) -> Vec<&'a str> {
    let base = if allowed.is_empty() { known } else { allowed.iter().map(AsRef::as_ref).collect() };
    base.into_iter().filter(|v| !refused.iter().any(|r| r == v)).collect()
}

fn print_json(tests: &[&Test]) -> Result<()> {
    let distros: Vec<&str> = DISTRIBUTIONS.iter().map(|d| d.name).collect();
    let rows: Vec<Row> = tests
        .iter()
        .map(|t| Row {
            name: &t.name,
            platforms: remaining(register::platforms(), &t.platforms, &t.exclude_platforms),
            architectures: remaining(ARCHITECTURES.to_vec(), &t.architectures, &[]),
            distros: remaining(distros.clone(), &t.distros, &t.exclude_distros),
        })
        .collect();
    let mut text = Vec::new();
    let mut writer = serde_json::Serializer::with_formatter(
        &mut text,
        serde_json::ser::PrettyFormatter::with_indent(b"\t"),
    );
    rows.serialize(&mut writer)?;
    text.push(b'\n');
    Ok(output::write(&text)?)
}

/// Columns aligned by tabs at stops of 8, as Go's tabwriter does it.
fn print_table(tests: &[&Test]) -> Result<()> {
    let show = |known: Vec<&'static str>, allowed: &[Text], refused: &[Text]| {
        if allowed.is_empty() && refused.is_empty() {
            "[all]".to_owned()
        } else {
            format!("[{}]", remaining(known, allowed, refused).join(" "))
        }
    };
    let distros: Vec<&str> = DISTRIBUTIONS.iter().map(|d| d.name).collect();
    let mut rows = vec![
        ["Test Name", "Platforms", "Architectures", "Distributions"].map(str::to_owned),
        [const { String::new() }; 4],
    ];
    for t in tests {
        rows.push([
            t.name.to_string(),
            show(register::platforms(), &t.platforms, &t.exclude_platforms),
            show(ARCHITECTURES.to_vec(), &t.architectures, &[]),
            show(distros.clone(), &t.distros, &t.exclude_distros),
        ]);
    }
    let stops: Vec<usize> =
        (0..3).map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0) / 8 + 1).collect();
    let mut text = String::new();
    for row in &rows {
        for (cell, stop) in row.iter().zip(&stops) {
            text.push_str(cell);
            text.push_str(&"\t".repeat(stop - cell.chars().count() / 8));
        }
        text.push_str(&row[3]);
        text.push('\n');
    }
    Ok(output::write(text.as_bytes())?)
}
