//! The published table of reason codes says what the code says.

use domain::ReasonCode;

#[test]
fn the_page_has_one_row_per_reason_with_its_retryability_and_next_step() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reasons.md");
    let page = std::fs::read_to_string(path).unwrap();
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), ReasonCode::ALL.len());
    for (row, code) in rows.iter().zip(ReasonCode::ALL) {
        assert_eq!(row[0], format!("`{code}`"));
        assert_eq!(row[2], if code.is_retryable() { "yes" } else { "no" }, "{code}");
        assert_eq!(row[4], code.next_step(), "{code}");
        let status = code.sgp22().map_or(("", ""), |status| (status.subject, status.reason));
        assert_eq!((row[5], row[6]), status, "{code}");
    }
}
