//! What the settings say of every pixel that a server makes by itself, taken
//! once: where it is put, what it may reach, what is put into it.

use super::gateway::GatewaySpec;
use super::network::Network;
use crate::egress::Policy;
use crate::model::{Backend, Limits, Result};
use crate::provision::Plan;

#[derive(Debug, Clone)]
pub struct InstanceDefaults {
    pub network: Network,
    /// How a gateway is made that is missing.
    pub gateway: GatewaySpec,
    /// Of new pixels, with everything that is allowed on top in any mode.
    pub policy: Policy,
    /// `None` leaves pixels as the image made them.
    pub plan: Option<Plan>,
    pub limits: Limits,
    /// For those who name none.
    pub image: String,
    pub unchosen: Option<DefaultImage>,
}

/// The image that is meant where nobody chose one.
#[derive(Debug, Clone)]
pub struct DefaultImage {
    pub image: String,
    /// How the aliases of those begin that stand in for it.
    pub stand_in: String,
}

impl InstanceDefaults {
    /// The image to make a pixel from. Where it is the one that nobody chose
    /// and the server has only a stand-in, that one.
    pub async fn image(&self, backend: &dyn Backend, image: &str) -> Result<String> {
        let Some(unchosen) = self.unchosen.as_ref().filter(|it| it.image == image) else {
            return Ok(image.to_owned());
        };
        if backend.has_image(image).await? {
            return Ok(image.to_owned());
        }
        let built = backend.image_with_prefix(&unchosen.stand_in).await?;
        Ok(built.unwrap_or_else(|| image.to_owned()))
    }
}
