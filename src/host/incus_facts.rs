//! Reads facts about an Incus server from its API.

use serde::de::DeserializeOwned;

use super::error::Error;
use super::facts::{ServerFacts, ServerState};
use super::subnet;
use crate::backend::incus::Client;
use crate::backend::incus::wire::{ImageAlias, Network, NetworkState, Server};
use crate::model;

/// Reads facts about the server. A server that does not answer or denies access
/// is a result, not an error. With `remote`, also reads the networks of the
/// server's interfaces, with one request per network.
pub async fn read(client: &Client, remote: bool) -> Result<ServerState, Error> {
    let server = client.get::<Server>("/1.0").await;
    let server = match server.map_err(model::Error::from) {
        Ok(server) => server,
        Err(model::Error::Denied { reason, .. }) => {
            return Ok(ServerState::Denied(reason.to_string()));
        }
        Err(
            error @ (model::Error::Unreachable { .. }
            | model::Error::TimedOut { .. }
            // The daemon is still starting.
            | model::Error::Server { code: 503, .. }),
        ) => return Ok(ServerState::Unreachable(error.to_string())),
        Err(error) => return Err(Error::server("cannot read the Incus server's state", error)),
    };
    if server.auth != "trusted" {
        return Ok(ServerState::Denied(
            "the server does not trust this client".into(),
        ));
    }
    match details(client, server, remote).await {
        Ok(facts) => Ok(ServerState::Ready(Box::new(facts))),
        Err(error) => Err(Error::server(
            "cannot list the Incus server's resources",
            error,
        )),
    }
}

async fn details(client: &Client, server: Server, remote: bool) -> model::Result<ServerFacts> {
    let pools = list(client, "/1.0/storage-pools?recursion=1").await?;
    let networks: Vec<Network> = list(client, "/1.0/networks?recursion=1").await?;
    let aliases = image_aliases(client).await?;
    let mut addresses = Vec::new();
    if remote {
        for network in &networks {
            let path = format!("/1.0/networks/{}/state", network.name);
            let state = client.get::<NetworkState>(&path).await;
            match state.map_err(model::Error::from) {
                Ok(state) => {
                    let ipv4 = state.addresses.iter().filter(|a| a.family == "inet");
                    addresses.extend(ipv4.filter_map(|address| {
                        subnet::parse(&format!("{}/{}", address.address, address.netmask))
                    }));
                }
                // Networks without an interface have no state.
                Err(model::Error::Server { .. } | model::Error::Denied { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let drivers = server.environment.storage_supported_drivers.into_iter();
    Ok(ServerFacts {
        version: server.environment.server_version,
        extensions: server.api_extensions,
        clustered: server.environment.server_clustered,
        drivers: drivers.map(|driver| driver.name).collect(),
        pools,
        networks,
        addresses,
        aliases,
    })
}

/// Returns the aliases of all images on the server. Sends one request.
pub async fn image_aliases(client: &Client) -> model::Result<Vec<String>> {
    let aliases: Vec<ImageAlias> = list(client, "/1.0/images/aliases?recursion=1").await?;
    Ok(aliases.into_iter().map(|alias| alias.name).collect())
}

/// Reads a list. The daemon sends an empty list as `null`.
async fn list<T: DeserializeOwned>(client: &Client, path: &str) -> model::Result<Vec<T>> {
    let list: Option<Vec<T>> = client.get(path).await?;
    Ok(list.unwrap_or_default())
}
