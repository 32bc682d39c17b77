# Prints what a test must not leave on a host, a line each.
for device in /sys/bus/rbd/devices/*; do
    [ -e "$device" ] && echo "mapped: $(cat "$device/pool")/$(cat "$device/name") as /dev/rbd${device##*/}"
done
for file in /sys/block/loop*/loop/backing_file; do
    [ -e "$file" ] && echo "loop device: $file"
done
while read -r device target type rest; do
    case $device in /dev/rbd* | /dev/loop*) echo "mounted: $device at $target" ;; esac
done </proc/self/mounts
for process in /proc/[0-9]*/exe; do
    case $(readlink "$process") in */rbd-docker-plugin*) echo "runs: $process" ;; esac
done
for socket in /run/docker/plugins/*; do
    # Its lock and the folder of its mount IDs stay.
    case $socket in *.lock) continue ;; *.mounts) [ "$(ls -A "$socket")" ] || continue ;; esac
    [ -e "$socket" ] && echo "left: $socket"
done
# Tests wait for files of this name; one that is left would let the next test's job go at once.
[ -e /run/go ] && echo "left: /run/go"
dmesg | grep -E 'BUG:|kernel BUG|Oops|WARNING:|blocked for more than' | sed 's/^/kernel: /'
true
