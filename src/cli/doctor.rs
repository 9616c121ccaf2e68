use super::Context;
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {}
impl DoctorArgs {
    pub async fn run(self, _c: &Context) -> anyhow::Result<()> {
        Ok(())
    }
}
