# Sends forbidden packets from early boot until killed: through a UDP socket,
# and as raw frames that bypass the kernel's network stack. Arguments: the
# target address, and the source address of the raw frames. Writes the number of
# rounds to /run/early.
use strict;
use warnings;
use Socket qw(:all);

my ($target, $former) = @ARGV;
my $token = 'pxtearlyq';

sub text { my $file = shift; open my $f, '<', $file or return ''; local $/; my $t = <$f>; $t // '' }
sub mac { pack 'H12', join '', split /:/, shift }
sub sum {
    my $sum = unpack '%32n*', shift;
    $sum = ($sum >> 16) + ($sum & 0xffff) for 1, 2;
    return ~$sum & 0xffff;
}

my $rounds = 0;
while (1) {
    select undef, undef, undef, 0.01;
    $rounds++;
    if ($rounds % 10 == 1) { open my $f, '>', '/run/early'; print $f $rounds; close $f }
    if (socket my $s, AF_INET, SOCK_DGRAM, 0) {
        send $s, $token, 0, pack_sockaddr_in(4433, inet_aton($target));
    }
    my $index = text('/sys/class/net/eth0/ifindex') or next;
    my $own = text('/sys/class/net/eth0/address') =~ s/\s//gr;
    my %next = ('ff:ff:ff:ff:ff:ff' => 1);
    $next{$_} = 1 for text('/proc/net/arp') =~ /((?:[0-9a-f]{2}:){5}[0-9a-f]{2})/g;
    my $udp = pack('n4', 40000, 4433, 8 + length $token, 0) . $token;
    my $ip = pack 'CCnnnCCna4a4', 0x45, 0, 20 + length $udp, 7, 0, 64, 17, 0, inet_aton($former), inet_aton($target);
    substr($ip, 10, 2) = pack 'n', sum($ip);
    socket my $s, 17, SOCK_RAW, 0x0300 or next;
    bind $s, pack 'S n i S C C a8', 17, 3, $index + 0, 0, 0, 0, '' or next;
    syswrite $s, mac($_) . mac($own) . pack('n', 0x0800) . $ip . $udp for keys %next;
}
