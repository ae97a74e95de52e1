#!/bin/bash
# Starts User-mode Linux under this script's name. A guest that reboots runs its own name anew, in the same process and
# with every file still open: the old cable would be in use and the old memory be kept, so all of them are closed here.
for file in /proc/self/fd/*; do
    number=${file##*/}
    # What bash itself has open ends with it.
    [ "$number" -le 2 ] || [ "$number" -eq 255 ] || eval "exec $number>&-"
done
# For the kernel alone, not for this script.
LD_PRELOAD=$LAB_PRELOAD exec -a "$0" linux.uml "$@"
