use crate::support::keywheel;

#[test]
fn shells_and_readers_learn_every_command() {
    let stdout = |args: &[&str]| {
        let output = keywheel().args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&["completion", shell]);
        assert!(script.contains("rollback") && script.contains("token-file"), "{shell}");
    }
    let page = stdout(&["man"]);
    assert!(page.contains(".TH keywheel 1") && page.contains("Exit codes:"), "{page}");

    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    stdout(&["man", "--out", pages.to_str().unwrap()]);
    let page = std::fs::read_to_string(pages.join("keywheel-key-rotate.1")).unwrap();
    assert!(page.contains("overlap"), "{page}");
}
