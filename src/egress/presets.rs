//! The preset of the mode `agent`, read from `presets.toml`.

use std::sync::LazyLock;

use serde::Deserialize;

use super::rule::Rule;

/// The preset rules for one purpose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    pub about: String,
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Presets {
    pub groups: Vec<Group>,
    /// Wide address ranges, used only if `network.preset_cidrs` is set.
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

/// Returns the preset of this version of pixels.
pub fn presets() -> &'static Presets {
    // The file is part of the program, and a test parses it. An invalid preset
    // would allow no destination.
    static PRESETS: LazyLock<Presets> =
        LazyLock::new(|| parse(include_str!("presets.toml")).unwrap_or_default());
    &PRESETS
}

impl Presets {
    pub fn rules(&self, with_cidrs: bool) -> impl Iterator<Item = &Rule> {
        let cidrs = with_cidrs.then_some(&self.cidrs.rules);
        self.groups
            .iter()
            .map(|group| &group.rules)
            .chain(cidrs)
            .flatten()
    }
}

fn parse(text: &str) -> Result<Presets, String> {
    let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
    let mut groups = Vec::new();
    for group in file.group {
        let mut rules = Vec::new();
        for Zone { zone, hosts } in &group.zones {
            for host in hosts {
                let name = match host.as_str() {
                    "@" => zone.clone(),
                    label => format!("{label}.{zone}"),
                };
                rules.push(name.parse::<Rule>().map_err(|e| e.to_string())?);
            }
        }
        groups.push(Group {
            name: group.name,
            about: group.about,
            rules,
        });
    }
    Ok(Presets {
        groups,
        cidrs: Group {
            name: "cidrs".into(),
            about: file.cidrs.about,
            rules: file.cidrs.nets,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::egress::rule::Target;

    #[test]
    fn preset_parses_without_duplicates() {
        let presets = parse(include_str!("presets.toml")).unwrap();
        let all: Vec<&Rule> = presets.rules(true).collect();
        let distinct: BTreeSet<&Rule> = all.iter().copied().collect();
        assert_eq!(all.len(), distinct.len());
        assert!(all.len() > 40);
        assert!(
            presets
                .rules(false)
                .all(|rule| !matches!(rule.target, Target::Net(_)))
        );
        assert!(presets.groups.iter().all(|group| !group.about.is_empty()));
    }

    #[test]
    fn preset_has_hosts_that_agents_need() {
        let allowed: BTreeSet<String> = presets().rules(false).map(ToString::to_string).collect();
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
