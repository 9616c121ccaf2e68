//! The pure half: what is wanted inside, as files and steps.

use super::environment;
use super::options::{Options, Sessions, certificates, mise};
use crate::egress::pixel::OPEN_SUDO;
use crate::model::{GuestFile, Ids};

const LIB: &str = "/usr/local/lib/pixels";
const UNITS: &str = "/etc/systemd/system";
const SUDOERS: &str = "/etc/sudoers.d/pixel";
/// Where the trust store of a Debian system stands after `update-ca-certificates`.
const TRUST: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Programs that do not ask the system's trust store of themselves.
const TRUST_VARIABLES: [&str; 5] = [
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

/// One background step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub name: &'static str,
    /// Changes when what the step does changes; a step that is done under
    /// another hash is run again.
    pub hash: String,
}

/// Everything that is put into a pixel.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Parent directories are made as needed.
    pub files: Vec<GuestFile>,
    /// In the order they run; one that fails stops those behind it.
    pub steps: Vec<Step>,
    /// What could not be done as asked.
    pub warnings: Vec<String>,
}

impl Plan {
    /// For a pixel with its policy inside, whose `sudo` is part of that.
    pub fn leave_sudo(&mut self) {
        self.files.retain(|file| file.path != SUDOERS);
    }
}

/// Settings to files and steps. The same options give the same plan.
pub fn plan(options: &Options) -> Plan {
    let mut plan = Builder::default();
    plan.access(options);
    plan.variables(options);
    plan.packages(options);
    if let Sessions::Zmx { url, sha256 } = &options.sessions {
        let sum = sha256
            .as_ref()
            .map_or_else(String::new, |sum| format!("sha256={sum}\n"));
        let source = format!("url={url}\n{sum}");
        plan.root("/etc/pixels/zmx", 0o644, source.clone());
        plan.step("zmx", include_str!("guest/zmx.sh"), &source);
    }
    if let Some(devtools) = &options.devtools {
        let url = format!("{}\n", devtools.installer_url);
        let tools = mise(&devtools.tools);
        plan.step(
            "devtools",
            include_str!("guest/devtools.sh"),
            &format!("{url}{tools}"),
        );
        plan.root("/etc/pixels/installer-url", 0o644, url);
        plan.file(
            "/home/pixel/.config/mise/config.toml",
            0o644,
            PIXEL,
            tools.into_bytes(),
        );
    }
    if let Some(script) = &options.script {
        plan.file(
            &format!("{LIB}/user-script"),
            0o755,
            Ids::ROOT,
            script.clone(),
        );
        plan.step(
            "script",
            include_str!("guest/script.sh"),
            &String::from_utf8_lossy(script),
        );
    }
    plan.runner();
    plan.0
}

struct Builder(Plan);

impl Default for Builder {
    fn default() -> Self {
        Self(Plan {
            files: Vec::new(),
            steps: Vec::new(),
            warnings: Vec::new(),
        })
    }
}

impl Builder {
    fn file(&mut self, path: &str, mode: u32, owner: Ids, content: Vec<u8>) {
        self.0.files.push(GuestFile {
            path: path.to_owned(),
            content,
            mode,
            owner,
        });
    }

    fn root(&mut self, path: &str, mode: u32, content: impl Into<String>) {
        self.file(path, mode, Ids::ROOT, content.into().into_bytes());
    }

    fn access(&mut self, options: &Options) {
        self.root(SUDOERS, 0o440, OPEN_SUDO);
        if let Some(key) = &options.public_key {
            let line = format!("{}\n", key.trim());
            self.root("/root/.ssh/authorized_keys", 0o600, line.clone());
            self.file(
                "/home/pixel/.ssh/authorized_keys",
                0o600,
                PIXEL,
                line.into_bytes(),
            );
        }
        if !options.dns.is_empty() {
            self.root(
                "/etc/systemd/resolved.conf.d/pixels-dns.conf",
                0o644,
                format!("[Resolve]\nDNS={}\n", options.dns.join(" ")),
            );
        }
        let certificates: Vec<String> = options
            .ca_certificates
            .iter()
            .flat_map(|pem| certificates(pem))
            .collect();
        for (number, certificate) in certificates.iter().enumerate() {
            self.root(
                &format!(
                    "/usr/local/share/ca-certificates/pixels-{:03}.crt",
                    number + 1
                ),
                0o644,
                certificate.clone(),
            );
        }
    }

    fn variables(&mut self, options: &Options) {
        let mut variables = options.variables.clone();
        if !options.ca_certificates.is_empty() {
            for name in TRUST_VARIABLES {
                variables
                    .entry(name.to_owned())
                    .or_insert_with(|| TRUST.to_owned());
            }
        }
        let (pam, left_out) = environment::pam(&variables);
        if !left_out.is_empty() {
            self.0.warnings.push(format!(
                "{}: /etc/environment cannot hold a value with # or a line break; logins, `pixels \
                 exec` and consoles have it, commands by ssh do not",
                left_out.join(", ")
            ));
        }
        self.root("/etc/pixels/environment", 0o644, pam);
        self.root(
            "/etc/profile.d/pixels-env.sh",
            0o644,
            environment::profile(&variables),
        );
        self.root(
            "/etc/profile.d/pixels.sh",
            0o644,
            include_str!("guest/profile.sh"),
        );
    }

    fn packages(&mut self, options: &Options) {
        let mut packages = vec!["ca-certificates", "sudo"];
        if options.public_key.is_some() {
            packages.push("openssh-server");
        }
        if matches!(options.sessions, Sessions::Tmux) {
            packages.push("tmux");
            self.root(
                &format!("{LIB}/tmux.conf"),
                0o644,
                include_str!("guest/tmux.conf"),
            );
        }
        if matches!(options.sessions, Sessions::Zmx { .. }) || options.devtools.is_some() {
            packages.push("curl");
        }
        if options.devtools.is_some() {
            packages.extend(["build-essential", "git"]);
        }
        let list: String = packages.iter().map(|name| format!("{name}\n")).collect();
        let certificates = options.ca_certificates.concat();
        self.step(
            "packages",
            include_str!("guest/packages.sh"),
            &format!("{list}{certificates}"),
        );
        self.root("/etc/pixels/packages", 0o644, list);
        self.root(&format!("{LIB}/apt"), 0o755, super::APT);
    }

    /// `inputs` is what the script reads besides itself.
    fn step(&mut self, name: &'static str, script: &str, inputs: &str) {
        self.root(&format!("{LIB}/steps/{name}"), 0o755, script);
        let unit = include_str!("guest/step.service");
        self.root(
            &format!("{UNITS}/pixels-{name}.service"),
            0o644,
            format!("{}ExecStart={LIB}/step {name}\n", unit),
        );
        self.0.steps.push(Step {
            name,
            hash: hash(&[script, inputs]),
        });
    }

    fn runner(&mut self) {
        let list: String = self
            .0
            .steps
            .iter()
            .map(|step| format!("{} {}\n", step.name, step.hash))
            .collect();
        self.root("/etc/pixels/steps", 0o644, list);
        self.root(&format!("{LIB}/step"), 0o755, include_str!("guest/step.sh"));
        self.root(
            &format!("{LIB}/provision"),
            0o755,
            include_str!("guest/provision.sh"),
        );
        self.root(
            &format!("{LIB}/status"),
            0o755,
            include_str!("guest/status.sh"),
        );
        self.root(
            &format!("{UNITS}/pixels-provision.service"),
            0o644,
            include_str!("guest/pixels-provision.service"),
        );
    }
}

fn hash(parts: &[&str]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::options::Devtools;
    use super::*;

    fn content<'a>(plan: &'a Plan, path: &str) -> Option<&'a str> {
        let file = plan.files.iter().find(|file| file.path == path)?;
        std::str::from_utf8(&file.content).ok()
    }

    fn names(plan: &Plan) -> Vec<&str> {
        plan.steps.iter().map(|step| step.name).collect()
    }

    #[test]
    fn the_least_is_a_user_with_sudo_and_sessions() {
        let plan = plan(&Options::default());
        assert_eq!(names(&plan), ["packages"]);
        assert_eq!(
            content(&plan, "/etc/pixels/packages"),
            Some("ca-certificates\nsudo\ntmux\n")
        );
        assert!(content(&plan, "/root/.ssh/authorized_keys").is_none());
        let sudoers = plan
            .files
            .iter()
            .find(|file| file.path == "/etc/sudoers.d/pixel")
            .unwrap();
        assert_eq!((sudoers.mode, sudoers.owner), (0o440, Ids::ROOT));
    }

    #[test]
    fn everything_in_its_order() {
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
        let key = plan
            .files
            .iter()
            .find(|file| file.path == "/home/pixel/.ssh/authorized_keys")
            .unwrap();
        assert_eq!((key.mode, key.owner), (0o600, PIXEL));
        assert_eq!(
            content(&plan, "/etc/systemd/resolved.conf.d/pixels-dns.conf"),
            Some("[Resolve]\nDNS=9.9.9.9 1.1.1.1\n")
        );
        assert_eq!(
            content(&plan, "/etc/pixels/environment"),
            Some("FOO=\"a b\"\n")
        );
        assert_eq!(
            content(&plan, "/etc/pixels/zmx"),
            Some("url=https://zmx.sh/x\nsha256=ab\n")
        );
        assert!(
            content(&plan, "/etc/systemd/system/pixels-devtools.service")
                .unwrap()
                .ends_with("ExecStart=/usr/local/lib/pixels/step devtools\n")
        );
    }

    #[test]
    fn a_bundle_is_taken_apart_and_announced() {
        let one = "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n";
        let plan = plan(&Options {
            ca_certificates: vec![format!("# two\n{one}text\n{one}")],
            ..Options::default()
        });
        let path = "/usr/local/share/ca-certificates/pixels-002.crt";
        assert_eq!(content(&plan, path), Some(one));
        assert!(
            content(&plan, "/etc/profile.d/pixels-env.sh")
                .unwrap()
                .contains("export NODE_EXTRA_CA_CERTS='/etc/ssl/certs/ca-certificates.crt'")
        );
    }

    #[test]
    fn a_step_is_run_again_only_when_it_changed() {
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
