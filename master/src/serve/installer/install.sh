# Installs decnet-agent on this host, enrols it and starts it. POSIX sh. Nothing happens before the last line, which calls
# decnet_install: what was cut off before does nothing.

decnet_fail() {
    printf 'decnet: %s\n' "$*" >&2
    exit 1
}

# Sets what is known of the package for $1, and fails where there is none.
decnet_package() {
    case $1 in
    # @PACKAGES@
    *) return 1 ;;
    esac
}

# decnet_fetch FILE: the package, which is looked at later.
decnet_fetch() {
    # @FETCH@
}

# Which of the master's packages is for this host. A host may have the tools of both kinds; its own database is in use.
decnet_choose() {
    if dpkg-query -W dpkg >/dev/null 2>&1; then
        decnet_kind=deb-$(dpkg --print-architecture)
        decnet_there=$(dpkg-query -W -f '${Status} ${Version}' decnet-agent 2>/dev/null)
        decnet_there=${decnet_there#install ok installed }
    elif command -v rpm >/dev/null 2>&1; then
        decnet_kind=rpm-$(uname -m)
        decnet_there=$(rpm -q --queryformat '%{VERSION}-%{RELEASE}' decnet-agent 2>/dev/null) || decnet_there=
    else
        decnet_fail 'there is neither dpkg nor rpm here: install decnet-agent by hand, then run decnet-agent enroll'
    fi
    decnet_package "$decnet_kind" ||
        decnet_fail "the master has no package for this host ($decnet_kind). It has: @KINDS@"
}

decnet_put_in() {
    umask 077
    decnet_folder=$(mktemp -d) || decnet_fail 'there is no room for the package: mktemp failed'
    trap 'rm -rf "$decnet_folder"' EXIT
    trap 'exit 130' HUP INT TERM
    decnet_file=$decnet_folder/decnet-agent.${decnet_kind%%-*}
    decnet_fetch "$decnet_file"
    decnet_found=$(sha256sum <"$decnet_file" 2>/dev/null)
    [ "${decnet_found%% *}" = "$decnet_digest" ] || decnet_fail "the package is not the one that was meant, or did not come whole: \
its SHA-256 is ${decnet_found%% *}, not $decnet_digest. Nothing was installed"
    umask 022
    if [ "${decnet_kind%%-*}" = rpm ]; then
        # Where everything that it needs is there, no other program is asked, which would want its repositories.
        if rpm -U --test "$decnet_file" >/dev/null 2>&1; then
            rpm -U "$decnet_file"
        elif command -v dnf >/dev/null 2>&1; then
            dnf install -y -q "$decnet_file"
        elif command -v yum >/dev/null 2>&1; then
            yum install -y -q "$decnet_file"
        else
            rpm -U "$decnet_file"
        fi
    elif command -v apt-get >/dev/null 2>&1; then
        # Settings that were changed here stay, and nobody is asked about them.
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o APT::Sandbox::User=root \
            -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=120 "$decnet_file"
    else
        dpkg --force-confold -i "$decnet_file"
    fi </dev/null || decnet_fail 'the package could not be installed; the lines above say why'
    rm -rf "$decnet_folder"
}

# decnet_install TOKEN [OPTION]...: options are those of decnet-agent enroll.
decnet_install() {
    [ "$(id -u)" = 0 ] || decnet_fail 'this installs a package, which only root may: run it with sudo, or as root'
    decnet_choose
    command -v dockerd >/dev/null 2>&1 || [ -S /var/run/docker.sock ] ||
        decnet_fail 'there is no Docker Engine here, which deckies run in. Install it first: apt-get install docker.io, \
dnf install moby-engine, or docker-ce from docker.com'
    [ "$decnet_there" = "$decnet_version" ] || decnet_put_in
    # By standard input: a command line is for everybody to read.
    decnet_token=$1
    shift
    printf '%s\n' "$decnet_token" | decnet-agent enroll - "$@" || decnet_fail 'this host is not enrolled; the package stays'
    if [ ! -d /run/systemd/system ]; then
        echo 'There is no systemd here. Run: decnet-agent run'
        return
    fi
    systemctl enable --quiet --now decnet-agent </dev/null ||
        decnet_fail 'decnet-agent does not start: journalctl -u decnet-agent says why'
    # @END@
}
