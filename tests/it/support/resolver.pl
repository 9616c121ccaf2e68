# Sends DNS queries and floods from a machine: VERB ARGUMENTS, then the end of
# this script. Prints one line per result.
use strict;
use warnings;
use Socket qw(:all);
use IO::Handle;

STDOUT->autoflush(1);
$SIG{PIPE} = 'IGNORE';

sub query {
    my ($labels, $type, $class) = @_;
    my $name = join '', map { pack 'C/a', $_ } @$labels;
    return pack('n6', 4711, 0x0100, 1, 0, 0, 0) . $name . pack('Cnn', 0, $type // 1, $class // 1);
}

sub readable {
    my ($socket, $seconds) = @_;
    my $bits = '';
    vec($bits, fileno($socket), 1) = 1;
    return select($bits, undef, undef, $seconds) > 0;
}

sub udp {
    my $server = shift;
    socket(my $s, AF_INET, SOCK_DGRAM, 0) or die;
    connect $s, pack_sockaddr_in(53, inet_aton($server)) or die;
    return $s;
}

sub tcp {
    my $server = shift;
    socket(my $s, AF_INET, SOCK_STREAM, 0) or die;
    $s->blocking(0);
    connect $s, pack_sockaddr_in(53, inet_aton($server));
    return $s;
}

# Whether the connection is established within two seconds.
sub connected {
    my $s = shift;
    my $bits = '';
    vec($bits, fileno($s), 1) = 1;
    select(undef, $bits, undef, 2) > 0 or return 0;
    return !unpack 'i', getsockopt $s, SOL_SOCKET, SO_ERROR;
}

# The status and the answer of a query, as text.
sub result {
    my $text = shift;
    return 'none' unless defined $text && length $text >= 12;
    my (undef, $flags, undef, $answers) = unpack 'n4', $text;
    return sprintf 'status=%d answers=%d %s', $flags & 15, $answers, $text =~ s/[^!-~]/./gr;
}

# Blanks in a label are written as +. The header, without the identifier, is
# hexadecimal.
sub ask {
    my ($server, $name, $type, $class, $way, $header) = @_;
    my $query = query([map { s/\+/ /gr } split /\./, $name], $type, $class);
    substr $query, 2, 10, pack 'H*', $header if $header;
    my $text;
    if (($way // 'udp') eq 'tcp') {
        my $s = tcp($server);
        connected($s) && syswrite $s, pack 'n/a', $query;
        readable($s, 2) and sysread $s, $text, 2000;
        $text = substr $text, 2 if length($text // '') > 2;
    } else {
        my $s = udp($server);
        send $s, $query, 0;
        readable($s, 2) and recv $s, $text, 2000, 0;
    }
    print result($text), "\n";
}

# Asks on one UDP socket and on one TCP connection, 20 times per second, until
# killed. Prints a line per round: its time and the two answers.
sub keep {
    my ($server, @labels) = @_;
    my ($udp, $tcp) = (udp($server), tcp($server));
    connected($tcp);
    while (1) {
        my $time = time;
        send $udp, query(["$labels[0]", 'test']), 0;
        syswrite $tcp, pack 'n/a', query(["$labels[1]", 'test']);
        my ($by_udp, $by_tcp);
        readable($udp, 0.05) and sysread $udp, $by_udp, 2000;
        readable($tcp, 0.05) and sysread $tcp, $by_tcp, 2000;
        print "$time udp: ", result($by_udp), ' tcp: ', result(substr $by_tcp // '  ', 2), "\n";
        select undef, undef, undef, 0.05;
    }
}

# Opens connections to the resolver and holds them until killed.
sub hold {
    my ($server, $count) = @_;
    my @held = map { tcp($server) } 1 .. $count;
    sleep 1;
    print "held\n";
    sleep 600;
}

# Sends datagrams to many ports of an address: all at once, or a number per second.
sub scatter {
    my ($address, $count, $rate) = @_;
    socket(my $s, AF_INET, SOCK_DGRAM, 0) or die;
    for (1 .. $count) {
        send $s, 'x', 0, pack_sockaddr_in(1000 + $_, inet_aton($address));
        select undef, undef, undef, 0.1 if $rate && $_ % ($rate / 10) == 0;
    }
    print "sent\n";
}

# Sends datagrams to port 53 of many addresses.
sub probe {
    my $count = shift;
    socket(my $s, AF_INET, SOCK_DGRAM, 0) or die;
    send $s, 'x', 0, pack_sockaddr_in(53, pack 'N', 0xc6330000 + $_) for 1 .. $count;
    print "sent\n";
}

# Sends queries for different names without waiting for answers.
sub flood {
    my ($server, $count) = @_;
    my $s = udp($server);
    send $s, query(["flood$_", 'test']), 0 for 1 .. $count;
    print "sent\n";
}

# Sends two queries for an allowed name over each of many sockets. A UDP flow that
# has had an answer and has packets more than 2 seconds after its start is "assured":
# the kernel does not evict it when the connection table is full.
sub assure {
    my ($server, $count) = @_;
    # Raises the limit on open files.
    syscall(160, 7, pack 'QQ', 2 * $count, 2 * $count) == 0 or die "setrlimit: $!";
    my @sockets;
    for (1 .. $count) {
        socket(my $s, AF_INET, SOCK_DGRAM, 0) or die "socket: $!";
        connect $s, pack_sockaddr_in(53, inet_aton($server)) or die;
        push @sockets, $s;
    }
    for (1 .. 2) {
        send $_, query(['allowed', 'test']), 0 for @sockets;
        sleep 3;
    }
    print "sent\n";
}

my %verbs = (
    ask => \&ask, keep => \&keep, hold => \&hold, scatter => \&scatter, probe => \&probe, flood => \&flood,
    assure => \&assure,
);
while (my $line = <DATA>) {
    my ($verb, @words) = split ' ', $line;
    $verbs{$verb}->(@words) if $verb;
}
__DATA__
