//! Manifests and projects by somebody who means harm.

use super::{Bench, MANIFEST};

#[test]
fn manifests_that_would_do_harm_are_refused() {
    let Some(bench) = Bench::new() else { return };
    bench.commit("coreos/a", &[("file", "a\n")]);
    let project = |attributes: &str| format!("<project name='coreos/a' {attributes}/>");
    let placed = |what: &str| format!("<project name='coreos/a'><{what}/></project>");
    let remote = |fetch: &str| format!("<remote name='x' fetch='{fetch}'/>{}", project("remote='x'"));
    bench.commit(
        MANIFEST,
        &[
            ("self.xml", "<manifest><include name='self.xml'/></manifest>"),
            ("ring1.xml", "<manifest><include name='ring2.xml'/></manifest>"),
            ("ring2.xml", "<manifest><include name='ring1.xml'/></manifest>"),
            ("twice0.xml", "<manifest/>"),
        ],
    );
    for n in 1..12 {
        let include = format!("<include name='twice{}.xml'/>", n - 1);
        bench.env.write(
            &format!("server/{MANIFEST}.git/twice{n}.xml"),
            &format!("<manifest>{include}{include}</manifest>"),
        );
    }
    std::os::unix::fs::symlink(
        "/etc/passwd",
        bench.env.home().join(format!("server/{MANIFEST}.git/link.xml")),
    )
    .unwrap();
    let laughs = "<?xml version='1.0'?><!DOCTYPE m [<!ENTITY a 'haha'><!ENTITY b '&a;&a;&a;'>]><manifest>&b;</manifest>";
    let before = bench.outside();
    for (text, why) in [
        (project("path='../out'"), "leads out of the tree"),
        (project("path='a/../../out'"), "leads out of the tree"),
        (project("path='/tmp/out'"), "is not relative"),
        (project("path='~/out'"), "is not relative"),
        (project("path='.git'"), "folder of git"),
        (project("path='a/.GIT/hooks'"), "folder of git"),
        (project("path='.repo/manifests'"), "folder of the manifests"),
        (project("path='-out'"), "looks like an option"),
        (project("path='a&#10;b'"), "no sensible path"),
        ("<project name='../../out'/>".into(), "leads out of the tree"),
        ("<project name='--upload-pack=touch out'/>".into(), "looks like an option"),
        (project("revision='--upload-pack=touch out'"), "no name that git accepts"),
        (project("revision='-f'"), "no name that git accepts"),
        (project("revision='a:refs/heads/master'"), "no name that git accepts"),
        (project("upstream='--exec=x'"), "no name that git accepts"),
        (project("clone-depth='-1'"), "is no number"),
        (project("sync-c='perhaps'"), "neither true nor false"),
        (project("remote='nowhere'"), "no remote \"nowhere\""),
        ("<remote name='--x' fetch='..'/>".into(), "no name that git accepts"),
        ("<remote name='origin' fetch='ssh://elsewhere'/>".into(), "which differs"),
        ("<default remote='origin' revision='other'/>".into(), "which differs"),
        (remote("ext::sh -c touch% out"), "none that git accepts"),
        (remote("ext::touch"), "is not absolute"),
        (remote("ext::x://y"), "is of a kind that is not allowed"),
        (remote("ssh://-oProxyCommand=touch"), "looks like an option"),
        (remote("-oProxyCommand=touch:x"), "none that git accepts"),
        (remote("/etc"), "is a folder of this machine"),
        (remote("file:///etc"), "is a folder of this machine"),
        (project("") + &project(""), "is taken already"),
        (project("path='a'") + &project("path='b'") + &project("path='a'"), "is taken already"),
        (placed("copyfile src='../../x' dest='y'"), "leads out of the tree"),
        (placed("copyfile src='file' dest='../out'"), "leads out of the tree"),
        (placed("linkfile src='file' dest='/tmp/out'"), "is not relative"),
        (placed("linkfile src='file' dest='.repo/manifest.xml'"), "folder of the manifests"),
        (placed("linkfile src='file' dest='coreos/a/.git/config'"), "folder of git"),
        (placed("linkfile src='.' dest='coreos/a'"), "is taken already"),
        (placed("linkfile src='.' dest='coreos'"), "is taken already"),
        ("<extend-project name='coreos/x'/>".into(), "to extend"),
        ("<remove-project name='coreos/x'/>".into(), "to remove"),
        ("<include name='../../../etc/passwd'/>".into(), "leads out of the tree"),
        ("<include name='link.xml'/>".into(), "a link that leads out"),
        ("<include name='self.xml'/>".into(), "includes itself"),
        ("<include name='ring1.xml'/>".into(), "includes itself"),
        ("<include name='twice11.xml'/>".into(), "more than 200 files"),
        ("<include name='nowhere.xml'/>".into(), "nowhere.xml"),
        ("<project name='coreos/a'>".into(), "manifest"),
        (laughs.into(), "document type"),
    ] {
        match text.starts_with("<?xml") {
            true => drop(bench.commit(MANIFEST, &[("default.xml", &text)])),
            false => drop(bench.manifest(&text)),
        }
        let outcome = bench.sync(&["--verify"]).expect(1);
        assert!(outcome.stderr.contains(why), "{text}: {}", outcome.stderr);
        assert!(
            outcome.stderr.contains("default.xml") || outcome.stderr.contains(".xml"),
            "{}",
            outcome.stderr
        );
        assert_eq!(bench.outside(), before, "{text}");
        assert!(bench.tree().is_empty(), "{text}: {:?}", bench.tree());
    }
    let args = [
        &["--manifest-url=ext::touch out"][..],
        &["--manifest-url=--upload-pack=touch out"],
        &["--manifest-branch=--upload-pack=touch"],
        &["--sync-with=other"],
    ];
    for args in args {
        bench.sync(args).expect(2);
    }
    for name in ["../x.xml", "/etc/passwd", "-x"] {
        bench.sync(&[&format!("--manifest-name={name}")]).expect(1);
    }
    assert_eq!(bench.outside(), before);
}

#[test]
fn what_a_project_plants_is_not_followed() {
    let Some(bench) = Bench::new() else { return };
    bench.commit("coreos/b", &[("file", "b\n")]);
    bench.commit("coreos/a", &[("file", "a\n")]);
    let dir = bench.env.home().join("server/coreos/a.git");
    let plant = |name: &str, target: &str| std::os::unix::fs::symlink(target, dir.join(name)).unwrap();
    plant("up", "../..");
    plant("passwd", "/etc/passwd");
    plant("loose", "nowhere");
    bench.commit("coreos/a", &[]);
    let before = bench.outside();
    for (manifest, why) in [
        (
            "<project name='coreos/a' path='a'/><project name='coreos/b' path='a/up/out'/>",
            "a folder is to be there, and it is a link",
        ),
        (
            "<project name='coreos/b' path='a/up/out'/><project name='coreos/a' path='a'/>",
            "a folder is to be there, and it is a link",
        ),
        (
            "<project name='coreos/a' path='a'><copyfile src='passwd' dest='x'/></project>",
            "it is a link and cannot be placed",
        ),
        (
            "<project name='coreos/a' path='a'><linkfile src='passwd' dest='x'/></project>",
            "it is a link and cannot be placed",
        ),
        (
            "<project name='coreos/a' path='a'><linkfile src='up/x' dest='x'/></project>",
            "it is a link and cannot be placed",
        ),
        ("<project name='coreos/a' path='a'><linkfile src='gone' dest='x'/></project>", "no such file"),
        (
            "<project name='coreos/a' path='a'><copyfile src='file' dest='a/up/out'/></project>",
            "a folder is to be there, and it is a link",
        ),
        (
            "<project name='coreos/a' path='a'><copyfile src='file' dest='a/loose'/></project>",
            "something else is there",
        ),
        (
            "<project name='coreos/a' path='a'><linkfile src='file' dest='a/up/out'/></project>",
            "a folder is to be there, and it is a link",
        ),
    ] {
        bench.manifest(manifest);
        let outcome = bench.sync(&[]).expect(1);
        assert!(outcome.stderr.contains(why), "{manifest}: {}", outcome.stderr);
        assert_eq!(bench.outside(), before, "{manifest}");
        let _ = std::fs::remove_dir_all(bench.at(""));
        std::fs::create_dir(bench.at("")).unwrap();
    }
    // The same in the tree itself.
    std::os::unix::fs::symlink("../server", bench.at("src")).unwrap();
    bench.manifest("<project name='coreos/b' path='src/b'/>");
    let outcome = bench.sync(&[]).expect(1);
    assert!(outcome.stderr.contains("src: a folder is to be there, and it is a link"), "{}", outcome.stderr);
    assert!(!bench.env.home().join("server/b").exists());
}
