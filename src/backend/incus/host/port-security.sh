#!/bin/sh
# Secures the bridge port of an instance on an isolated bridge. LXC runs this
# script on the server's host as the hook start-host: after LXC has moved the
# interface $1 into the instance, before init starts. If the script fails, the
# instance does not start, and its lxc.log has a line "pixels: REASON". Otherwise
# lxc.log, which is new at every start, has a line "pixels secured INTERFACE".
#
# Afterwards, the bridge $2 has a fixed address at this port and learns none. A
# pixel (interface eth0) exchanges frames only with the gateway. The host receives
# no frames from the bridge.
#
# Every line must mean the same when it follows the previous one on one line, and
# there must be no single quotes.
interface=$1; bridge=$2; log=${LXC_CONSOLE_LOGPATH%/*}/lxc.log;
fail() { echo "pixels: $(echo "$1" | tr "\n" " ")" >>"$log"; exit 1; };
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin;
for tool in nsenter ip bridge tc; do
    command -v "$tool" >/dev/null || fail "the program $tool is missing on the host";
done;
link=$(nsenter -t "$LXC_PID" -n ip -o link show dev "$interface" 2>&1) || fail "$link";
mac=${link#*link/ether }; mac=${mac%% *};
# The name of the port is unknown, but the tools also accept "if" and its index.
port=${link#*@}; port=${port%%:*};
output=$({
    echo "link set dev $port learning off";
    echo "fdb replace $mac dev $port master static sticky";
} | bridge -batch - 2>&1) || fail "$output";

# The filters are BPF programs: they need a single kernel module, and a flush of
# the nftables ruleset keeps them. An instruction is an opcode, two relative jumps
# (true, false) and a value. Opcodes: 32, 40 and 48 load four, two and one bytes,
# 21 jumps if equal, 69 jumps if a bit is set, 6 returns: -1 continue, 2 drop.
IFS=:;
# shellcheck disable=SC2086 # one word per byte
set -- $mac;
unset IFS;
high=$((0x$1$2$3$4)); low=$((0x$5$6));
pass="6 0 0 4294967295"; drop="6 0 0 2";
# Frames from a pixel. Drop VLAN tags;
sent="32 0 0 4294963248,21 0 16 0";
# source addresses other than its own;
sent="$sent,32 0 0 6,21 0 14 $high,40 0 0 10,21 0 12 $low";
# multicast, because bridges pass some groups to the host past their filters;
sent="$sent,48 0 0 0,69 0 4 1,32 0 0 0,21 0 8 4294967295,40 0 0 4,21 0 6 65535";
# protocols other than ARP and IPv4, and IPv4 fragments, because the host may
# reassemble fragments of several pixels to one packet.
sent="$sent,40 0 0 12,21 3 0 2054,21 0 3 2048,40 0 0 20,69 1 0 16383,$pass,$drop";
# Frames to a pixel. Drop other destinations, which other pixels can cause;
received="32 0 0 0,21 0 2 $high,40 0 0 4,21 15 16 $low";
# except broadcasts: IPv4 without options, UDP from port 67 to port 68, with its
# hardware address in the DHCP answer.
received="$received,21 0 15 4294967295,40 0 0 4,21 0 13 65535";
received="$received,40 0 0 12,21 0 11 2048,48 0 0 14,21 0 9 69,48 0 0 23,21 0 7 17";
received="$received,32 0 0 34,21 0 5 4390980";
received="$received,32 0 0 70,21 0 3 $high,40 0 0 74,21 0 1 $low,$pass,$drop";
attach() {
    echo "qdisc replace dev $1 clsact";
    echo "filter replace dev $1 $2 pref 1 handle 1 bpf da bytecode \"$4,$3\"";
};
output=$({
    attach "$bridge" ingress "$drop" 1;
    if [ "$interface" = eth0 ]; then
        attach "$port" ingress "$sent" 19;
        attach "$port" egress "$received" 21;
    fi;
} | tc -batch - 2>&1) || fail "$output";

# Otherwise a packet reaches the filter of the gateway before the kernel writes its
# checksum, to a place that the sender chooses: it could replace the port.
if [ "$interface" = eth1 ]; then
    for path in /sys/class/net/*; do
        read -r index <"$path/ifindex";
        [ "if$index" != "$port" ] || name=${path##*/};
    done;
    if command -v ethtool >/dev/null; then
        output=$(ethtool -K "$name" tx off 2>&1) || fail "$output";
    else
        command -v perl >/dev/null || fail "the program ethtool is missing on the host";
        output=$(perl -e "socket(S, 2, 2, 0) or die; my \$off = pack(q(LL), 0x17, 0);
            ioctl(S, 0x8946, pack(q(a16 P a16), \$ARGV[0], \$off, q())) or die \$!" "$name" 2>&1) ||
            fail "$output";
    fi;
fi;
echo "pixels secured $interface" >>"$log";
