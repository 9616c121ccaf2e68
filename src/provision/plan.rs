//! The plan: the files and steps of a provisioned pixel.

use super::environment;
use super::options::{Options, Sessions, certificates, mise};
use crate::egress::pixel::OPEN_SUDO;
use crate::model::{GuestFile, Ids, hex, sha256};

const LIB: &str = "/usr/local/lib/pixels";
const UNITS: &str = "/etc/systemd/system";
const SUDOERS: &str = "/etc/sudoers.d/pixel";
/// The trust store of Debian, which `update-ca-certificates` writes.
const TRUST_STORE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Variables for programs that do not use the trust store by default.
const TRUST_STORE_VARIABLES: [&str; 5] = [
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
];
const PIXEL: Ids = Ids {
    uid: 1000,
    gid: 1000,
};

/// A step that runs in the background.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub name: &'static str,
    /// Hash of the script and its inputs. A finished step runs again if its
    /// hash has changed.
    pub hash: String,
}

#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Files to write. Missing parent directories are created.
    pub files: Vec<GuestFile>,
    /// Steps in execution order. After a failed step, later steps do not run.
    pub steps: Vec<Step>,
    /// Options that do not have their full effect, with reasons.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Removes the sudo rules: a policy inside the pixel contains others.
    pub fn remove_sudo(&mut self) {
        self.files.retain(|file| file.path != SUDOERS);
    }
}

/// Returns the plan. Equal options result in equal plans.
pub fn plan(options: &Options) -> Plan {
    let mut plan = Plan::default();
    plan.add_access(options);
    plan.add_variables(options);
    plan.add_packages(options);
    if let Sessions::Zmx { url, sha256 } = &options.sessions {
        let sum = sha256
            .as_ref()
            .map_or_else(String::new, |sum| format!("sha256={sum}\n"));
        let source = format!("url={url}\n{sum}");
        plan.add_step("zmx", include_str!("guest/zmx.sh"), &source);
        plan.add_root_file("/etc/pixels/zmx", 0o644, source);
    }
    if let Some(devtools) = &options.devtools {
        let url = format!("{}\n", devtools.installer_url);
        let tools = mise(&devtools.tools);
        let inputs = format!("{url}{tools}");
        plan.add_step("devtools", include_str!("guest/devtools.sh"), &inputs);
        plan.add_root_file("/etc/pixels/installer-url", 0o644, url);
        plan.add_user_file("/home/pixel/.config/mise/config.toml", 0o644, tools);
    }
    if let Some(script) = &options.script {
        let inputs = String::from_utf8_lossy(script);
        plan.add_step("script", include_str!("guest/script.sh"), &inputs);
        plan.add_root_file(&format!("{LIB}/user-script"), 0o755, script.clone());
    }
    plan.add_runner();
    plan
}

impl Plan {
    fn add_root_file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) {
        self.files.push(GuestFile::root(path, mode, content));
    }

    fn add_user_file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) {
        self.files.push(GuestFile {
            owner: PIXEL,
            ..GuestFile::root(path, mode, content)
        });
    }

    /// Adds a program or data file of pixels.
    fn add_lib(&mut self, name: &str, mode: u32, content: &str) {
        self.add_root_file(&format!("{LIB}/{name}"), mode, content);
    }

    /// Adds sudo rules, SSH keys, DNS servers and CA certificates.
    fn add_access(&mut self, options: &Options) {
        self.add_root_file(SUDOERS, 0o440, OPEN_SUDO);
        if let Some(key) = &options.public_key {
            let line = format!("{}\n", key.trim());
            self.add_root_file("/root/.ssh/authorized_keys", 0o600, line.clone());
            self.add_user_file("/home/pixel/.ssh/authorized_keys", 0o600, line);
        }
        if !options.dns.is_empty() {
            let content = format!("[Resolve]\nDNS={}\n", options.dns.join(" "));
            let path = "/etc/systemd/resolved.conf.d/pixels-dns.conf";
            self.add_root_file(path, 0o644, content);
        }
        let pems = options.ca_certificates.iter();
        for (index, certificate) in pems.flat_map(|pem| certificates(pem)).enumerate() {
            let number = index + 1;
            let path = format!("/usr/local/share/ca-certificates/pixels-{number:03}.crt");
            self.add_root_file(&path, 0o644, certificate);
        }
    }

    fn add_variables(&mut self, options: &Options) {
        let mut variables = options.variables.clone();
        if !options.ca_certificates.is_empty() {
            for name in TRUST_STORE_VARIABLES {
                variables
                    .entry(name.to_owned())
                    .or_insert_with(|| TRUST_STORE.to_owned());
            }
        }
        let (pam, omitted) = environment::pam(&variables);
        if !omitted.is_empty() {
            self.warnings.push(format!(
                "{}: /etc/environment cannot hold a value with # or a line break; logins, `pixels \
                 exec` and consoles have it, commands by ssh do not",
                omitted.join(", ")
            ));
        }
        let profile = environment::profile(&variables);
        self.add_root_file("/etc/pixels/environment", 0o644, pam);
        self.add_root_file("/etc/profile.d/pixels-env.sh", 0o644, profile);
        let profile = include_str!("guest/profile.sh");
        self.add_root_file("/etc/profile.d/pixels.sh", 0o644, profile);
    }

    fn add_packages(&mut self, options: &Options) {
        let mut packages = vec!["ca-certificates", "sudo"];
        if options.public_key.is_some() {
            packages.push("openssh-server");
        }
        if matches!(options.sessions, Sessions::Tmux) {
            packages.push("tmux");
            self.add_lib("tmux.conf", 0o644, include_str!("guest/tmux.conf"));
        }
        if matches!(options.sessions, Sessions::Zmx { .. }) || options.devtools.is_some() {
            packages.push("curl");
        }
        if options.devtools.is_some() {
            packages.extend(["build-essential", "git"]);
        }
        let list: String = packages.iter().map(|name| format!("{name}\n")).collect();
        let inputs = format!("{list}{}", options.ca_certificates.concat());
        self.add_step("packages", include_str!("guest/packages.sh"), &inputs);
        self.add_root_file("/etc/pixels/packages", 0o644, list);
        self.add_lib("apt", 0o755, super::APT);
    }

    /// Adds a step and its unit. `inputs` is the content of the files that the
    /// script reads.
    fn add_step(&mut self, name: &'static str, script: &str, inputs: &str) {
        self.add_lib(&format!("steps/{name}"), 0o755, script);
        let unit = include_str!("guest/step.service");
        let unit = format!("{unit}ExecStart={LIB}/step {name}\n");
        self.add_root_file(&format!("{UNITS}/pixels-{name}.service"), 0o644, unit);
        self.steps.push(Step {
            name,
            hash: hash(&[script, inputs]),
        });
    }

    /// Adds the unit that runs the steps. Call after all steps are added.
    fn add_runner(&mut self) {
        let steps = self.steps.iter();
        let list: String = steps
            .map(|step| format!("{} {}\n", step.name, step.hash))
            .collect();
        self.add_root_file("/etc/pixels/steps", 0o644, list);
        self.add_lib("step", 0o755, include_str!("guest/step.sh"));
        self.add_lib("provision", 0o755, include_str!("guest/provision.sh"));
        self.add_lib("status", 0o755, include_str!("guest/status.sh"));
        let unit = include_str!("guest/pixels-provision.service");
        self.add_root_file(&format!("{UNITS}/pixels-provision.service"), 0o644, unit);
    }
}

fn hash(parts: &[&str]) -> String {
    let parts = parts.iter().flat_map(|part| {
        let length = (part.len() as u64).to_be_bytes();
        [length.to_vec(), part.as_bytes().to_vec()]
    });
    hex(&sha256(parts)[..8])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::options::Devtools;
    use super::*;

    fn file<'a>(plan: &'a Plan, path: &str) -> Option<&'a GuestFile> {
        plan.files.iter().find(|file| file.path == path)
    }

    fn content<'a>(plan: &'a Plan, path: &str) -> Option<&'a str> {
        std::str::from_utf8(&file(plan, path)?.content).ok()
    }

    fn names(plan: &Plan) -> Vec<&str> {
        plan.steps.iter().map(|step| step.name).collect()
    }

    #[test]
    fn default_plan_has_sudo_and_tmux() {
        let plan = plan(&Options::default());
        assert_eq!(names(&plan), ["packages"]);
        assert_eq!(
            content(&plan, "/etc/pixels/packages"),
            Some("ca-certificates\nsudo\ntmux\n")
        );
        assert!(file(&plan, "/root/.ssh/authorized_keys").is_none());
        let sudoers = file(&plan, SUDOERS).unwrap();
        assert_eq!((sudoers.mode, sudoers.owner), (0o440, Ids::ROOT));
    }

    #[test]
    fn full_plan_has_files_of_all_options_and_a_unit_for_each_step() {
        let plan = plan(&Options {
            public_key: Some("ssh-ed25519 AAAA me\n".into()),
            dns: vec!["9.9.9.9".into(), "1.1.1.1".into()],
            variables: BTreeMap::from([("FOO".into(), "a b".into())]),
            devtools: Some(Devtools {
                installer_url: "https://mise.run".into(),
                tools: vec!["node@lts".into(), "npm:@openai/codex".into()],
            }),
            script: Some(b"#!/bin/sh\ntrue\n".to_vec()),
            sessions: Sessions::Zmx {
                url: "https://zmx.sh/x".into(),
                sha256: Some("ab".into()),
            },
            ..Options::default()
        });
        assert_eq!(names(&plan), ["packages", "zmx", "devtools", "script"]);
        let key = file(&plan, "/home/pixel/.ssh/authorized_keys").unwrap();
        assert_eq!((key.mode, key.owner), (0o600, PIXEL));
        for (path, expected) in [
            (
                "/etc/systemd/resolved.conf.d/pixels-dns.conf",
                "[Resolve]\nDNS=9.9.9.9 1.1.1.1\n",
            ),
            ("/etc/pixels/environment", "FOO=\"a b\"\n"),
            ("/etc/pixels/zmx", "url=https://zmx.sh/x\nsha256=ab\n"),
        ] {
            assert_eq!(content(&plan, path), Some(expected));
        }
        for step in &plan.steps {
            let unit = format!("/etc/systemd/system/pixels-{}.service", step.name);
            let start = format!("ExecStart=/usr/local/lib/pixels/step {}\n", step.name);
            assert!(content(&plan, &unit).unwrap().ends_with(&start));
            let listed = format!("{} {}\n", step.name, step.hash);
            let steps = content(&plan, "/etc/pixels/steps").unwrap();
            assert!(steps.contains(&listed));
        }
    }

    #[test]
    fn certificate_bundle_is_split_and_trusted() {
        let one = "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n";
        let plan = plan(&Options {
            ca_certificates: vec![format!("# two\n{one}text\n{one}")],
            ..Options::default()
        });
        let path = "/usr/local/share/ca-certificates/pixels-002.crt";
        assert_eq!(content(&plan, path), Some(one));
        let profile = content(&plan, "/etc/profile.d/pixels-env.sh").unwrap();
        assert!(
            profile.contains("export NODE_EXTRA_CA_CERTS='/etc/ssl/certs/ca-certificates.crt'")
        );
    }

    #[test]
    fn step_hash_follows_its_inputs_only() {
        let with = |version: &str| {
            let devtools = Devtools {
                installer_url: "https://mise.run".into(),
                tools: vec![format!("node@{version}")],
            };
            let plan = plan(&Options {
                devtools: Some(devtools),
                ..Options::default()
            });
            plan.steps
        };
        assert_eq!(with("lts"), with("lts"));
        assert_eq!(with("lts")[0], with("20")[0]);
        assert_ne!(with("lts")[1], with("20")[1]);
    }
}
