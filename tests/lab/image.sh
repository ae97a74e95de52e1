#!/usr/bin/env bash
# Makes the disk that lab hosts boot from: Debian with systemd, Docker Engine and the modules of User-mode Linux.
# Beside it lies what the kernel is started with (xstate.c). Does nothing when both are there; others are made when the
# recipe (this file, xstate.c, tests/lab/guest, the kernel, the two variables) changes. Needs root. No service is started:
# packages are set up in namespaces of their own, without network.
#
#   tests/lab/image.sh           make it unless it is there, print its path
#   tests/lab/image.sh --path    print its path; fails when it has to be made first
#
# DECNET_LAB_DIR      where it lies (default: target/lab)
# DECNET_LAB_MIRROR   where packages come from (default: where apt gets Debian from)
# DECNET_LAB_RELEASE  which Debian (default: this machine's, so that programs built here run there)
set -euo pipefail

fail() {
    printf 'lab image: %s\n' "$*" >&2
    exit 1
}

here=$(cd "$(dirname "$0")" && pwd)
readonly here
readonly lab_dir=${DECNET_LAB_DIR:-${CARGO_TARGET_DIR:-$here/../../target}/lab}
# shellcheck disable=SC2016 # apt replaces it
read -r apt_mirror < <(apt-get indextargets --format '$(REPO_URI)' \
    'Created-By: Packages' 'Origin: Debian' 'Label: Debian') || true
readonly mirror=${DECNET_LAB_MIRROR:-${apt_mirror:-}}
[ -n "$mirror" ] || fail 'apt knows no Debian mirror: name one in DECNET_LAB_MIRROR'
readonly modules=/usr/lib/uml/modules
# Sparse: this is what a host may fill, not what it takes.
readonly size=6G
# rpm for the packages' own tests; the rest is a small server with Docker.
packages=(
    systemd systemd-sysv dbus kmod procps ca-certificates curl rpm
    iproute2 iputils-ping iptables nftables docker.io
)

# Root's tools are not on every shell's path.
export PATH="$PATH:/usr/sbin:/sbin"

release() {
    local ID='' VERSION_CODENAME=''
    # shellcheck source=/dev/null
    . /etc/os-release
    [ "$ID" = debian ] && printf '%s\n' "$VERSION_CODENAME" || printf 'bookworm\n'
}
release=${DECNET_LAB_RELEASE:-$(release)}
readonly release
# From Debian 13 on the client is a package of its own.
[ "$release" = bookworm ] || packages+=(docker-cli)

require() {
    local entry
    for entry in cc:gcc linux.uml:user-mode-linux debootstrap:debootstrap mke2fs:e2fsprogs unshare:util-linux flock:util-linux; do
        command -v "${entry%%:*}" >/dev/null 2>&1 ||
            fail "${entry%%:*} is missing: install Debian's package ${entry#*:}, or run tests/setup.sh"
    done
    [ -d "$modules" ] || fail "$modules is missing: install Debian's package user-mode-linux"
}

# The recipe, as a digest: everything that shapes the image.
digest() {
    {
        printf '%s\n' "$release" "$mirror"
        find "$modules" -mindepth 1 -maxdepth 1
        cd "$here"
        find image.sh xstate.c guest -type f -printf '%m %p\n' | LC_ALL=C sort
        find image.sh xstate.c guest -type f -print0 | LC_ALL=C sort -z | xargs -0 cat
    } | sha256sum | cut -c1-16
}

quietly() {
    "$@" </dev/null >>"$log" 2>&1 || fail "\`$1\` fails, see $log: $(tail -n 1 "$log")"
}

# Whatever packages do when they are set up, they see only their own files, processes and loopback.
inside() {
    quietly env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C DEBIAN_FRONTEND=noninteractive \
        unshare --mount --pid --fork --kill-child --net --ipc --uts chroot "$root" "$@"
}

make_root() {
    local IFS=,
    quietly debootstrap --foreign --variant=minbase --include="${packages[*]}" "$release" "$root" "$mirror"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    # The image is made again when power fails now; nothing has to be safe on disk after each package.
    mkdir -p "$root/etc/dpkg/dpkg.cfg.d"
    printf 'force-unsafe-io\n' >"$root/etc/dpkg/dpkg.cfg.d/lab"
    inside /debootstrap/debootstrap --second-stage
}

shape_root() {
    local unit
    inside update-alternatives --set iptables /usr/sbin/iptables-legacy
    inside update-alternatives --set ip6tables /usr/sbin/ip6tables-legacy
    inside apt-get clean
    cp -a "$modules/." "$root/usr/lib/modules/"
    for unit in "$modules"/*; do
        inside depmod "${unit##*/}"
    done
    cp -r --preserve=mode "$here/guest/." "$root/"
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants" "$root/etc/systemd/system/sysinit.target.wants"
    ln -s ../lab-commands.service "$root/etc/systemd/system/multi-user.target.wants/"
    ln -s ../lab-network.service "$root/etc/systemd/system/sysinit.target.wants/"
    # Nobody logs in, and timers of a machine that lives a minute only make boots slow.
    rm -f "$root/etc/systemd/system/getty.target.wants/"*
    for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
        e2scrub_reap.service modprobe@{configfs,dm_mod,drm,efi_pstore,fuse,loop}.service; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
    # An empty file, and every host gets an id of its own at its first boot, without that being a first installation.
    : >"$root/etc/machine-id"
    rm -f "$root/var/lib/dbus/machine-id" "$root/etc/hostname" "$root/usr/sbin/policy-rc.d" "$root/etc/resolv.conf"
    rm -f "$root/etc/dpkg/dpkg.cfg.d/lab"
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
    printf '/dev/ubda / ext4 errors=remount-ro 0 1\n' >"$root/etc/fstab"
    rm -rf "$root/usr/share/man/"* "$root/usr/share/doc/"* "$root/usr/share/locale/"* "$root/var/lib/apt/lists/"*
}

make_image() {
    local other start=$SECONDS
    printf 'lab image: making %s (about a minute), log in %s\n' "$image" "$log" >&2
    rm -rf "$root" "$image.new"
    : >"$log"
    quietly cc -Wall -Wextra -Werror -O2 -shared -fPIC -o "${image%.img}.so" "$here/xstate.c"
    make_root
    shape_root
    truncate -s "$size" "$image.new"
    quietly mke2fs -q -t ext4 -L lab -E lazy_itable_init=0 -d "$root" "$image.new"
    rm -rf "$root"
    # Of an older recipe, unless hosts run from it.
    for other in "$lab_dir"/host-*.img; do
        [ -e "$other" ] && flock -n -x "$other" rm -f "$other" "${other%.img}.so" || true
    done
    mv "$image.new" "$image"
    printf 'lab image: made in %s s, %s on disk\n' "$((SECONDS - start))" "$(du -h "$image" | cut -f1)" >&2
}

require
mkdir -p "$lab_dir"
lab=$(cd "$lab_dir" && pwd)
readonly lab
image=$lab/host-$(digest).img
readonly image root=$lab/root log=$lab/image.log
case "${1:-}" in
--path)
    [ -e "$image" ] || fail "$image is not there: run \`make lab-image\` as root"
    ;;
'')
    [ "$(id -u)" -eq 0 ] || fail 'root is needed'
    # Several may want it at the same moment.
    exec 9>"$lab/lock"
    flock 9
    [ -e "$image" ] || make_image 9>&-
    ;;
*) fail "unknown argument $1; known: --path" ;;
esac
printf '%s\n' "$image"
