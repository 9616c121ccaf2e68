use super::Context;
#[derive(Debug, clap::Args)]
pub struct QuickstartArgs {}
impl QuickstartArgs {
    pub async fn run(self, _c: &Context) -> anyhow::Result<()> {
        Ok(())
    }
}
