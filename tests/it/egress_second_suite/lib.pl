# Helpers of the attempts. Each attempt is a Perl block that sends its marker $M
# or prints IN with the reason for a success that only the attacker sees.
use strict;
use warnings;
no warnings qw(once portable);
use Socket;
use POSIX ();

our @descriptors = grep { -e "/proc/self/fd/$_" } 3 .. 40;
our $M;
our ($A, $D, $N, $NM, $GW, $GM, $ME, $MM, $R, $ALL, $HOSTS, $PORT, $UP, $CONTROL) =
    @ENV{qw(A D N NM GW GM ME MM R ALL HOSTS PORT UP CONTROL)};
$ENV{PATH} .= ':/usr/sbin:/sbin';
our $BROADCAST = 'ff:ff:ff:ff:ff:ff';

sub in { print "IN @_\n" }
sub mac { pack 'H12', $_[0] =~ s/://gr }

sub sum {
    my $data = shift;
    $data .= "\0" if length($data) % 2;
    my $sum = 0;
    $sum += $_ for unpack 'n*', $data;
    $sum = ($sum & 0xffff) + ($sum >> 16) while $sum >> 16;
    return ~$sum & 0xffff;
}

sub udp { my ($from, $to, $data) = @_; pack('nnnn', $from, $to, 8 + length $data, 0) . $data }

sub tcp {
    my ($from, $to, $flags, $data, %o) = @_;
    my ($src, $dst) = ($o{src} // $ME, $o{dst} // $D);
    my $pack = sub {
        pack('nnNNCCnnn', $from, $to, $o{seq} // 1000, $o{ack} // 0, 0x50, $flags, 8192, $_[0], 0) . $data;
    };
    my $whole = $pack->(0);
    return $pack->(sum(inet_aton($src) . inet_aton($dst) . pack('nn', 6, length $whole) . $whole));
}

# An IPv4 packet. Options: opt, id, frag, ttl, and any wrong length or sum.
sub ip {
    my ($src, $dst, $protocol, $data, %o) = @_;
    my $opt = $o{opt} // '';
    $opt .= "\0" while length($opt) % 4;
    my $head = pack('CCnnnCC', $o{ihl} // 0x45 + length($opt) / 4, 0,
        $o{length} // 20 + length($opt) + length $data, $o{id} // int rand 65536,
        $o{frag} // 0, $o{ttl} // 64, $protocol);
    my $rest = inet_aton($src) . inet_aton($dst) . $opt;
    return $head . pack('n', $o{sum} // sum($head . "\0\0" . $rest)) . $rest . $data;
}

sub udp4 { my ($dst, $port, %o) = @_; ip($o{src} // $ME, $dst, 17, udp($o{from} // 4000, $port, "$M"), %o) }
sub icmp { my ($type, $code, $rest) = @_; my $m = pack('CCn', $type, $code, 0) . $rest;
    pack('CCn', $type, $code, sum($m)) . $rest }

sub eth {
    my ($to, $type, $data, $from) = @_;
    my $frame = mac($to) . mac($from // $MM) . pack('n', $type) . $data;
    return length $frame < 60 ? $frame . "\0" x (60 - length $frame) : $frame;
}

our %devices;
sub device { $devices{$_[0]} //= pack 'Sn iSCCx8', 17, 3, scalar `cat /sys/class/net/$_[0]/ifindex`, 0, 0, 0 }
sub packet { socket(my $s, 17, 3, unpack 'S', pack 'n', 3) or die "packet: $!"; $s }

sub out {
    my ($frame, $name) = @_;
    # Closing such a socket takes long.
    our $sender //= packet();
    my $socket = $sender;
    my $to = device($name // 'eth0');
    send($socket, $frame, 0, $to) for 1 .. 2;
}

# To the gateway, to the neighbor and to all.
sub everywhere { my ($type, $data, @from) = @_; out(eth($_, $type, $data, @from)) for $GM, $NM, $BROADCAST }
sub routed { out(eth($GM, 0x800, $_[0], $_[1])) }

# Runs the code and returns the first frame that the filter accepts.
sub sniff {
    my ($seconds, $code, $filter) = @_;
    my $socket = packet();
    bind $socket, device('eth0');
    $code->();
    my $end = time + $seconds;
    while (time < $end) {
        my $read = '';
        vec($read, fileno $socket, 1) = 1;
        next unless select $read, undef, undef, 0.3;
        my $from = recv $socket, my $frame, 9000, 0;
        next if !defined $from or unpack('x10C', $from) == 4;
        $frame .= "\0" x 60 if length $frame < 60;
        my $found = $filter->($frame);
        return $found if $found;
    }
    return;
}

# Connects, sends the marker and returns the first answer.
sub connects {
    my ($host, $port, %o) = @_;
    socket(my $s, AF_INET, SOCK_STREAM, $o{protocol} // 0) or return;
    setsockopt $s, SOL_SOCKET, SO_SNDTIMEO, pack 'qq', 1, 0;
    setsockopt $s, SOL_SOCKET, SO_RCVTIMEO, pack 'qq', 1, 0;
    setsockopt $s, SOL_SOCKET, SO_REUSEADDR, 1;
    bind $s, sockaddr_in($o{from}, INADDR_ANY) if $o{from};
    connect $s, sockaddr_in($port, inet_aton($host)) or return;
    syswrite $s, $o{send} // "$M\n";
    sysread $s, my $answer, 2000;
    return $answer // '';
}

sub datagram {
    my ($host, $port, $data, %o) = @_;
    socket(my $s, AF_INET, SOCK_DGRAM, 0) or return;
    setsockopt $s, SOL_SOCKET, SO_RCVTIMEO, pack 'qq', $o{wait} // 1, 0;
    setsockopt $s, SOL_SOCKET, SO_BROADCAST, 1;
    setsockopt $s, SOL_SOCKET, SO_REUSEADDR, 1;
    bind $s, sockaddr_in($o{from}, INADDR_ANY) if $o{from};
    send $s, $data, 0, sockaddr_in($port, inet_aton($host)) or return;
    return if $o{quiet};
    recv $s, my $answer, 4000, 0;
    return length($answer // '') ? $answer : undef;
}

sub labels { join('', map { chr(length) . $_ } @_) . "\0" }
sub query {
    my ($name, $type, %o) = @_;
    my $q = $o{raw} // labels(split /\./, $name);
    return pack('nnnnnn', 0x7a71, $o{flags} // 0x0100, $o{questions} // 1, 0, 0, $o{more} // 0)
        . $q . pack('nn', $type // 1, $o{class} // 1) . ($o{rest} // '');
}

# A query for an allowed name with an EDNS option that contains the marker.
sub with_option {
    my $data = pack('nn', $_[0], 16) . substr $M . 'x' x 16, 0, 16;
    return query('allowed.test', 1, more => 1, rest => "\0" . pack('nnNn', 41, 1232, 0, length $data) . $data);
}
# Queries for an allowed name with a record that contains the marker, in each
# section.
sub with_records {
    my $record = labels($M) . pack('nnNn', 16, 1, 0, 8) . "\7$M";
    return map {
        my $packet = query('allowed.test', 1, rest => $record);
        substr($packet, 6, 6) = pack 'nnn', @$_;
        $packet;
    } [1, 0, 0], [0, 1, 0], [0, 0, 1];
}

# Asks the gateway's resolver and the one outside.
sub ask { my @a = map { datagram($_, 53, $_[0]) } $GW, $R; $a[0] || $a[1] || '' }

sub dhcp {
    my ($type, %o) = @_;
    my $options = pack('CCC', 53, 1, $type) . ($o{options} // '') . "\xff";
    return pack('CCCCNnna4a4a4a4a16a64a128', $o{op} // 1, 1, 6, 0, 0x7a717a71, 0, 0x8000,
        inet_aton($o{client} // '0.0.0.0'), inet_aton($o{your} // '0.0.0.0'), "\0" x 4,
        inet_aton($o{relay} // '0.0.0.0'), mac($o{mac} // $MM) . $M, '', $M)
        . "\x63\x82\x53\x63" . $options;
}

our @kept;
sub pointer { unpack 'Q', pack 'P', $_[0] }
# Raises the limit of open files to what the user may have.
sub files {
    my $limit = "\0" x 16;
    syscall(97, 7, $limit);
    my (undef, $most) = unpack 'QQ', $limit;
    $most = 1 << 20 if !$>;
    $limit = pack 'QQ', $most, $most;
    syscall(160, 7, $limit);
}

# Runs all attempts, a few at a time, each at most 15 seconds.
our @attempts;
sub attempt { push @attempts, [@_] }

sub run_all {
    $| = 1;
    my $at_once = shift;
    my %running;
    my $reap = sub { my $pid = wait; delete $running{$pid} };
    for (@attempts) {
        my ($name, $marker, $code) = @$_;
        $reap->() while keys %running >= $at_once;
        my $pid = fork;
        if ($pid) { $running{$pid} = 1; next }
        $M = $marker;
        pipe my $read, my $write;
        my $inner = fork;
        if (!$inner) {
            open STDOUT, '>&', $write;
            open STDERR, '>&', $write;
            open STDIN, '<', '/dev/null';
            close $read;
            close $write;
            setpgrp;
            $| = 1;
            $SIG{ALRM} = sub { print "ERROR timeout\n"; exit };
            alarm 15;
            eval { $code->(); 1 } or print "ERROR $@\n";
            exit;
        }
        close $write;
        while (my $line = <$read>) { chomp $line; print "$marker $name: $line\n" }
        kill 'KILL', -$inner;
        exit;
    }
    $reap->() while %running;
}
