# Attempts against the kernel of the host. The control runs the same as root of
# the host: 1 if the attempt must succeed there.

use constant { EPERM => 1, ENOSYS => 38 };
# Whether the kernel refuses a call for another reason than missing rights.
sub permitted { my $r = syscall($_[0] + 0, @_[1 .. $#_]); $r >= 0 || ($! != EPERM && $! != ENOSYS) }

row('BPF programs', 1, sub {
    my ($code, $license) = (pack('Q2', 0xb7, 0x95), "GPL\0");
    for my $type (1, 2, 3, 6, 8, 15) {
        my $request = pack('LLQQ', $type, 2, pointer($code), pointer($license)) . "\0" x 100;
        in("program type $type") if syscall(321, 5, $request, 72) >= 0;
    }
});
row('performance events of the system', 1, sub {
    my $request = pack('LLQ', 1, 112, 0) . "\0" x 100;
    in('all processes of a CPU') if syscall(298, $request, -1, 0, -1, 0) >= 0;
});
row('calls for administrators', 1, sub {
    my ($missing, $name, $empty) = ("/nonexistent\0", "none\0", "\0");
    in('swapon') if permitted(167, $missing, 0);
    in('acct') if permitted(163, $missing);
    in('iopl') if !$CONTROL && permitted(172, 3);
    in('delete_module') if permitted(176, $name, 0);
    in('init_module') if !$CONTROL && permitted(175, $empty, 0, $empty);
    in('kexec_load') if !$CONTROL && permitted(246, 0, 0, 0, 0);
    in('console level') if !$CONTROL && syscall(103, 8, 0, 7) >= 0;
    my $time = pack 'qq', POSIX::floor(time), 500_000_000;
    in('clock_settime') if !$CONTROL && syscall(227, 0, $time) >= 0;
});
row('kernel log of the host', 1, sub {
    my $buffer = "\0" x 1_000_000;
    in('log is readable') if syscall(103, 3, $buffer, length $buffer) > 0;
    in('device is readable') if sysopen my $log, '/dev/kmsg', POSIX::O_RDONLY | POSIX::O_NONBLOCK;
    in('device is writable') if sysopen $log, '/dev/kmsg', POSIX::O_WRONLY;
});
row('memory and symbols of the kernel', 1, sub {
    in('addresses') if `head -n 1 /proc/kallsyms` =~ /^0*[1-9a-f]/;
    for my $path (qw(/proc/kcore /dev/mem /dev/port /sys/kernel/debug/sched /proc/kpageflags)) {
        sysopen my $file, $path, POSIX::O_RDONLY or next;
        in($path) if sysread $file, my $byte, 1;
    }
});
row('settings of the kernel', 1, sub {
    my %checked;
    my @files = $CONTROL ? '/proc/sys/kernel/core_pattern'
        : split /\n/, `find /sys/devices/system /proc/sys /proc/irq /proc/sysrq-trigger /proc/mtrr /proc/scsi /proc/bus /proc/fs /sys/kernel /sys/fs /sys/power /sys/firmware /sys/module -type f -perm /222 2>/dev/null`;
    for my $file (@files) {
        next if $checked{$file}++ || $file =~ m{^/proc/sys/(net|user|fs/mqueue|fs/binfmt_misc)/|^/sys/fs/cgroup/};
        next if $file =~ m{^/proc/sys/kernel/(hostname|domainname|shm\w+|msg\w+|sem\w*|auto_msgmni|ns_last_pid|pid_max)$};
        next if $file =~ m{^/sys/devices/virtual/net/};
        # Files of LXCFS can be opened. Writes the same value again.
        sysopen my $open, $file, POSIX::O_WRONLY or next;
        my $value = `cat $file 2>/dev/null`;
        in($file) if length $value && syswrite $open, $value;
    }
});
row('network settings of the whole machine', 0, sub {
    # Settings without a copy per network namespace.
    for my $file (qw(core/bpf_jit_enable core/netdev_max_backlog core/dev_weight netfilter/nf_conntrack_max nf_conntrack_max
        netfilter/nf_conntrack_expect_max ipv4/tcp_mem ipv4/udp_mem ipv4/neigh/default/gc_thresh3)) {
        in($file) if sysopen my $open, "/proc/sys/net/$file", POSIX::O_WRONLY;
    }
});
row('mounts of kernel file systems', 1, sub {
    system 'unshare', $> ? '-Urm' : '-m', 'sh', '-c', 'mkdir -p /tmp/m; mount --make-rprivate /; for t in debugfs tracefs securityfs devtmpfs configfs pstore efivarfs hugetlbfs resctrl selinuxfs ramfs nfs btrfs ext4; do mount -t $t none /tmp/m 2>/dev/null && test $t != ramfs && { echo IN $t; umount /tmp/m; }; done;
        for c in memory devices pids freezer; do mount -t cgroup -o $c none /tmp/m 2>/dev/null && { test -w /tmp/m/release_agent && echo IN release agent $c; umount /tmp/m; }; done';
});
row('device nodes of the disks', 1, sub {
    for my $line (`cat /proc/partitions`) {
        my ($major, $minor, $name) = $line =~ /^\s*(\d+)\s+(\d+)\s+\d+\s+(\w+)/ or next;
        my $node = "/tmp/node$major-$minor";
        my $number = $major << 8 | $minor;
        syscall(133, $node, 0060600, $number);
        in($name) if sysopen my $disk, $node, POSIX::O_RDONLY;
        unlink $node;
    }
    for ([1, 1], [1, 2], [1, 4], [10, 232], [10, 237], [10, 234], [10, 183], [5, 1]) {
        my $node = "/tmp/node$_->[0]-$_->[1]";
        syscall(133, $node, 0020600, $_->[0] << 8 | $_->[1]);
        in("character $_->[0]:$_->[1]") if !$CONTROL && sysopen my $device, $node, POSIX::O_RDWR;
        unlink $node;
    }
});
row('devices in the pixel', 0, sub {
    for my $path (split /\n/, `find /dev -type b -o -type c 2>/dev/null`) {
        next if $path =~ m{^/dev/(null|zero|full|u?random|tty|ptmx|pts/.*|console|tty\d|fuse|net/tun|lxc/.*|\.lxc/.*)$};
        in($path) if sysopen my $device, $path, POSIX::O_RDWR | POSIX::O_NONBLOCK;
    }
});
row('file handles of the pool', 1, sub {
    my $place = $CONTROL ? '/var/lib/incus/storage-pools/default' : '/';
    $place = '/' if !-d $place;
    opendir my $directory, $place or die;
    for my $volume (5, 256 .. 300) {
        my $handle = pack('LlQQL', 20, 0x4d, 256, $volume, 0) . "\0" x 64;
        my $fd = syscall(304, POSIX::open($place, POSIX::O_RDONLY), $handle, 0);
        in("volume $volume") if $fd >= 0;
    }
});
row('search in the trees of the pool', 1, sub {
    my $place = $CONTROL ? '/var/lib/incus/storage-pools/default' : '/';
    open my $d, '<', $place;
    my $request = pack('Q7L4', 1, 0, -1, 0, -1, 0, -1, 0, 255, 10, 0) . "\0" x 4096;
    in('tree search') if ioctl $d, 0xd0009411, $request;
    my $lookup = pack('QQ', 5, 257) . "\0" x 4080;
    in('path lookup') if ioctl $d, 0xd0009412, $lookup;
});
row('more data than the disk limit in a nested volume', 0, sub {
    my $home = $> ? '/home/pixel' : '/root';
    open my $d, '<', $home;
    my $volume = pack('q', 0) . "nested" . "\0" x 4082;
    ioctl $d, 0x5000940e, $volume or return;
    sysopen my $plain, "$home/plain", POSIX::O_CREAT | POSIX::O_WRONLY;
    sysopen my $nested, "$home/nested/file", POSIX::O_CREAT | POSIX::O_WRONLY;
    my $size = $ENV{DISK} * 1.25;
    in('plain file') if syscall(285, fileno $plain, 0, 0, $size) == 0;
    unlink "$home/plain";
    in('nested volume') if syscall(285, fileno $nested, 0, 0, $size) == 0;
    unlink "$home/nested/file";
    rmdir "$home/nested";
});
row('limits of the own control group', 0, sub {
    for my $file (glob('/sys/fs/cgroup/*'), glob('/sys/fs/cgroup/*/*')) {
        next if $file =~ m{/(init\.scope|system\.slice|user\.slice|[^/]*\.(slice|scope|service|mount|socket))/};
        next if $file !~ m{/[^/]*(max|limit|high|low|min|weight|shares|quota|release_agent|\.(allow|deny|state|kill|cpus|mems))[^/]*$};
        next if !-f $file;
        in($file) if sysopen my $open, $file, POSIX::O_WRONLY;
    }
});
row('interface of the Incus guest API', 0, sub {
    for my $path (qw(/dev/incus/sock /dev/lxd/sock /run/incus/unix.socket /var/lib/incus/unix.socket)) {
        socket my $s, AF_UNIX, SOCK_STREAM, 0;
        in($path) if connect $s, sockaddr_un($path);
    }
});
row('abstract socket of the host', 0, sub {
    socket my $s, AF_UNIX, SOCK_STREAM, 0;
    in('connected') if connect $s, pack('S a*', 1, "\0second-suite");
});
row('links in the namespace of the host', 0, sub {
    for my $id (0 .. 3) { my @links = `ip -o addr show target-nsid $id 2>/dev/null`; in("$id: $links[0]") if @links }
    socket my $audit, 16, SOCK_RAW, 9;
    in('audit') if $audit && bind($audit, pack 'SSLL', 16, 0, 0, 1) && !$CONTROL;
});
row('descriptors and environment of exec', 0, sub {
    in("descriptors @descriptors") if @descriptors && !$CONTROL;
    in('environment') if join("\n", %ENV) =~ /second-suite-secret/ && !$CONTROL;
});
row('odd reads of emulated files', 0, sub {
    for my $file (qw(/proc/cpuinfo /proc/meminfo /proc/stat /proc/uptime /proc/loadavg /proc/swaps /proc/diskstats /sys/devices/system/cpu/online)) {
        for my $offset (0, 1, 4095, 1 << 20, (1 << 31) - 1, 1 << 40, (1 << 62)) {
            open my $in, '<', $file or next;
            my $buffer = "\0" x 70_000;
            syscall(17, fileno $in, $buffer, $_, $offset) for 0, 1, 65_536;
        }
    }
});

# Shared limits of the kernel: success if one pixel gets more than half
# Whether an attempt can take half of a limit in the time of the test.
sub reachable { my ($limit) = @_; $limit <= 80_000 ? 1 : 0 }
sub half {
    my ($what, $limit, $get) = @_;
    my ($n, $goal) = (0, reachable($limit) ? $limit / 2 : 4_000);
    $n++ while $n <= $goal && $get->();
    in("$n of $limit $what") if $limit && $n > $limit / 2;
}
loud('pseudo terminals of the host', 1, sub { files(); half('terminals', $ENV{PTYS}, sub { sysopen my $t, '/dev/ptmx', 2 or return; push @kept, $t }) });
loud('inotify instances of the host', reachable($ENV{INOTIFY}), sub { files(); half('instances', $ENV{INOTIFY}, sub { syscall(253) >= 0 }) });
loud('asynchronous operations of the host', reachable($ENV{AIO} / 1024), sub { half('operations', $ENV{AIO} / 1024, sub { my $c = pack 'Q', 0; syscall(206, 512, $c) >= 0 }) });
