# Tries to bypass the egress policy of a machine. Each line after the end of
# this script is one attempt: a token that the sent packets contain, a verb, and
# the verb's arguments. Prints one line per attempt: "TOKEN got TEXT" with the
# reply, or "TOKEN -" without a reply. The lines may arrive one after another.
# A token is px, a letter, 4 digits, x, 3 digits and q. The first packet of a TCP
# connection has no token: its source port is derived from the token instead.
# With the argument "witness", reports received frames: see the function.
# INTERFACE is the interface for frames, by default eth0.
# Written in Perl, the only interpreter that every Debian system has.
use strict;
use warnings;
use Socket qw(:all);
use IO::Handle;

STDOUT->autoflush(1);
$SIG{PIPE} = 'IGNORE';
my $WAIT = 0.3;
# In case the command that started this script is killed.
alarm 600;

sub mac { pack 'H12', join '', split /:/, shift }

sub interface {
    my $name = $ENV{INTERFACE} // shift // 'eth0';
    open my $f, '<', "/sys/class/net/$name/ifindex" or return 0;
    my $i = <$f>;
    chomp $i;
    return $i;
}

sub port_of { my ($run, $number) = shift =~ /(\d{4})x(\d{3})q$/; 10000 + $run % 100 * 200 + $number % 200 }

sub readable {
    my ($socket, $seconds) = @_;
    my $bits = '';
    vec($bits, fileno($socket), 1) = 1;
    return select($bits, undef, undef, $seconds) > 0;
}

sub connection {
    my ($address, $port, $source) = @_;
    socket(my $s, AF_INET, SOCK_STREAM, 0) or return;
    setsockopt $s, SOL_SOCKET, SO_REUSEADDR, 1;
    bind $s, pack_sockaddr_in($source, INADDR_ANY) or return;
    $s->blocking(0);
    connect $s, pack_sockaddr_in($port, inet_aton($address));
    my $bits = '';
    vec($bits, fileno($s), 1) = 1;
    select(undef, $bits, undef, 2 * $WAIT) > 0 or return;
    return if unpack 'i', getsockopt($s, SOL_SOCKET, SO_ERROR);
    return $s;
}

sub tcp {
    my ($token, $address, $port, $source) = @_;
    my $s = connection($address, $port, $source // port_of($token)) or return;
    syswrite $s, "$token\n";
    readable($s, 2 * $WAIT) or return 'connected';
    sysread $s, my $text, 200;
    return 'connected: ' . ($text // '');
}

sub udp {
    my ($token, $address, $port, $source, $size) = @_;
    socket(my $s, AF_INET, SOCK_DGRAM, 0) or return;
    setsockopt $s, SOL_SOCKET, SO_BROADCAST, 1;
    setsockopt $s, SOL_SOCKET, SO_REUSEADDR, 1;
    bind $s, pack_sockaddr_in($source, INADDR_ANY) if $source;
    # A connected socket reports a rejection immediately.
    connect $s, pack_sockaddr_in($port, inet_aton($address)) or return;
    send $s, $token . 'x' x ($size // 0), 0;
    readable($s, $WAIT) or return;
    defined recv $s, my $text, 2000, 0 or return;
    return substr $text, 0, 60;
}

sub query {
    my ($name, $type) = @_;
    my %types = (A => 1, NULL => 10, TXT => 16, AAAA => 28, HTTPS => 65, ANY => 255);
    my $labels = join '', map { pack 'C/a', $_ } split /\./, $name;
    return pack('n6', 4711, 0x0100, 1, 0, 0, 0) . $labels . pack('Cnn', 0, $types{ $type // 'A' } // $type, 1);
}

# Returns the addresses in a DNS response, undef without answer records.
sub addresses {
    my $text = shift;
    my $answers = (unpack 'n4', $text)[3];
    my @found;
    push @found, join '.', unpack 'C4', $1 while $text =~ /\xc0\x0c\x00\x01\x00\x01....\x00\x04(....)/gs;
    return $answers ? "$answers answers @found" : undef;
}

sub dns {
    my ($token, $server, $name, $type, @way) = @_;
    $name =~ s/TOKEN/$token/;
    return ask($token, $server, query($name, $type), @way);
}

# Sends any DNS message, in hexadecimal: see bytes.
sub message {
    my ($token, $server, $text, @way) = @_;
    return ask($token, $server, bytes($token, $text), @way);
}

# Sends a DNS message by udp, by tcp, or by "stream": TCP in segments of one byte,
# with the length of the message in the text.
sub ask {
    my ($token, $server, $query, $way, $port) = @_;
    my $text;
    if (($way // 'udp') ne 'udp') {
        my $s = connection($server, $port // 53, port_of($token)) or return;
        setsockopt $s, IPPROTO_TCP, TCP_NODELAY, 1;
        my @segments = $way eq 'tcp' ? pack('n/a', $query) : split //, $query;
        for (@segments) { syswrite $s, $_ or return }
        readable($s, $WAIT) or return;
        sysread $s, $text, 2000 or return;
        $text = substr $text, 2;
    } else {
        socket(my $s, AF_INET, SOCK_DGRAM, 0) or return;
        connect $s, pack_sockaddr_in($port // 53, inet_aton($server)) or return;
        send $s, $query, 0;
        readable($s, $WAIT) or return;
        defined recv $s, $text, 2000, 0 or return;
    }
    return if length $text < 12;
    return addresses($text);
}

# Converts hexadecimal text, in which (LABEL) is a label of a DNS name, [ADDRESS] an
# IPv4 address, and TOKEN the token. Underscores and colons are ignored.
sub bytes {
    my ($token, $text) = @_;
    $text =~ s/\((.*?)\)/unpack 'H*', pack 'C\/a', $1 =~ s{TOKEN}{$token}r/ge;
    $text =~ s/\[(.*?)\]/unpack 'H*', inet_aton($1)/ge;
    $text =~ s/TOKEN/unpack 'H*', $token/ge;
    return pack 'H*', $text =~ tr/_://dr;
}

# Like bytes, with the token at the end, unless the text contains it or ends with ;
sub payload {
    my ($token, $text) = @_;
    return bytes($token, $text =~ s/;$// || $text =~ /TOKEN/ ? $text : "${text}TOKEN");
}

sub sum {
    my $text = shift;
    $text .= "\0" if length($text) % 2;
    my $sum = unpack '%32n*', $text;
    $sum = ($sum >> 16) + ($sum & 0xffff) for 1, 2;
    return ~$sum & 0xffff;
}

sub icmp {
    my ($token, $address, $type) = @_;
    socket(my $s, AF_INET, SOCK_RAW, 1) or return;
    my $text = pack('C2n3', $type // 8, 0, 0, $$ & 0xffff, 1) . $token x 2;
    substr($text, 2, 2) = pack 'n', sum($text);
    send $s, $text, 0, pack_sockaddr_in(0, inet_aton($address));
    my $end = time + 1;
    while (readable($s, $WAIT) && time <= $end) {
        recv $s, my $reply, 2000, 0;
        return 'echoed' if unpack('x20 C', $reply) == 0 && index($reply, $token) >= 0;
    }
    return;
}

sub proto {
    my ($token, $number, $address) = @_;
    socket(my $s, AF_INET, SOCK_RAW, $number) or return;
    send $s, $token x 3, 0, pack_sockaddr_in(0, inet_aton($address));
    return;
}

sub link_socket {
    my $name = shift;
    socket(my $s, 17, SOCK_RAW, 0x0300) or return;
    bind $s, pack 'S n i S C C a8', 17, 3, interface($name), 0, 0, 0, '' or return;
    return $s;
}

sub put_frame {
    my ($interface, $frame, $is_direct) = @_;
    my $s = link_socket($interface) or return;
    # PACKET_QDISC_BYPASS
    setsockopt $s, 263, 20, 1 if $is_direct;
    $frame .= "\0" x (60 - length $frame) if length $frame < 60;
    syswrite $s, $frame;
    return $s;
}

# Sends any frame. Type and head (the bytes before the token) are hexadecimal.
sub frame {
    my ($token, $to, $from, $type, $head) = @_;
    put_frame('eth0', mac($to) . mac($from) . pack('H4', $type) . payload($token, $head // ''));
    return;
}

# Offsets of the checksum in ICMP, IGMP and TCP.
my %CHECKSUM_AT = (1 => 2, 2 => 2, 6 => 16);

# Returns an IP packet. Fields with defaults: tos, id, offset (with the flags), ttl,
# options, and sum, which prevents a correct checksum of the data.
sub packet {
    my ($from, $to, $protocol, $data, %field) = @_;
    my $options = pack 'H*', $field{options} // '';
    my $words = 5 + length($options) / 4;
    my @addresses = (inet_aton($from), inet_aton($to));
    my $at = $CHECKSUM_AT{$protocol};
    if ($at && !$field{sum} && !$field{offset}) {
        my $pseudo_header = $protocol == 6 ? pack 'a4a4n2', @addresses, $protocol, length $data : '';
        substr($data, $at, 2) = pack 'n', sum($pseudo_header . $data);
    }
    my $head = pack 'CCnnnCCna4a4', 0x40 | $words, $field{tos} // 0, 4 * $words + length $data, $field{id} // 7,
        $field{offset} // 0, $field{ttl} // 64, $protocol, 0, @addresses;
    $head .= $options;
    substr($head, 10, 2) = pack 'n', sum($head);
    return $head . $data;
}

# Sends an IP packet with the given sender, next hop and data. Fields are NAME=VALUE:
# those of packet; type, what follows the addresses of the frame; direct, to bypass
# the traffic control of this machine.
sub ip {
    my ($token, $next, $self, $from, $to, $protocol, $head, @fields) = @_;
    my %field = map { split /=/ } @fields;
    my $type = pack 'H*', $field{type} // '0800';
    my $text = packet($from, $to, $protocol, payload($token, $head), %field);
    put_frame('eth0', mac($next) . mac($self) . $type . $text, $field{direct});
    return;
}

sub datagram {
    my ($token, $from, $to, $port, %field) = @_;
    my $udp = pack('n4', $port == 67 ? 68 : 40000, $port, 8 + length $token, 0) . $token;
    return packet($from, $to, 17, $udp, %field);
}

# Sends a datagram with the given sender and next hop.
sub spoof {
    my ($token, $next, $self, $from, $to, $port, $options) = @_;
    my $text = datagram($token, $from, $to, $port, options => $options);
    put_frame('eth0', mac($next) . mac($self) . pack('n', 0x0800) . $text);
    return;
}

# Sends an IP packet with a VLAN tag.
sub tagged {
    my ($token, $next, $self, $from, $to, $vlan) = @_;
    my $text = datagram($token, $from, $to, 4433);
    put_frame('eth0', mac($next) . mac($self) . pack('n3', 0x8100, $vlan, 0x0800) . $text);
    return;
}

# Sends one of the two fragments of a datagram: the head, or the tail with the token.
sub fragment {
    my ($token, $next, $self, $from, $to, $part) = @_;
    my $is_head = $part eq 'head';
    my $data = $is_head ? pack('n4', 40000, 4433, 48, 0) . '.' x 16 : substr $token . '.' x 24, 0, 24;
    my $text = packet($from, $to, 17, $data, id => 1234, offset => $is_head ? 0x2000 : 3);
    put_frame('eth0', mac($next) . mac($self) . pack('n', 0x0800) . $text);
    return;
}

# Sends COUNT IP packets with the token, with pauses of 30 ms.
sub packets {
    my ($token, $count, $next, $self, $from, $to) = @_;
    for (1 .. $count) {
        spoof($token, $next, $self, $from, $to, 4433);
        select undef, undef, undef, 0.03;
    }
    return;
}

sub udp6 {
    my ($token, $address, $port) = @_;
    socket(my $s, AF_INET6, SOCK_DGRAM, 0) or return;
    send $s, $token, 0, pack_sockaddr_in6($port, inet_pton(AF_INET6, $address), interface());
    return;
}

# Sends the token, or a query for it, over a socket that stays open. Later
# attempts of the same kind use the same socket.
my %flows;

sub flow {
    my ($token, $kind, $address, $port) = @_;
    my $s = $flows{"$kind $address $port"} //= do {
        my $new;
        if ($kind eq 'dns-tcp') {
            $new = connection($address, $port, port_of($token));
        } elsif (socket $new, AF_INET, SOCK_DGRAM, 0) {
            connect $new, pack_sockaddr_in($port, inet_aton($address));
        }
        $new;
    } or return;
    my $query = query("$token.test");
    my %texts = (udp => $token, dns => $query, 'dns-tcp' => pack('n/a', $query));
    syswrite $s, $texts{$kind};
    return;
}

# Accepts TCP connections to the port until this script ends.
my $listener;

sub listen_at {
    my ($token, $port) = @_;
    socket($listener, AF_INET, SOCK_STREAM, 0) or return;
    setsockopt $listener, SOL_SOCKET, SO_REUSEADDR, 1;
    bind $listener, pack_sockaddr_in($port, INADDR_ANY) or return;
    listen $listener, 9 or return;
    return 'listening';
}

sub arp {
    my ($token, $to, $self, $op, $who, $is, $whom, $at) = @_;
    my $text = pack 'nnCCn', 1, 0x0800, 6, 4, $op;
    $text .= mac($who) . inet_aton($is) . mac($whom) . inet_aton($at) . $token;
    put_frame('eth0', mac($to) . mac($self) . pack('n', 0x0806) . $text);
    return;
}

# Sends a DHCP message, with more options in hexadecimal. Returns the offered
# address, if any.
sub dhcp {
    my ($token, $self, $type, $chaddr, $source, $ciaddr, $giaddr, $requested, $options) = @_;
    my $any = '0.0.0.0';
    # Another machine may receive a broadcast offer at the same time.
    my $xid = $token =~ /(\d{4})x(\d{3})q$/ ? $1 * 1000 + $2 : 0x1234;
    my $text = pack 'C4N n2 a4a4a4a4 a16 x64 x128 N', 1, 1, 6, 0, $xid, 0, 0x8000, inet_aton($ciaddr // $any),
        inet_aton($any), inet_aton($any), inet_aton($giaddr // $any), mac($chaddr), 0x63825363;
    $text .= pack 'C3', 53, 1, $type;
    $text .= pack 'C2a4', 50, 4, inet_aton($requested) if $requested && $requested ne $any;
    $text .= pack 'C2a4', 54, 4, inet_aton($ENV{GATEWAY}) if $type == 4 || $type == 3;
    $text .= pack('C/a', $token) =~ s/^/\x3d/r;
    $text .= bytes($token, $options // '') . "\xff";
    my $udp = pack('n4', 68, 67, 8 + length $text, 0) . $text;
    my $to = ($source // $any) eq $any ? '255.255.255.255' : $ENV{GATEWAY};
    my $ip = packet($source // $any, $to, 17, $udp);
    my $s = put_frame('eth0', ("\xff" x 6) . mac($self) . pack('n', 0x0800) . $ip) or return;
    my $end = time + 1;
    while (readable($s, $WAIT) && time <= $end) {
        sysread $s, my $reply, 2000;
        next unless length $reply > 282 && unpack('x23 C', $reply) == 17 && unpack('x34 n', $reply) == 67;
        next unless unpack('x46 N', $reply) == $xid;
        my $offered = inet_ntoa(substr $reply, 58, 4);
        return $offered eq $any ? undef : "offered $offered";
    }
    return;
}

sub sh {
    my ($token, @words) = @_;
    my $text = do { local $ENV{TOKEN} = $token; my $line = join ' ', @words; `$line 2>/dev/null` };
    return $? == 0 && $text =~ /\S/ ? $text : undef;
}

# Whether a frame is for this machine only. $from: the address from recv.
sub is_own {
    my $kind = unpack 'x10 C', shift;
    # PACKET_HOST or PACKET_OUTGOING.
    return $kind == 0 || $kind == 4;
}

# Sends a frame every 5 ms. Returns the number of received frames for others: a
# bridge that learns the sender's address sends this machine its owner's frames.
sub storm {
    my ($token, $count, $to, $self, $type, $head) = @_;
    my $s = link_socket('eth0') or return;
    my $frame = mac($to) . mac($self) . pack('H4', $type) . pack('H*', $head // '') . $token . "\0" x 40;
    my $heard = 0;
    for (1 .. $count) {
        syswrite $s, $frame;
        while (readable($s, 0.005)) {
            my $from = recv $s, my $text, 2000, 0;
            $heard++ unless is_own($from);
        }
    }
    return $heard ? "heard $heard frames" : undef;
}

# Sends a datagram every 10 ms to a server that returns it. Returns the number of
# lost datagrams.
sub echoes {
    my ($token, $address, $port, $count) = @_;
    socket(my $s, AF_INET, SOCK_DGRAM, 0) or return 'no socket';
    connect $s, pack_sockaddr_in($port, inet_aton($address)) or return 'no route';
    my %missing = map { ($_ => 1) } 1 .. $count;
    my $receive = sub { recv $s, my $text, 2000, 0; delete $missing{$1} if $text && $text =~ / (\d+)$/ };
    for (1 .. $count) {
        send $s, "$token $_", 0;
        $receive->() while readable($s, 0.01);
    }
    $receive->() while %missing && readable($s, 1);
    my $lost = keys %missing;
    return $lost ? "lost $lost of $count" : undef;
}

# Prints each received frame that is not for this machine only, until killed.
sub eavesdrop {
    my $s = link_socket('eth0') or die "no packet socket\n";
    print "ready\n";
    while (my $from = recv $s, my $frame, 2000, 0) {
        print unpack('H*', $frame), "\n" unless is_own($from);
    }
}

# Prints what the frames on the interface contain, until killed: "saw TOKEN",
# "syn PORT" for the first packet of a TCP connection from a port for tokens, and
# "type NUMBER" for a DNS query of a type for private use. The argument "in" or
# "out" selects the direction.
sub witness {
    my $way = shift // '';
    my $s = link_socket('eth0') or die "no packet socket\n";
    setsockopt $s, SOL_SOCKET, SO_RCVBUF, 1 << 22;
    print "witness ready\n";
    while (1) {
        my $from = recv $s, my $frame, 70000, 0;
        defined $from or last;
        my $is_out = unpack('x10 C', $from) == 4;
        next if $way eq ($is_out ? 'in' : 'out');
        my $is_ip = length $frame > 34 && substr($frame, 12, 2) eq "\x08\x00";
        my $l4 = $is_ip ? 14 + 4 * (ord(substr $frame, 14, 1) & 15) : 0;
        my ($protocol, $text) = $is_ip ? (ord substr($frame, 23, 1), substr $frame, $l4) : (0, '');
        # An error quotes a packet that was rejected.
        next if $protocol == 1 && $text =~ /^[\x03\x0b\x0c]/;
        print 'saw ', lc $1, "\n" while $frame =~ /(px[a-z][0-9]{4}x[0-9]{3}q)/gi;
        if ($protocol == 6 && length $text >= 20 && (unpack('x13 C', $text) & 0x12) == 2) {
            my $port = unpack 'n', $text;
            print "syn $port\n" if $port >= 10000 && $port < 30000;
        } elsif ($protocol == 17 && length $text > 24 && unpack('x2 n', $text) == 53) {
            print 'type ', unpack('n', $1), "\n" if $text =~ /^.{20}[^\0]*\0(\xff.)/s;
        }
    }
}

my %verbs = (
    tcp => \&tcp, udp => \&udp, dns => \&dns, icmp => \&icmp, proto => \&proto, frame => \&frame,
    spoof => \&spoof, tagged => \&tagged, arp => \&arp, dhcp => \&dhcp, sh => \&sh, ip => \&ip, message => \&message,
    packets => \&packets, udp6 => \&udp6, flow => \&flow, listen => \&listen_at,
    fragment => \&fragment, storm => \&storm, echoes => \&echoes,
);
if (@ARGV && $ARGV[0] eq 'eavesdrop') { eavesdrop(); exit }
if (@ARGV && $ARGV[0] eq 'witness') { witness($ARGV[1]); exit }
while (my $line = <DATA>) {
    chomp $line;
    my ($token, $verb, @words) = split / /, $line;
    next unless $verb;
    my $got = $verbs{$verb}->($token, @words);
    $got =~ s/\s+/ /g if defined $got;
    print defined $got ? "$token got $got\n" : "$token -\n";
}
__DATA__
