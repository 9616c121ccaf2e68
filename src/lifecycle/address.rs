//! The IPv4 address of a pixel that has just started.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::model::{Backend, Error, Name, Result, Status, Subject};
use crate::retry::{self, Next};

const TIMEOUT: Duration = Duration::from_secs(15);

/// Waits until a started pixel has an IPv4 address. Returns `None` after 15
/// seconds.
///
/// Fails with [`Error::WrongState`] if the pixel has stopped again.
pub async fn wait_for_address(backend: &dyn Backend, name: &Name) -> Result<Option<Ipv4Addr>> {
    let address = retry::until(TIMEOUT, || async {
        match backend.address(name).await {
            Ok(Some(address)) => Next::Done(Ok(Some(address))),
            // A daemon under load may not find the init process of a pixel that
            // is just starting.
            Ok(None) | Err(Error::Server { .. }) => match backend.get(name).await {
                Ok(pixel) if pixel.status == Status::Stopped => {
                    Next::Done(Err(Error::WrongState {
                        subject: Subject::pixel(name),
                        state: "stopped again: its system ended right after the start".into(),
                    }))
                }
                _ => Next::Again(()),
            },
            Err(error) => Next::Done(Err(error)),
        }
    });
    address.await.unwrap_or(Ok(None))
}
