//! Tables for people.

/// Rows with their columns aligned by tabs at stops of 8, as Go's tabwriter does it; a line of tabs follows the head.
pub fn tabbed<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let rule = [const { String::new() }; N];
    let head = head.map(str::to_owned);
    let all = || [&head, &rule].into_iter().chain(rows);
    let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let stops: Vec<usize> = (1..N).map(|column| width(column - 1) / 8 + 1).collect();
    let mut text = String::new();
    for row in all() {
        for (i, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if let Some(stop) = stops.get(i) {
                text.push_str(&"\t".repeat(stop - cell.chars().count() / 8));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "b"], ["12345678", "c"]].map(|row| row.map(str::to_owned));
        assert_eq!(tabbed(["Name", "X"], &rows), "Name\t\tX\n\t\t\na\t\tb\n12345678\tc\n");
    }
}
