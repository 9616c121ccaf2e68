//! Settings to what provisioning is asked to do; reads the files they name.

use std::io::ErrorKind;
use std::path::Path;

use crate::cli::Context;
use crate::config::{Multiplexer, Origin, Settings};
use crate::exit::Usage;
use crate::provision::{self, Devtools, Options, Plan, Sessions};

/// The plan for new pixels; `None` when provisioning is switched off.
pub fn plan_from_settings(context: &Context) -> anyhow::Result<Option<Plan>> {
    let settings = context.settings();
    if !settings.provision.enabled {
        return Ok(None);
    }
    let plan = provision::plan(&options(settings, context)?);
    for warning in &plan.warnings {
        context.ui.warn(warning);
    }
    Ok(Some(plan))
}

fn options(settings: &Settings, context: &Context) -> anyhow::Result<Options> {
    let options = &settings.provision;
    let ours = |name: &str| std::env::var_os(name);
    let mut ca_certificates = Vec::new();
    for path in &options.ca_certs {
        let pem = String::from_utf8_lossy(&read("provision.ca_certs", path)?).into_owned();
        if !pem.contains("-----BEGIN CERTIFICATE-----") {
            return Err(Usage(format!(
                "provision.ca_certs: {} holds no PEM certificate",
                path.display()
            ))
            .into());
        }
        ca_certificates.push(pem);
    }
    let script = match &options.script {
        None => None,
        Some(path) => {
            let script = read("provision.script", path)?;
            if !script.starts_with(b"#!") {
                return Err(Usage(format!(
                    "provision.script: {} does not begin with #!, such as #!/bin/sh",
                    path.display()
                ))
                .into());
            }
            Some(script)
        }
    };
    Ok(Options {
        public_key: public_key(settings, context),
        dns: settings.defaults.dns.clone(),
        variables: settings.env.resolve(&ours)?.image,
        ca_certificates,
        devtools: options.devtools.then(|| Devtools {
            installer_url: options.installer_url.clone(),
            tools: options.tools.clone(),
        }),
        script,
        sessions: match settings.console.multiplexer {
            Multiplexer::Auto | Multiplexer::Tmux => Sessions::Tmux,
            Multiplexer::Zmx => Sessions::Zmx {
                url: settings.console.zmx_url.clone(),
                sha256: settings.console.zmx_sha256.clone(),
            },
            Multiplexer::None => Sessions::None,
        },
    })
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, Usage> {
    std::fs::read(path).map_err(|e| Usage(format!("{key}: reading {}: {e}", path.display())))
}

/// `<ssh.key>.pub`. That nobody has the usual key is no error; one that was
/// named was meant to be there.
fn public_key(settings: &Settings, context: &Context) -> Option<String> {
    let mut path = settings.ssh.key.clone()?.into_os_string();
    path.push(".pub");
    let named = context.loaded.origin("ssh.key") != Some(&Origin::Default);
    match std::fs::read_to_string(&path) {
        Ok(key) => key
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty() && !line.starts_with('#'))
            .map(str::to_owned),
        Err(error) if error.kind() == ErrorKind::NotFound && !named => None,
        Err(error) => {
            context.ui.warn(&format!(
                "no SSH key for the pixel: reading {}: {error}",
                Path::new(&path).display()
            ));
            None
        }
    }
}
