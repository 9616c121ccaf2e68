#!/bin/sh
# Filters the uplink of a gateway on the server's host, and keeps packets of the
# gateway's isolated bridge away from the host. LXC runs this script as
# the hook start-host: after LXC has moved the interface eth0 into the instance,
# before init starts. If the script fails, the instance does not start, and its
# lxc.log has a line "pixels: REASON".
#
# Afterwards, the tables $1 drop packets from the gateway to any address of the
# host, except packets with the DSCP $3, and packets to the pixels in the subnet
# $2, except packets that the host itself sends. The host does not track packets
# from the isolated bridge, and drops IP and ARP packets to reserved Ethernet groups: a
# bridge passes these to the host as packets of the port, which the hook of the pixel
# secures, but not a port that is replaced in a running pixel. The tables replace those
# of the previous start.
#
# Every line must mean the same when it follows the previous one on one line, and
# there must be no single quotes.
table=$1; subnet=$2; access=$3;
fail() {
    echo "pixels: $(echo "$1" | tr "\n" " ")" >>"${LXC_CONSOLE_LOGPATH%/*}/lxc.log";
    exit 1;
};
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin;
for tool in nsenter ip nft; do
    command -v "$tool" >/dev/null || fail "the program $tool is missing on the host";
done;
link=$(nsenter -t "$LXC_PID" -n ip -o link show dev eth1 2>&1) || fail "$link";
index=${link#*@if}; index=${index%%:*};
link=$(ip -o link 2>&1 | grep "^$index: ") || fail "the host has no interface $index";
case $link in
    *" master "*) isolated=${link#* master }; isolated=${isolated%% *} ;;
    *) fail "the interface eth1 is on no bridge" ;;
esac;
isolation="
    add table inet $table;
    delete table inet $table;
    add table inet $table;
    add chain inet $table isolation { type filter hook prerouting priority raw; };
    add rule inet $table isolation ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 drop;
    add rule inet $table isolation iifname \"$isolated\" notrack;
    add table arp $table;
    delete table arp $table;
    add table arp $table;
    add chain arp $table isolation { type filter hook input priority 0; };
    add rule arp $table isolation ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 drop;
";
link=$(nsenter -t "$LXC_PID" -n ip -d -o link show dev eth0 2>&1) || fail "$link";
# Interfaces of other kinds have no port on the host.
case $link in
    *" veth "*) ;;
    *)
        output=$(nft "$isolation" 2>&1) || fail "$output";
        exit 0 ;;
esac;
index=${link#*@if}; index=${index%%:*};
link=$(ip -o link 2>&1 | grep "^$index: ") || fail "the host has no interface $index";
port=${link#*: }; port=${port%%@*};
case $link in
    *" master "*) bridge=${link#* master }; bridge=${bridge%% *} ;;
    *) bridge=$port ;;
esac;
# The hook ingress sees the packets of the gateway before the host translates
# their addresses, routes or bridges them. Pixels cannot send the DHCP requests
# and DNS queries that are accepted without the DSCP: the gateway itself answers
# theirs. It needs these before it has its own rules.
output=$(nft "
    add table netdev $table;
    delete table netdev $table;
    add table netdev $table;
    add chain netdev $table from_gateway { type filter hook ingress device \"$port\" priority 0; };
    add rule netdev $table from_gateway ip dscp $access ip dscp set cs0 accept;
    add rule netdev $table from_gateway ip daddr 255.255.255.255 udp dport 67 accept;
    add rule netdev $table from_gateway meta l4proto { tcp, udp } th dport 53 accept;
    add rule netdev $table from_gateway meta protocol ip fib daddr type != unicast drop;
    add table bridge $table;
    delete table bridge $table;
    add table bridge $table;
    add chain bridge $table to_gateway { type filter hook forward priority 0; };
    add rule bridge $table to_gateway oifname \"$port\" ether type != { arp, ip, ip6 } drop;
    add rule bridge $table to_gateway oifname \"$port\" ip daddr $subnet drop;
    $isolation
    add chain inet $table to_gateway { type filter hook forward priority 0; };
    add rule inet $table to_gateway oifname \"$bridge\" ip daddr $subnet drop;
" 2>&1) || fail "$output";
