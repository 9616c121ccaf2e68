//! The preset of the mode `agent`: data, in `presets.toml`.

use std::sync::LazyLock;

use serde::Deserialize;

use super::rule::Rule;

/// One purpose of the preset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    pub about: String,
    pub entries: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presets {
    pub groups: Vec<Group>,
    /// Wide ranges, for those who ask for them.
    pub cidrs: Group,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    group: Vec<FileGroup>,
    cidrs: Cidrs,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileGroup {
    name: String,
    about: String,
    zones: Vec<Zone>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Zone {
    zone: String,
    hosts: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cidrs {
    about: String,
    nets: Vec<Rule>,
}

/// The preset of this version of pixels.
pub fn presets() -> &'static Presets {
    // A file of ours that cannot be read allows nothing; a test reads it.
    static PRESETS: LazyLock<Presets> =
        LazyLock::new(|| parse(include_str!("presets.toml")).unwrap_or_else(|_| nothing()));
    &PRESETS
}

impl Presets {
    pub fn entries(&self, with_cidrs: bool) -> impl Iterator<Item = &Rule> {
        let cidrs = with_cidrs.then_some(&self.cidrs.entries);
        self.groups
            .iter()
            .map(|group| &group.entries)
            .chain(cidrs)
            .flatten()
    }
}

fn nothing() -> Presets {
    Presets {
        groups: Vec::new(),
        cidrs: Group {
            name: "cidrs".into(),
            about: String::new(),
            entries: Vec::new(),
        },
    }
}

fn parse(text: &str) -> Result<Presets, String> {
    let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
    let mut groups = Vec::new();
    for group in file.group {
        let mut entries = Vec::new();
        for Zone { zone, hosts } in &group.zones {
            for host in hosts {
                let name = match host.as_str() {
                    "@" => zone.clone(),
                    label => format!("{label}.{zone}"),
                };
                entries.push(name.parse::<Rule>().map_err(|e| e.to_string())?);
            }
        }
        groups.push(Group {
            name: group.name,
            about: group.about,
            entries,
        });
    }
    Ok(Presets {
        groups,
        cidrs: Group {
            name: "cidrs".into(),
            about: file.cidrs.about,
            entries: file.cidrs.nets,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::egress::rule::Target;

    #[test]
    fn the_preset_is_read_and_names_nothing_twice() {
        let presets = parse(include_str!("presets.toml")).unwrap();
        let all: Vec<&Rule> = presets.entries(true).collect();
        let distinct: BTreeSet<&Rule> = all.iter().copied().collect();
        assert_eq!(all.len(), distinct.len());
        assert!(all.len() > 40);
        assert!(
            presets
                .entries(false)
                .all(|entry| !matches!(entry.target, Target::Net(_)))
        );
        assert!(presets.groups.iter().all(|group| !group.about.is_empty()));
    }

    #[test]
    fn what_agents_need_is_in_it() {
        let allowed: BTreeSet<String> = presets().entries(false).map(ToString::to_string).collect();
        for (zone, label) in [
            ("anthropic.com", "api"),
            ("openai.com", "auth"),
            ("crates.io", "index"),
            ("githubusercontent.com", "release-assets"),
            ("debian.org", "security"),
        ] {
            assert!(
                allowed.contains(&format!("{label}.{zone}")),
                "{label} of {zone}"
            );
        }
    }
}
