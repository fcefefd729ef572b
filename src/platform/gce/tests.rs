use super::*;

#[test]
fn names_are_those_that_google_takes() {
    let uuid = "0b0f6a4e-1111-4222-8333-444455556666";
    let token = "12345678-9abc-4def-8123-456789abcdef";
    for (cluster, expected) in [
        (format!("kola-{uuid}"), "kola-123456789abc4def8123"),
        (format!("My_Tests-{uuid}"), "my-tests-123456789abc4def8123"),
        (format!("9x-{uuid}"), "v9x-123456789abc4def8123"),
        ("short".to_owned(), "short-123456789abc4def8123"),
    ] {
        assert_eq!(name(&cluster, token), expected);
    }
    let long = name(&format!("{}-{uuid}", "x".repeat(80)), token);
    assert_eq!(long.len(), 63);
    crate::cloud::google::images::check_name(&long).unwrap();
}
