# Sends the marker from the first moment of the boot, with a fixed address.
use strict; use Socket;
my ($me, $gm, $nm, $d, $n) = @ARGV;
sub sum { my $x = shift; my $s = 0; $s += $_ for unpack 'n*', $x; $s = ($s & 0xffff) + ($s >> 16) while $s >> 16; ~$s & 0xffff }
sub ip4 { my ($s, $t) = @_; my $u = pack('nnnn', 4100, 999, 14, 0) . 'zqh000'; my $h = pack('CCnnnCC', 0x45, 0, 20 + length $u, int rand 65536, 0, 64, 17); my $a = inet_aton($s) . inet_aton($t); $h . pack('n', sum("$h\0\0$a")) . $a . $u }
sub mac { pack 'H12', $_[0] =~ s/://gr }
while (1) {
    select undef, undef, undef, 0.01;
    open my $f, '<', '/sys/class/net/eth0/address' or next;
    chomp(my $mm = <$f>);
    open $f, '<', '/sys/class/net/eth0/ifindex'; chomp(my $i = <$f>);
    socket(my $s, 17, 3, 768) or next;
    my $to = pack 'Sn iSCCx8', 17, 3, $i, 0, 0, 0;
    system "ip link set eth0 up" if !$main::up++;
    my ($own) = `ip -4 -o addr show eth0` =~ /inet ([\d.]+)/;
    for my $src ($me, $own // ()) { for (["$gm", $d], [$nm, $n], ['ff:ff:ff:ff:ff:ff', $n]) { send $s, mac($_->[0]) . mac($mm) . "\x08\0" . ip4($src, $_->[1]), 0, $to } }
    socket my $u, 2, 2, 0; send $u, 'zqh000', 0, sockaddr_in(999, inet_aton($d));
}
