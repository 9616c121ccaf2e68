use super::Context;
#[derive(Debug, clap::Args)]
pub struct SetupArgs {}
impl SetupArgs {
    pub async fn run(self, _c: &Context) -> anyhow::Result<()> {
        Ok(())
    }
}
