use clap::Parser;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn options(words: &[&str]) -> Options {
    Cli::try_parse_from([&["x"][..], words].concat()).unwrap().options
}

#[test]
fn names_are_those_that_azure_takes() {
    let token = "12345678-9abc-4def-8123-456789abcdef";
    for (cluster, expected) in [
        ("kola-0b0f6a4e-1111", "kola-0b0f6a4e-123456789a"),
        ("my_tests.of.mine-x", "my-tests-of-m-123456789a"),
        ("a", "a-123456789a"),
    ] {
        assert_eq!(name(cluster, token), expected);
    }
    assert_eq!(parts("kola-0b0f6a4e-123456789a"), ("ip-123456789a".into(), "nic-123456789a".into()));
}

#[test]
fn images_are_ids_blobs_or_published() {
    let of = |words: &[&str]| Disk::of(&options(words)).map_err(|e| e.to_string());
    let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/images/i";
    assert_eq!(of(&["--azure-disk-uri", id]), Ok(Disk::Image(Reference::Id(id.into()))));
    let blob = "https://a.blob.core.windows.net/c/b.vhd";
    assert_eq!(of(&["--azure-disk-uri", blob]), Ok(Disk::Blob(blob.into())));
    let published = of(&["--azure-version=1", "--azure-sku=beta"]).unwrap();
    let Disk::Image(Reference::Published { publisher, sku, version, .. }) = published else { panic!() };
    assert_eq!((publisher.as_str(), sku.as_str(), version.as_str()), ("CoreOS", "beta", "1"));
    for (words, said) in [
        (["--azure-disk-uri=name", ""], "neither the ID of an image"),
        (["--azure-publisher=", "--azure-sku=x"], "needs a publisher"),
    ] {
        let words: Vec<_> = words.into_iter().filter(|w| !w.is_empty()).collect();
        let error = of(&words).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
    assert_eq!(subnet(&options(&["--azure-vnet-subnet-name=g/n/s"])).unwrap(), Some(["g", "n", "s"]));
    assert!(subnet(&options(&["--azure-vnet-subnet-name=n/s"])).is_err());
}
