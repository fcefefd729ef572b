//! Manifests in files, and what they mean.

use std::path::Path;

use super::*;

/// A tree with these files of manifests.
fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join(REPO).join(MANIFESTS)).unwrap();
    std::fs::create_dir_all(root.path().join(REPO).join("local_manifests")).unwrap();
    for (name, text) in files {
        std::fs::write(root.path().join(REPO).join(name), text).unwrap();
    }
    root
}

fn load(root: &Path, which: Which<'_>) -> Tree {
    Tree::load(root, which, "https://host/group/manifest.git").unwrap()
}

#[test]
fn defaults_reach_every_project() {
    let text = "<manifest>
      <remote name='one' fetch='..' revision='stable'/><remote name='two' alias='up' fetch='https://two/'/>
      <default remote='one' revision='usual' sync-c='true' sync-j='7'/>
      <project name='a'/>
      <project name='b' path='src/b' remote='two' groups='x,y notdefault' sync-c='0' upstream='up' clone-depth='3'/>
      <project name='c' revision='ABCDEF0123456789abcdef0123456789abcdef01'><project name='d' path='in'/></project>
      <extend-project name='a' groups='z' revision='refs/tags/v1'/>
      <project name='e' revision='refs/pull/1/head'><project name='f'/></project><remove-project name='e'/>
      <remove-project name='nobody' optional='true'/><project name='e' path='again'/>
    </manifest>";
    let root = tree(&[("manifests/m.xml", text)]);
    let tree = load(root.path(), Which::Named("m.xml"));
    assert_eq!(tree.jobs, Some(7));
    let shown: Vec<String> = tree
        .projects
        .iter()
        .map(|p| format!("{} {} {} {} {} {:?}", p.path, p.url, p.remote, p.revision, p.only_branch, p.depth))
        .collect();
    assert_eq!(
        shown,
        [
            "a https://host/a.git one refs/tags/v1 true None",
            "src/b https://two/b.git up refs/heads/usual false Some(3)",
            "c https://host/c.git one abcdef0123456789abcdef0123456789abcdef01 true None",
            "c/in https://host/c/d.git one refs/heads/stable true None",
            "again https://host/e.git one refs/heads/stable true None",
        ]
    );
    assert_eq!(tree.projects[1].upstream.as_deref(), Some("refs/heads/up"));
    assert!(tree.projects[0].place.ends_with("m.xml:4"), "{}", tree.projects[0].place);
    let paths = |groups: &[&str]| {
        let mut tree = tree.clone();
        tree.choose(&groups.iter().map(|g| (*g).to_owned()).collect::<Vec<_>>());
        tree.projects.into_iter().map(|p| p.path).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(paths(&[]), "a c c/in again");
    assert_eq!(paths(&["all"]), "a src/b c c/in again");
    assert_eq!(paths(&["x"]), "src/b");
    assert_eq!(paths(&["-z"]), "c c/in again");
    assert_eq!(paths(&["default", "y", "-name:c"]), "a src/b c/in again");
    assert_eq!(paths(&["path:again"]), "again");
}

#[test]
fn the_active_manifest_has_the_local_ones() {
    let main = "<manifest><remote name='r' fetch='.'/><default remote='r' revision='m'/><project name='a'/></manifest>";
    let root = tree(&[
        ("manifests/default.xml", main),
        ("manifest.xml", "<manifest><include name='default.xml'/></manifest>"),
        ("local_manifest.xml", "<manifest><project name='b'/></manifest>"),
        ("local_manifests/2.xml", "<manifest><remove-project name='c'/></manifest>"),
        ("local_manifests/1.xml", "<manifest><project name='c'/></manifest>"),
        ("local_manifests/note.txt", "no manifest"),
    ]);
    let names = |which| load(root.path(), which).projects.into_iter().map(|p| p.name).collect::<Vec<_>>();
    assert_eq!(names(Which::Active), ["a", "b"]);
    assert_eq!(names(Which::Named("default.xml")), ["a"]);
    // An old repo made a link.
    std::fs::remove_file(root.path().join(".repo/manifest.xml")).unwrap();
    std::os::unix::fs::symlink("manifests/default.xml", root.path().join(".repo/manifest.xml")).unwrap();
    assert_eq!(names(Which::Active), ["a", "b"]);
}

#[test]
fn what_is_missing_is_named() {
    for (text, why) in [
        ("<manifest><project name='a' revision='x'/></manifest>", "missing required field in manifest"),
        ("<manifest><remote name='r' fetch='.'/><project name='a' remote='r'/></manifest>", "no revision"),
        (
            "<manifest><remote name='r' fetch='relative/x' revision='m'/><project name='a' remote='r'/></manifest>",
            "is not absolute",
        ),
    ] {
        let root = tree(&[("manifests/m.xml", text)]);
        let error =
            Tree::load(root.path(), Which::Named("m.xml"), "https://host/m.git").unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("m.xml:1"), "{error}");
    }
}

/// Runs git; false where there is none.
fn git(dir: &Path, args: &[&str]) -> bool {
    let mut command = std::process::Command::new("git");
    command.arg("-C").arg(dir).args(["-c", "user.name=T", "-c", "user.email=t@localhost"]).args(args);
    command.output().is_ok_and(|output| output.status.success())
}

#[tokio::test]
async fn versions_are_read_without_a_tree() {
    let dir = tempfile::tempdir().unwrap();
    if !git(dir.path(), &["init", "-q", "-b", "master", "."]) {
        println!("skipped: git is not installed");
        return;
    }
    let commit = |text: &str| {
        std::fs::write(dir.path().join("version.txt"), text).unwrap();
        assert!(git(dir.path(), &["add", "--all"]) && git(dir.path(), &["commit", "-q", "-m", "x"]));
    };
    let text = |n: u32| {
        format!("FLATCAR_VERSION={n}.0.0\nFLATCAR_VERSION_ID={n}.0.0\nFLATCAR_SDK_VERSION={n}.1.0\n")
    };
    commit(&text(1));
    assert!(git(dir.path(), &["tag", "-a", "-m", "x", "v1"]));
    commit(&text(2));
    commit(&text(3));
    let ask = async |branch: &str| {
        let origin = Origin::new(dir.path().to_str().unwrap(), branch)?;
        remote_versions(&origin, None, &Default::default()).await
    };
    for (branch, version) in
        [("master", "3.0.0"), ("refs/heads/master", "3.0.0"), ("v1", "1.0.0"), ("refs/tags/v1", "1.0.0")]
    {
        let versions = ask(branch).await.unwrap();
        assert_eq!(versions.version, version, "{branch}");
        assert_eq!(versions.sdk_version, Some(version.replace(".0.0", ".1.0")), "{branch}");
    }
    commit("no version\n");
    for (branch, why) in [
        ("master", "Missing COREOS_VERSION_ID"),
        ("nowhere", "there is no branch or tag \"nowhere\""),
        ("refs/pull/1/head", "SDK version cannot be detected for \"refs/pull/1/head\""),
        ("--upload-pack=touch", "no name that git accepts"),
    ] {
        let error = crate::text::chain(&ask(branch).await.unwrap_err());
        assert!(error.contains(why), "{branch}: {error}");
    }
    assert!(git(dir.path(), &["rm", "-q", "version.txt"]) && git(dir.path(), &["commit", "-q", "-m", "x"]));
    assert!(ask("master").await.unwrap_err().to_string().contains("there is no version.txt of master"));
    let keyring = crate::openpgp::Keyring::default();
    let origin = Origin::new(dir.path().to_str().unwrap(), "v1").unwrap();
    let error = remote_versions(&origin, Some(&keyring), &Default::default()).await.unwrap_err();
    assert!(error.to_string().contains("is not signed"), "{error}");
}
