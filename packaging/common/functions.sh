# What the scripts of all packages do, in POSIX sh. The names are this package's.
unit=@UNIT@
state=@STATE@
owner=@OWNER@

# False in containers, in chroots and under another init.
systemd_runs() {
    [ -d /run/systemd/system ] && command -v systemctl >/dev/null 2>&1
}

# Before enrolment, or `decnet init`, there is nothing to run: a start would only fail.
has_state() {
    [ -n "$(ls -A "$state" 2>/dev/null)" ]
}

# The user that the program runs as, unless that is root or there already. Nobody logs in as it.
make_user() {
    if [ "$owner" = root ] || getent passwd "$owner" >/dev/null; then
        return 0
    fi
    useradd --system --user-group --no-create-home --home-dir "$state" --shell /usr/sbin/nologin "$owner"
}

# make_folder MODE OWNER PATH: what is there already stays as it is, also a link to another disk.
make_folder() {
    [ -d "$3" ] || install -d -m "$1" -o "$2" -g "$2" "$3"
}

# They are no files of the package, so that removing it leaves them, full or empty.
make_folders() {
    make_folder 0755 root /var/lib/decnet
    # A folder that is a user's of its own is not made: `decnet init`, run as root, fills one of root's, and systemd gives it with
    # all that is in it to the unit's user at the start, which it does not where the folder is that user's already.
    if [ "$owner" = root ]; then
        make_folder 0700 root "$state"
    fi
    make_folder 0750 root /var/log/decnet
}
