//! DHCP of the gateway: a dnsmasq that leases to each pixel only the address in
//! the pixel's record, and no address to other machines.

use super::clients::Client;
use super::provision::STATE;
use super::subnet::Subnet;

/// Returns the DHCP server's configuration, which allows static leases only.
pub(super) fn config(subnet: Subnet) -> String {
    let gateway = subnet.gateway();
    format!(
        "port=0\n\
         interface=eth1\n\
         bind-dynamic\n\
         except-interface=lo\n\
         no-ping\n\
         dhcp-authoritative\n\
         dhcp-rapid-commit\n\
         dhcp-range={network},static,{netmask},10m\n\
         dhcp-option=option:router,{gateway}\n\
         dhcp-option=option:dns-server,{gateway}\n\
         dhcp-hostsfile={STATE}/hosts\n\
         dhcp-leasefile=/run/pixels/leases\n\
         quiet-dhcp\n",
        network = subnet.network(),
        netmask = subnet.netmask(),
    )
}

/// Returns the reservation of a pixel: a line of the file `hosts`.
pub(super) fn reservation(client: &Client) -> String {
    format!("{},{}", client.mac, client.address)
}
