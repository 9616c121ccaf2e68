#!/bin/sh
# Unmounts the files of LXCFS about the processors, which LXC has mounted in an
# instance. LXCFS writes to the files of the host as root, also for other users.
# LXC runs this script as a hook on the server's host, in the mount namespace of
# the instance, before init starts. If the script fails, the instance does not
# start.
#
# Every line must mean the same when it follows the previous one on one line, and
# there must be no single quotes.
PATH=$PATH:/usr/bin:/bin:/run/current-system/sw/bin;
dir=$LXC_ROOTFS_MOUNT/sys/devices/system/cpu;
umount "$dir" 2>/dev/null;
if grep -qF " $dir " /proc/self/mountinfo; then exit 1; fi;
