use super::*;

#[test]
fn the_last_line_is_the_address() {
    for (said, public, private) in [
        ("10.0.0.5\n", "10.0.0.5", "10.0.0.5"),
        ("power on\nwaiting...\n\n lab-7.example:2222 \n\n", "lab-7.example:2222", "lab-7.example"),
        ("192.0.2.1:40022 10.0.0.9\n", "192.0.2.1:40022", "10.0.0.9"),
        ("[2001:db8::1]:22\n", "[2001:db8::1]:22", "2001:db8::1"),
        ("2001:db8::1\n", "2001:db8::1", "2001:db8::1"),
    ] {
        assert_eq!(addresses(said), Some((public.into(), private.into())), "{said:?}");
    }
    for said in ["", " \n", "no machine is free", "-oProxyCommand=x", "a;b", "10.0.0.1\nerror: no route\n"] {
        assert_eq!(addresses(said), None, "{said:?}");
    }
}

fn options(words: &[&str]) -> Options {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }
    let words = [&["x"], words].concat();
    <Cli as clap::Parser>::try_parse_from(words).unwrap().options
}

#[test]
fn what_is_missing_is_told() {
    let target = Target {
        board: "amd64-usr".into(),
        distribution: crate::platform::distribution::Distribution::named("debian").unwrap(),
    };
    let (make, free) = ("--external-provisioning-cmds=x", "--external-deprovisioning-cmds=y");
    let (host, long) = ("--external-host=h", format!("--external-provisioning-cmds={}", "x".repeat(17_000)));
    for (words, told) in [
        (&[][..], "--external-provisioning-cmds"),
        (&[make], "--external-deprovisioning-cmds"),
        (&[make, free, host], "--external-user"),
        (&[make, free, host, "--external-user=u"], "--external-key"),
        (&[make, free, host, "--external-user=u", "--external-key=/no/such"], "/no/such"),
        (&[&long, free], "too long"),
    ] {
        let error = External::prepare(options(words), &target).err().unwrap();
        assert!(chain(&error).contains(told), "{words:?}: {}", chain(&error));
    }
    External::prepare(options(&[make, free]), &target).unwrap();
}

#[test]
fn properties_name_the_host_alone() {
    let options = options(&["--external-host=h:1", "--external-password=SECRET"]);
    assert_eq!(serde_json::to_string(&options).unwrap(), r#"{"host":"h:1"}"#);
    assert!(!format!("{options:?}").contains("SECRET"));
}
