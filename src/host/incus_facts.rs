//! Facts the daemon tells, in a handful of requests.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::Error;
use super::facts::{Network, Pool, ServerFacts, ServerState};
use super::subnet::Subnet;
use crate::backend::incus::{Client, Failure};

#[derive(Debug, Deserialize)]
struct Server {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    api_extensions: Vec<String>,
    #[serde(default)]
    environment: Environment,
}

#[derive(Debug, Default, Deserialize)]
struct Environment {
    #[serde(default)]
    server_version: String,
    #[serde(default)]
    server_clustered: bool,
    #[serde(default)]
    storage_supported_drivers: Vec<Driver>,
}

#[derive(Debug, Deserialize)]
struct Driver {
    #[serde(rename = "Name")]
    name: String,
}

#[derive(Debug, Deserialize)]
struct Alias {
    name: String,
}

#[derive(Debug, Deserialize)]
struct State {
    #[serde(default)]
    addresses: Option<Vec<Address>>,
}

#[derive(Debug, Deserialize)]
struct Address {
    family: String,
    address: String,
    netmask: String,
}

/// Asks the daemon. That nobody answers, or that it refuses us, are facts
/// too; any other failure is an error. `remote`: also ask which addresses its
/// machine has.
pub async fn probe(client: &Client, remote: bool) -> Result<ServerState, Error> {
    let server: Server = match client.get("/1.0").await {
        Ok(server) => server,
        Err(Failure::Denied { reason, .. }) => return Ok(ServerState::Denied(reason)),
        Err(Failure::Api {
            code: 401 | 403,
            message,
        }) => return Ok(ServerState::Denied(message)),
        Err(
            silent @ (Failure::Unreachable { .. }
            | Failure::TimedOut { .. }
            // What a daemon that is still starting says.
            | Failure::Api { code: 503, .. }),
        ) => return Ok(ServerState::Silent(silent.to_string())),
        Err(source) => return Err(failed("asking Incus about itself", source)),
    };
    if server.auth != "trusted" {
        return Ok(ServerState::Denied(
            "the server does not trust this client".into(),
        ));
    }
    match details(client, server, remote).await {
        Ok(facts) => Ok(ServerState::Answers(Box::new(facts))),
        Err(source) => Err(failed("asking Incus what it has", source)),
    }
}

async fn details(client: &Client, server: Server, remote: bool) -> Result<ServerFacts, Failure> {
    let pools: Vec<Pool> = list(client, "/1.0/storage-pools?recursion=1").await?;
    let networks: Vec<Network> = list(client, "/1.0/networks?recursion=1").await?;
    let aliases: Vec<Alias> = list(client, "/1.0/images/aliases?recursion=1").await?;
    let mut addresses = Vec::new();
    if remote {
        for network in &networks {
            let path = format!("/1.0/networks/{}/state", network.name);
            match client.get::<State>(&path).await {
                Ok(state) => addresses.extend(subnets(state)),
                // Networks without an interface have no state.
                Err(Failure::Api { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(ServerFacts {
        version: server.environment.server_version,
        extensions: server.api_extensions,
        clustered: server.environment.server_clustered,
        drivers: server
            .environment
            .storage_supported_drivers
            .into_iter()
            .map(|driver| driver.name)
            .collect(),
        pools,
        networks,
        addresses,
        aliases: aliases.into_iter().map(|alias| alias.name).collect(),
    })
}

/// A list, which a daemon that has none of the kind writes as `null`.
pub async fn list<T: DeserializeOwned>(client: &Client, path: &str) -> Result<Vec<T>, Failure> {
    let list: Option<Vec<T>> = client.get(path).await?;
    Ok(list.unwrap_or_default())
}

fn subnets(state: State) -> Vec<Subnet> {
    let all = state.addresses.unwrap_or_default();
    all.iter()
        .filter(|address| address.family == "inet")
        .filter_map(|a| format!("{}/{}", a.address, a.netmask).parse().ok())
        .collect()
}

fn failed(doing: &str, source: Failure) -> Error {
    Error::Server {
        doing: doing.into(),
        source,
    }
}
