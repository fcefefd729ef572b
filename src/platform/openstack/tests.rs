use super::*;

#[test]
fn names_begin_as_their_cluster_and_end_with_the_token() {
    let token = "12345678-9abc-4def-8123-456789abcdef";
    assert_eq!(name("kola-0b0f6a4e-1111-4222-8333-444455556666", token), "kola-0b0f6a4e-123456789a");
    assert_eq!(name("x", token), "x-123456789a");
}

#[test]
fn states_have_a_meaning() {
    let of = |status: &str, task: Option<&str>, fault: Option<&str>| {
        progress(&Server {
            status: status.into(),
            task: task.map(str::to_owned),
            fault: fault.map(str::to_owned),
            ..Server::default()
        })
    };
    assert!(matches!(of("ACTIVE", None, None), State::Running { .. }));
    assert_eq!(of("BUILD", Some("spawning"), None), State::Pending("BUILD (spawning)".into()));
    assert_eq!(of("BUILD", None, None), State::Pending("BUILD".into()));
    assert_eq!(of("ERROR", None, Some("No valid\nhost")), State::Ended("ERROR: No valid host".into()));
    assert_eq!(of("ERROR", None, None), State::Ended("ERROR: the service does not say why".into()));
    for gone in ["DELETED", "SOFT_DELETED", "SHUTOFF"] {
        assert!(matches!(of(gone, None, None), State::Ended(_)), "{gone}");
    }
}
