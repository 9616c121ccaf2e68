//! The provisioning plan, with the content of files that the settings name.

use std::io::ErrorKind;
use std::path::Path;

use crate::cli::Context;
use crate::config::{Multiplexer, Origin, Settings};
use crate::exit::Usage;
use crate::provision::{self, Devtools, Options, Plan, Sessions};

/// The plan of new pixels, or `None` if provisioning is disabled. Prints the
/// warnings of the plan.
///
/// Fails if a file that the settings name cannot be read or is invalid.
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
    let mut ca_certificates = Vec::new();
    for path in &options.ca_certs {
        let pem = String::from_utf8_lossy(&read("provision.ca_certs", path)?).into_owned();
        if !pem.contains("-----BEGIN CERTIFICATE-----") {
            let path = path.display();
            let problem = format!("provision.ca_certs: {path} contains no PEM certificate");
            return Err(Usage(problem).into());
        }
        ca_certificates.push(pem);
    }
    let script = options.script.as_deref().map(read_script).transpose()?;
    Ok(Options {
        public_key: public_key(settings, context),
        dns: settings.defaults.dns.clone(),
        variables: settings.env.resolve(&|name| std::env::var_os(name))?.image,
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

fn read_script(path: &Path) -> Result<Vec<u8>, Usage> {
    let script = read("provision.script", path)?;
    if !script.starts_with(b"#!") {
        let path = path.display();
        let problem = format!("provision.script: {path} must start with #!, such as #!/bin/sh");
        return Err(Usage(problem));
    }
    Ok(script)
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, Usage> {
    std::fs::read(path).map_err(|e| Usage(format!("{key}: cannot read {}: {e}", path.display())))
}

/// The first key in `<ssh.key>.pub`. Warns if the file cannot be read, unless
/// the file is the default and does not exist.
fn public_key(settings: &Settings, context: &Context) -> Option<String> {
    let mut path = settings.ssh.key.clone()?.into_os_string();
    path.push(".pub");
    let named_by_user = context.loaded.origin("ssh.key") != Some(&Origin::Default);
    match std::fs::read_to_string(&path) {
        Ok(key) => key
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty() && !line.starts_with('#'))
            .map(str::to_owned),
        Err(error) if error.kind() == ErrorKind::NotFound && !named_by_user => None,
        Err(error) => {
            context.ui.warn(&format!(
                "no SSH key for the pixel: cannot read {}: {error}",
                Path::new(&path).display()
            ));
            None
        }
    }
}
