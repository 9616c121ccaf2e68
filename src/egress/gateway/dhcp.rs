//! DHCP of the gateway: a dnsmasq that leases each pixel the address on its
//! record, and no other address to any other machine.

use super::clients::Client;
use super::provision::STATE;
use super::subnet::Subnet;

/// The DHCP server's configuration: static leases only.
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

/// The reservation of a pixel, a line of the file `hosts`.
pub(super) fn reservation(client: &Client) -> String {
    format!("{},{}", client.mac, client.address)
}
