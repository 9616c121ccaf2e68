//! create, checkpoint, fork, restore, destroy: the main job, on the daemon.

use crate::support::env::TestEnv;
use crate::support::lab;

#[test]
fn create_checkpoint_clone_restore_destroy() {
    let Some(_lab) = lab::ready("create_checkpoint_clone_restore_destroy") else {
        return;
    };
    let env = TestEnv::new("main");
    let (a, b) = (env.name("a"), env.name("b"));
    env.pixels(["create", &a]).ok();
    env.pixels(["exec", &a, "--", "sh", "-c", "exit 7"])
        .expect(7);
    env.pixels(["exec", &a, "--", "touch", "/root/kept"]).ok();
    env.pixels(["checkpoint", "create", &a, "--label", "ready"])
        .ok();

    let from = format!("{a}:ready");
    env.pixels(["create", &b, "--from", &from]).ok();
    let host = env.pixels(["exec", &b, "--", "hostname"]).ok().stdout;
    assert_eq!(host, format!("px-{b}\n"));

    env.pixels(["exec", &a, "--", "rm", "/root/kept"]).ok();
    env.pixels(["checkpoint", "restore", &a, "ready"]).ok();
    env.pixels(["exec", &a, "--", "ls", "/root/kept"]).ok();

    let listed = env.pixels(["list", "-o", "json"]).ok().json();
    for name in [&a, &b] {
        let pixel = listed
            .as_array()
            .unwrap()
            .iter()
            .find(|pixel| pixel["name"] == **name)
            .unwrap();
        assert_eq!(pixel["status"], "RUNNING");
    }

    env.pixels(["destroy", &a, "--force"]).ok();
    let again = env.pixels(["destroy", &a, "--force"]).expect(3);
    assert!(
        again.stderr.contains(&format!("pixel {a:?} not found")),
        "{}",
        again.stderr
    );
}
