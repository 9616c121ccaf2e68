use strict;
use Fcntl;
use Socket qw(:DEFAULT SHUT_WR inet_pton);

use constant LIMIT => 262144;

my ($port) = @ARGV;
my $sock;
for my $to (
    [PF_INET,  pack_sockaddr_in($port, INADDR_LOOPBACK)],
    [PF_INET6, Socket::pack_sockaddr_in6($port, inet_pton(PF_INET6, "::1"))],
) {
    socket(my $try, $to->[0], SOCK_STREAM, 0) or next;
    if (connect($try, $to->[1])) { $sock = $try; last; }
}
exit 111 unless $sock;
setsockopt($sock, 6, 1, 1);
$SIG{PIPE} = "IGNORE";
for ($sock, \*STDIN, \*STDOUT) {
    fcntl($_, F_SETFL, fcntl($_, F_GETFL, 0) | O_NONBLOCK);
}

# Each direction: source, destination (undef when closed), buffered data, whether
# the source is open, and number of bytes written.
my @directions = ([\*STDIN, $sock, "", 1, 0], [$sock, \*STDOUT, "", 1, 0]);

# stdout ends only when this process exits, so its length is written to stderr.
sub finish {
    my ($direction) = @_;
    if ($direction->[1] == $sock) {
        shutdown($sock, SHUT_WR);
    } else {
        syswrite(STDERR, "$direction->[4]\n");
    }
    $direction->[1] = undef;
}

while (1) {
    my ($r, $w) = ("", "");
    for my $direction (@directions) {
        next unless $direction->[1];
        vec($r, fileno($direction->[0]), 1) = 1 if $direction->[3] && length($direction->[2]) < LIMIT;
        vec($w, fileno($direction->[1]), 1) = 1 if length($direction->[2]);
    }
    last if $r eq "" && $w eq "";
    next if select($r, $w, undef, undef) < 0;
    for my $direction (@directions) {
        next unless $direction->[1];
        if (vec($w, fileno($direction->[1]), 1)) {
            my $n = syswrite($direction->[1], $direction->[2], 65536);
            if (defined $n) { substr($direction->[2], 0, $n, ""); $direction->[4] += $n; }
            elsif (!$!{EAGAIN} && !$!{EINTR}) { exit 0; }
        }
        if ($direction->[3] && vec($r, fileno($direction->[0]), 1)) {
            my $n = sysread($direction->[0], $direction->[2], 65536, length($direction->[2]));
            if (defined $n ? $n == 0 : !$!{EAGAIN} && !$!{EINTR}) { $direction->[3] = 0; }
        }
        finish($direction) if !$direction->[3] && !length($direction->[2]);
    }
}
