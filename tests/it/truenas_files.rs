//! Files and ports of pixels on TrueNAS over SSH: the same cases as on Incus.

use std::fs;

use crate::forward::{self, Served};
use crate::support::env::TestEnv;
use crate::support::truenas::Nas;
use crate::transfer::{self, Pixel, noise};
use crate::transfer_large;

#[test]
#[ignore = "needs Incus"]
fn truenas_25_04_supports_files_and_forward() {
    carried(Nas::lab("25.04.2", "files"));
}

#[test]
#[ignore = "needs Incus"]
fn truenas_25_10_supports_files_and_forward() {
    carried(Nas::lab("25.10.1", "files"));
}

fn carried((_nas, env): (Nas, TestEnv)) {
    let pixel = Pixel::on(env).cleared();
    transfer::tree_is_kept(&pixel);
    let pixel = pixel.cleared();
    transfer::syncs(&pixel);
    let pixel = pixel.cleared();
    streams(&pixel);
    let mut pixel = pixel.cleared();
    transfer::leaves_nothing_half(&mut pixel);
    let pixel = pixel.cleared();
    transfer_large::arrives(&pixel);
    let pixel = pixel.cleared();
    transfer_large::leaves_nothing(&pixel);
    let pixel = pixel.cleared();
    stopped(&pixel);
    let Pixel { env, name, .. } = pixel;
    env.pixels(["destroy", "-f", &name]).ok();
    forward::carries(&Served::new(Pixel::on(env)));
}

/// Checks contents and modes of large and empty files.
fn streams(pixel: &Pixel) {
    let bytes = noise(20_000_000, 5);
    let to = pixel.there("/srv/stream");
    let args = ["push", "--mode", "600", "-", &to];
    pixel.env.pixels_with(args, &bytes).ok();
    assert_eq!(pixel.sh("stat -c '%a %s' /srv/stream"), "600 20000000\n");
    let out = pixel.env.command(["pull", &to, "-"]).output().unwrap();
    assert!(out.stdout == bytes && out.status.success());
    let to = pixel.here("file");
    pixel.run(&["pull", &pixel.there("/srv/stream"), &to]).ok();
    assert!(fs::read(&to).unwrap() == bytes);
    let none = pixel.there("/srv/none");
    pixel.env.pixels_with(["push", "-", &none], b"").ok();
    assert_eq!(pixel.sh("stat -c '%a %s' /srv/none"), "644 0\n");
    pixel
        .run(&["pull", &pixel.there("/srv/nope"), "-"])
        .expect(3);
}

/// An error reports that files of a stopped pixel cannot be reached.
fn stopped(pixel: &Pixel) {
    pixel.run(&["stop", &pixel.name]).ok();
    fs::write(pixel.here("a"), "a").unwrap();
    let (here, there) = (pixel.here("a"), pixel.there("/srv/a"));
    for args in [["push", &here, &there], ["pull", &there, &here]] {
        let refused = pixel.run(&args).expect(1);
        assert!(refused.stderr.contains("stopped"), "{}", refused.stderr);
    }
    assert_eq!(fs::read(&here).unwrap(), b"a");
    pixel.run(&["start", &pixel.name]).ok();
}
