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

# Each way: where from, where to, what is under way, whether more will come, and
# how much went through.
my @ways = ([\*STDIN, $sock, "", 1, 0], [$sock, \*STDOUT, "", 1, 0]);

# The end of our output would be seen only when we are gone: how much there was
# is told on stderr.
sub finish {
    my ($way) = @_;
    if ($way->[1] == $sock) { shutdown($sock, SHUT_WR); } else { syswrite(STDERR, "$way->[4]\n"); }
    $way->[1] = undef;
}

while (1) {
    my ($r, $w) = ("", "");
    for my $way (@ways) {
        next unless $way->[1];
        vec($r, fileno($way->[0]), 1) = 1 if $way->[3] && length($way->[2]) < LIMIT;
        vec($w, fileno($way->[1]), 1) = 1 if length($way->[2]);
    }
    last if $r eq "" && $w eq "";
    next if select($r, $w, undef, undef) < 0;
    for my $way (@ways) {
        next unless $way->[1];
        if (vec($w, fileno($way->[1]), 1)) {
            my $n = syswrite($way->[1], $way->[2], 65536);
            if (defined $n) { substr($way->[2], 0, $n, ""); $way->[4] += $n; }
            elsif (!$!{EAGAIN} && !$!{EINTR}) { exit 0; }
        }
        if ($way->[3] && vec($r, fileno($way->[0]), 1)) {
            my $n = sysread($way->[0], $way->[2], 65536, length($way->[2]));
            if (defined $n ? $n == 0 : !$!{EAGAIN} && !$!{EINTR}) { $way->[3] = 0; }
        }
        finish($way) if !$way->[3] && !length($way->[2]);
    }
}
