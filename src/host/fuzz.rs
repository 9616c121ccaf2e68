//! Fuzz tests of files and command outputs read by `setup`.

use super::facts::OsRelease;
use super::{apt_sources, subid, subnet};
use crate::fuzz::{fuzz, text};

#[test]
fn package_sources() {
    let words = [
        "Types: deb\n",
        "URIs: ",
        "Suites: ",
        "deb [",
        "]",
        "signed-by=",
        "\n\n",
        "#",
    ];
    fuzz("package-sources", 8000, &words, |bytes| {
        let text = text(bytes);
        let mut all = apt_sources::parse_deb822(&text);
        all.extend(apt_sources::parse_one_line(&text));
        let (image, missing) = apt_sources::for_image(&all, "bookworm");
        let _ = apt_sources::backports(&all, "bookworm");
        let _ = (
            apt_sources::mirror_file(&text),
            apt_sources::first_mirror(&text),
        );
        (all.len().min(3), image.is_empty(), missing.len())
    });
}

#[test]
fn facts() {
    let words = [
        "root:1000000:65536",
        "ID=debian\n",
        "VERSION_ID=",
        "nameserver ",
        "{\"dst\":",
        "\t",
    ];
    fuzz("host-facts", 8000, &words, |bytes| {
        let text = text(bytes);
        let release = OsRelease::parse(&text).version();
        let ids = subid::root_range(&text);
        if let Some(line) = subid::line_for_root(&text, subid::limit(&text)) {
            assert!(subid::root_range(&line) >= subid::MINIMUM);
        }
        let routes = subnet::from_ip_json(&text).map(|all| all.len()).ok();
        let more = subnet::from_proc(&text).len() + subnet::from_resolv_conf(&text).len();
        (release.is_some(), ids > 0, routes, more.min(3))
    });
}
