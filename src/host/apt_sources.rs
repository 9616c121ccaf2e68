//! Parses the host's apt sources in both formats, and derives apt sources for
//! backports and for images.

/// An apt source: URIs with the same suites and components.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    pub uris: Vec<String>,
    pub suites: Vec<String>,
    pub components: Vec<String>,
    /// The path of a keyring, or a key block with its continuation lines.
    pub signed_by: Option<String>,
    pub trusted: bool,
}

impl Source {
    pub fn has_suite(&self, suite: &str) -> bool {
        self.suites.iter().any(|have| have == suite)
    }

    /// Returns the path in `signed_by`, or `None` for a key block.
    pub fn keyring(&self) -> Option<&str> {
        self.signed_by
            .as_deref()
            .filter(|path| path.starts_with('/') && !path.contains(char::is_whitespace))
    }

    /// Returns the source in deb822 format, with a newline at the end.
    pub fn render(&self) -> String {
        let mut text = format!(
            "Types: deb\nURIs: {}\nSuites: {}\nComponents: {}\n",
            self.uris.join(" "),
            self.suites.join(" "),
            self.components.join(" ")
        );
        if let Some(key) = &self.signed_by {
            text.push_str(&format!("Signed-By: {key}\n"));
        }
        if self.trusted {
            text.push_str("Trusted: yes\n");
        }
        text
    }
}

/// Returns the enabled sources of binary packages in a `.sources` file. Skips
/// malformed lines.
pub fn parse_deb822(text: &str) -> Vec<Source> {
    let mut all = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain(std::iter::once("")) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            all.extend(from_fields(&std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    all
}

fn from_fields(fields: &[(String, String)]) -> Option<Source> {
    let get = |name: &str| fields.iter().find(|(have, _)| have == name).map(|f| &f.1);
    let list = |name: &str| -> Vec<String> {
        get(name).map_or_else(Vec::new, |text| {
            text.split_whitespace().map(str::to_owned).collect()
        })
    };
    let disabled = get("enabled").is_some_and(|v| matches!(v.as_str(), "no" | "false" | "0"));
    if disabled || !list("types").iter().any(|kind| kind == "deb") {
        return None;
    }
    Some(Source {
        uris: list("uris"),
        suites: list("suites"),
        components: list("components"),
        signed_by: get("signed-by").cloned(),
        trusted: get("trusted").is_some_and(|v| v == "yes"),
    })
}

/// Returns the sources of binary packages in a `.list` file. Skips malformed
/// lines.
pub fn parse_one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(one_line).collect()
}

fn one_line(line: &str) -> Option<Source> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let mut rest = line.strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t', '[']) {
        return None;
    }
    let mut source = Source::default();
    rest = rest.trim_start();
    if let Some(options) = rest.strip_prefix('[') {
        let (options, after) = options.split_once(']')?;
        for option in options.split_whitespace() {
            match option.split_once('=') {
                Some(("signed-by", path)) => source.signed_by = Some(path.to_owned()),
                Some(("trusted", "yes")) => source.trusted = true,
                _ => {}
            }
        }
        rest = after;
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    source.uris.push(words.next()?);
    source.suites.push(words.next()?);
    source.components = words.collect();
    Some(source)
}

/// Returns the source with the component `main` of the release.
pub fn base<'a>(sources: &'a [Source], codename: &str) -> Option<&'a Source> {
    sources
        .iter()
        .find(|s| s.has_suite(codename) && s.components.iter().any(|c| c == "main"))
}

/// Returns a `.sources` file with the release's backports, from the mirror of
/// the release. `None` if the sources do not contain the release.
pub fn backports(sources: &[Source], codename: &str) -> Option<String> {
    let base = base(sources, codename)?;
    Some(
        Source {
            suites: vec![format!("{codename}-backports")],
            components: vec!["main".into()],
            ..base.clone()
        }
        .render(),
    )
}

/// Returns a `.sources` file for an image (the release, its updates and its
/// security fixes), and the suites that the host's sources lack.
pub fn for_image(sources: &[Source], codename: &str) -> (String, Vec<String>) {
    let wanted = [
        codename.to_owned(),
        format!("{codename}-updates"),
        format!("{codename}-security"),
    ];
    let mut entries: Vec<Source> = Vec::new();
    let mut missing = Vec::new();
    for suite in wanted {
        let Some(found) = sources.iter().find(|s| s.has_suite(&suite)) else {
            missing.push(suite);
            continue;
        };
        match entries.iter_mut().find(|e| e.uris == found.uris) {
            Some(entry) => entry.suites.push(suite),
            None => entries.push(Source {
                suites: vec![suite],
                ..found.clone()
            }),
        }
    }
    let texts: Vec<String> = entries.iter().map(Source::render).collect();
    (texts.join("\n"), missing)
}

/// Returns the path in a `mirror+file:` URI: a file that lists mirror URIs.
pub fn mirror_file(uri: &str) -> Option<&str> {
    let path = uri.strip_prefix("mirror+file:")?;
    Some(path.strip_prefix("//").unwrap_or(path))
}

/// Returns the first URI in a mirror list.
pub fn first_mirror(list: &str) -> Option<&str> {
    list.lines()
        .filter_map(|line| line.split('#').next()?.split_whitespace().next())
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb
# a comment inside
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb deb-src
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: bookworm-backports
Components: main

Types: deb-src
URIs: http://src.test/debian
Suites: bookworm
Components: main
";

    #[test]
    fn deb822_yields_enabled_binary_entries() {
        let all = parse_deb822(DEB822);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(all[0].keyring(), Some("/usr/share/keyrings/debian.gpg"));
        assert_eq!(all[1].keyring(), None);
        assert_eq!(parse_deb822(&all[1].render()), [all[1].clone()]);
    }

    #[test]
    fn one_line_format_handles_options_and_comments() {
        let all = parse_one_line(
            "# deb http://no.test/debian bookworm main\n\
             deb-src http://no.test/debian bookworm main\n\
             deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian bookworm main contrib # x\n\
             deb\thttp://mirror.test/debian-security bookworm-security main\n\
             debris http://no.test x main\n\n",
        );
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].uris, ["http://mirror.test/debian"]);
        assert_eq!(all[0].components, ["main", "contrib"]);
        assert_eq!(all[0].keyring(), Some("/k.gpg"));
        assert_eq!(all[1].suites, ["bookworm-security"]);
    }

    #[test]
    fn backports_use_the_mirror_of_the_release() {
        let text = backports(&parse_deb822(DEB822), "bookworm").unwrap();
        assert_eq!(
            text,
            "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm-backports\n\
             Components: main\nSigned-By: /usr/share/keyrings/debian.gpg\n"
        );
        assert_eq!(backports(&parse_deb822(DEB822), "trixie"), None);
    }

    #[test]
    fn for_image_has_only_suites_of_the_release() {
        let mut all = parse_deb822(DEB822);
        all.push(Source {
            uris: vec!["http://vendor.test".into()],
            suites: vec!["stable".into()],
            components: vec!["main".into()],
            ..Source::default()
        });
        let (text, missing) = for_image(&all, "bookworm");
        assert!(missing.is_empty());
        let image = parse_deb822(&text);
        assert_eq!(image.len(), 2);
        assert_eq!(image[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(image[1].suites, ["bookworm-security"]);
        let (_, missing) = for_image(&all[..1], "bookworm");
        assert_eq!(missing, ["bookworm-security"]);
    }

    #[test]
    fn mirror_lists_yield_the_first_uri() {
        let path = mirror_file("mirror+file:///etc/apt/mirrors/debian.list");
        assert_eq!(path, Some("/etc/apt/mirrors/debian.list"));
        assert_eq!(mirror_file("http://mirror.test/debian"), None);
        let list = "# mirrors\nhttps://a.test/debian\tpriority:1\nhttps://b.test/debian\n";
        assert_eq!(first_mirror(list), Some("https://a.test/debian"));
    }
}
