# Floods the network until SIGTERM, but at most for a minute. Arguments: the kind
# of flood, an address, a port, and the number of processes. Prints "started",
# and at the end the number of packets or connections of each process.
use strict;
use warnings;
use Socket qw(:all);

my ($kind, $address, $port, $processes) = @ARGV;
my $target = pack_sockaddr_in($port, inet_aton($address));
my ($count, @children) = (0);

$| = 1;
print "started\n";
for (2 .. $processes) {
    my $child = fork // die "fork: $!";
    if (!$child) { @children = (); last }
    push @children, $child;
}
$SIG{TERM} = $SIG{ALRM} = sub {
    kill TERM => @children;
    waitpid $_, 0 for @children;
    print "$count\n";
    exit 0;
};
alarm 60;

if ($kind eq 'tcp') {
    # Each connection has the time of 200 others to be established.
    my @open;
    while (1) {
        socket my $s, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0 or next;
        connect $s, $target;
        $count++;
        push @open, $s;
        shift @open if @open > 200;
    }
}
socket my $s, AF_INET, SOCK_DGRAM, 0 or die "socket: $!";
while (1) {
    my $packet = 'x' x 64;
    if ($kind eq 'dns') {
        my $label = sprintf '%08x', rand 0xffffffff;
        $packet = pack 'n6 C/a C/a x n2', $count & 0xffff, 0x100, 1, 0, 0, 0, $label, 'test', 1, 1;
    } else {
        # Each port is another denied destination.
        $target = pack_sockaddr_in(1024 + $count % 60000, inet_aton($address));
    }
    send $s, $packet, 0, $target;
    $count++;
}
