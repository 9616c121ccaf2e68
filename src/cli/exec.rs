//! `pixels exec`

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;

use super::attach::attach;
use super::pixel_arg::PixelArg;
use super::{Context, duration_arg};
use crate::exit::Usage;
use crate::lifecycle::{self, AssumedUser, ExecOptions, User};
use crate::model::is_env_name;
use crate::term;

/// Run a command in a pixel and exit with its status
///
/// The command gets a terminal if stdin and stdout are terminals. Arguments are not
/// shell code: for pipes and variables, run sh -c '...'.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels exec box -- ls -l"
    "pixels exec box -e LANG=C -w /tmp -u root --timeout 90s -- make test"
    "pixels exec box -- sh -c 'ps | wc -l'"
))]
pub struct ExecArgs {
    #[command(flatten)]
    pixel: PixelArg,
    /// Set an environment variable; KEY alone passes your own value on
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    env: Vec<String>,
    /// Working directory [default: home directory of the user]
    #[arg(short = 'w', long, value_name = "DIR")]
    cwd: Option<String>,
    /// User name, UID or UID:GID to run as
    #[arg(short, long)]
    user: Option<String>,
    /// Kill the command after this time, such as 90s or 5m
    #[arg(long, value_name = "DURATION", allow_negative_numbers = true, value_parser = duration_arg::parse_timeout)]
    timeout: Option<Duration>,
    /// Allocate a terminal for the command even if pixels has none
    #[arg(short = 't', long, overrides_with = "no_tty")]
    tty: bool,
    /// Do not allocate a terminal for the command
    #[arg(short = 'T', long, overrides_with = "tty")]
    no_tty: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl ExecArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let env = parse_variables(&self.env)?;
        let backend = context.backend()?;
        let guest = backend.guest(&self.pixel.name);
        let tty = self.tty || (term::interactive() && !self.no_tty);
        let assumed = AssumedUser::new(context.settings().provision.enabled);
        let mut options = ExecOptions {
            argv: self.command,
            user: assumed.user.clone(),
            env,
            cwd: self.cwd,
            tty: tty.then(term::size),
            timeout: self.timeout,
        };
        let pixel = context.unless_interrupted(backend.get(&self.pixel.name));
        if let Some(user) = &self.user {
            lifecycle::ensure_running(&pixel.await?)?;
            let lookup = User::lookup(&*guest, user);
            options.user = context.unless_interrupted(lookup).await?;
            return attach(context, &*guest, options, None).await;
        }
        let verified = Box::pin(assumed.verify(pixel));
        let outcome = attach(context, &*guest, options.clone(), Some(verified)).await;
        match assumed.into_actual() {
            Some(user) => attach(context, &*guest, ExecOptions { user, ..options }, None).await,
            None => outcome,
        }
    }
}

fn parse_variables(args: &[String]) -> Result<BTreeMap<String, String>, Usage> {
    let mut variables = BTreeMap::new();
    for arg in args {
        let (key, value) = match arg.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (arg.as_str(), std::env::var(arg).ok()),
        };
        if !is_env_name(key) {
            return Err(Usage(format!(
                "--env {arg:?}: a variable name consists of letters, digits and _"
            )));
        }
        // As in docker, a name without value that is not set here is ignored.
        if let Some(value) = value {
            variables.insert(key.to_owned(), value);
        }
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_values_kept_exactly_and_bad_names_rejected() {
        let args = ["A=b=c".to_owned(), "E=".to_owned()];
        let variables = parse_variables(&args).unwrap();
        assert_eq!(variables["A"], "b=c");
        assert_eq!(variables["E"], "");
        for bad in ["=x", "1A=x", "A B=x"] {
            assert!(parse_variables(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
