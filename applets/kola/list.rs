//! `kola list`.

use clap::{ArgMatches, FromArgMatches as _};
use color_eyre::eyre::{Result, eyre};
use mantle::platform::distribution::DISTRIBUTIONS;
use mantle::text::tabbed;
use mantle::{output, terminal};
use serde::Serialize;

use super::choice;
use super::options::{General, known_distribution, known_platform};
use super::register::{self, Test, Text};

/// Architectures that tests can be registered for.
const ARCHITECTURES: [&str; 1] = ["amd64"];

const HEAD: [&str; 4] = ["Test Name", "Platforms", "Architectures", "Distributions"];

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row<'a> {
    name: &'a str,
    platforms: Vec<&'a str>,
    architectures: Vec<&'a str>,
    distros: Vec<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "<[Text]>::is_empty")]
    tags: &'a [Text],
}

/// Prints the tests, sorted bytewise by name: those whose names match a pattern or that have a tag, if there is one,
/// and that are for the platform and the distribution, if they are given.
///
/// # Errors
/// When an option or a pattern cannot be used, an external test cannot be read, nothing matches, or stdout fails.
pub fn run(matches: &ArgMatches, patterns: &[String], json: bool) -> Result<()> {
    let general = General::from_arg_matches(matches)?;
    let options = choice::Options::from_arg_matches(matches)?;
    let driver = general.platform.as_deref().map(known_platform).transpose()?;
    let distribution = general.distro.as_deref().map(known_distribution).transpose()?;
    let denylist = options.denylist()?;
    let (all, unread) = options.tests(&denylist)?;
    let choice = options.choice(patterns.to_vec());
    choice::check_patterns(&choice, &all, &unread)?;
    let mut tests: Vec<&Test> = Vec::new();
    for test in &all {
        let elsewhere = driver.and_then(|d| test.excluded_on(d)).is_some()
            || distribution.and_then(|d| test.excluded_for(d.name)).is_some();
        if !elsewhere && !denylist.refuses(&test.name) && matches!(choice.wants(test)?, Some(Ok(()))) {
            tests.push(test);
        }
    }
    if tests.is_empty() {
        return Err(choice::with_guesses(eyre!("no test matches"), &choice, &all));
    }
    tests.sort_by_key(|t| &t.name);
    match (json, terminal::columns(&std::io::stdout())) {
        (true, _) => print_json(&tests),
        (false, Some(width)) => print_wide(&tests, width),
        (false, None) => print_table(&tests),
    }
}

/// What is shown of a test in the columns after its name.
fn cells(t: &Test) -> [String; 3] {
    let show = |known: Vec<&'static str>, allowed: &[Text], refused: &[Text]| {
        if allowed.is_empty() && refused.is_empty() {
            "[all]".to_owned()
        } else {
            format!("[{}]", remaining(known, allowed, refused).join(" "))
        }
    };
    let distros = DISTRIBUTIONS.iter().map(|d| d.name).collect();
    [
        show(register::platforms(), &t.platforms, &t.exclude_platforms),
        show(ARCHITECTURES.to_vec(), &t.architectures, &t.exclude_architectures),
        show(distros, &t.distros, &t.exclude_distros),
    ]
}

/// For a terminal: columns apart by two spaces, the description last, each line cut where the terminal ends.
fn print_wide(tests: &[&Test], width: usize) -> Result<()> {
    let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
    rows[0].push("Description".to_owned());
    for t in tests {
        let [platforms, architectures, distros] = cells(t);
        rows.push(vec![t.name.to_string(), platforms, architectures, distros, t.description.to_string()]);
    }
    let widths: Vec<usize> =
        (0..5).map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(&cut(cells.collect::<Vec<_>>().join("  ").trim_end(), width));
        text.push('\n');
    }
    Ok(output::write(text.as_bytes())?)
}

fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars().take(width.saturating_sub(1)).chain(['…']).collect()
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
            architectures: remaining(ARCHITECTURES.to_vec(), &t.architectures, &t.exclude_architectures),
            distros: remaining(distros.clone(), &t.distros, &t.exclude_distros),
            description: &t.description,
            tags: &t.tags,
        })
        .collect();
    print_tabbed_json(&rows)
}

/// Prints JSON as upstream's lists are: indented by tabs.
///
/// # Errors
/// When stdout fails.
pub fn print_tabbed_json(value: &impl Serialize) -> Result<()> {
    let mut text = Vec::new();
    let mut writer = serde_json::Serializer::with_formatter(
        &mut text,
        serde_json::ser::PrettyFormatter::with_indent(b"\t"),
    );
    value.serialize(&mut writer)?;
    text.push(b'\n');
    Ok(output::write(&text)?)
}

fn print_table(tests: &[&Test]) -> Result<()> {
    let rows: Vec<[String; 4]> = tests
        .iter()
        .map(|t| {
            let [platforms, architectures, distros] = cells(t);
            [t.name.to_string(), platforms, architectures, distros]
        })
        .collect();
    let text = tabbed(HEAD, &rows);
    Ok(output::write(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn lines_end_where_the_terminal_does() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "ab…");
        assert_eq!(cut("äöüß", 0), "…");
    }
}
