#!/usr/bin/env bash
# Brings a Debian machine to where the suites and the demo can run: Docker Engine, network tools, the ordinary clients
# that decoys are tried with, and what lab hosts are made of. Does nothing where all of it is there. Needs root; starts no init system.
#
#   tests/setup.sh           install what is missing, start the engine if none answers
#   tests/setup.sh --down    end the engine that this script started
set -euo pipefail

readonly run_dir=/run/decnet-tests
readonly engine_log=$run_dir/dockerd.log
readonly engine_pid=$run_dir/dockerd.pid
readonly engine_wait_s=60

fail() {
    printf 'set-up: %s\n' "$*" >&2
    exit 1
}

# What is needed, and the packages that have it, the preferred name first.
# command or file:package[|package]...
readonly needed=(
    'cc:gcc'
    '/usr/include/stdlib.h:libc6-dev'
    'update-ca-certificates:ca-certificates'
    'docker:docker-cli|docker.io'
    'dockerd:docker.io'
    'iptables:iptables'
    'ip:iproute2'
    'nft:nftables'
    'ps:procps'
    'sysctl:procps'
    'nsenter:util-linux'
    'ssh:openssh-client'
    'sshpass:sshpass'
    'telnet:inetutils-telnet|telnet'
    'curl:curl'
    'ftp:tnftp|ftp'
    'redis-cli:redis-tools|valkey-tools'
    'psql:postgresql-client'
    'mysql:default-mysql-client|mariadb-client'
    'mosquitto_pub:mosquitto-clients'
    'snmpget:snmp'
    'vncsnapshot:vncsnapshot'
    'python3:python3'
    'openssl:openssl'
    # Programs that believe it is another day.
    'faketime:faketime'
    # For images of the tests: the one busybox that needs no libraries.
    '/var/lib/dpkg/info/busybox-static.list:busybox-static'
    # Lab hosts.
    'linux.uml:user-mode-linux'
    'debootstrap:debootstrap'
    'mke2fs:e2fsprogs'
    'setpriv:util-linux'
    # Packages: what makes them, and what judges them.
    'dpkg-shlibdeps:dpkg-dev'
    'strip:binutils'
    'rpmbuild:rpm'
    'lintian:lintian'
    'rpmlint:rpmlint'
    'debugfs:e2fsprogs'
)

# The peer of the Compose engine. Debian 13 has it as a package, Debian 12 in no release of its own.
readonly compose_package=docker-compose
readonly compose_release=trixie
readonly compose_path=/usr/libexec/docker/cli-plugins/docker-compose

# Root's tools are not on every shell's path.
export PATH="$PATH:/usr/sbin:/sbin"

missing() {
    local entry
    for entry in "${needed[@]}"; do
        if [[ $entry == /* ]]; then
            [ -e "${entry%%:*}" ] || printf '%s\n' "$entry"
        else
            command -v "${entry%%:*}" >/dev/null 2>&1 || printf '%s\n' "$entry"
        fi
    done
}

knows() {
    # A package that is only a name has no candidate.
    local policy
    policy=$(apt-cache policy "$1" 2>/dev/null) || return 1
    grep -q '^  Candidate: [^(]' <<<"$policy"
}

refresh() {
    [ -z "${refreshed:-}" ] || return 0
    refreshed=yes
    apt-get update -qq >"$run_dir/apt.log" 2>&1 ||
        fail "apt-get update fails, so missing packages cannot be had; see $run_dir/apt.log"
}

install_missing() {
    local entries entry packages=() names name found
    mapfile -t entries < <(missing)
    [ "${#entries[@]}" -gt 0 ] || return 0
    command -v apt-get >/dev/null 2>&1 ||
        fail "missing here: ${entries[*]%%:*}; this script installs with apt-get only, which this system has not"
    refresh
    for entry in "${entries[@]}"; do
        IFS='|' read -r -a names <<<"${entry#*:}"
        found=
        for name in "${names[@]}"; do
            if knows "$name"; then
                found=$name
                break
            fi
        done
        [ -n "$found" ] || fail "no package of this Debian has ${entry%%:*} (looked for: ${names[*]})"
        packages+=("$found")
    done
    printf 'set-up: installing %s\n' "${packages[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" \
        </dev/null >>"$run_dir/apt.log" 2>&1 ||
        fail "apt-get install ${packages[*]} fails; see $run_dir/apt.log"
    hash -r
    mapfile -t entries < <(missing)
    [ "${#entries[@]}" -eq 0 ] ||
        fail "still missing after the installation: ${entries[*]%%:*}; see $run_dir/apt.log"
}

# Docker Compose v2, as the Docker CLI's plugin. One static binary, so that of a newer release runs here as well; it is
# unpacked, not installed, and apt's own lists and state stay as they are.
install_compose() {
    local state=$run_dir/compose mirror options
    local key=/usr/share/keyrings/debian-archive-keyring.gpg
    if docker compose version >/dev/null 2>&1; then
        return 0
    fi
    refresh
    # Debian 12 knows that name as well: for version 1, which is another program.
    if apt-cache policy $compose_package | grep -q '^  Candidate: [^(1]'; then
        printf 'set-up: installing %s\n' $compose_package
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $compose_package \
            </dev/null >>"$run_dir/apt.log" 2>&1 ||
            fail "apt-get install $compose_package fails; see $run_dir/apt.log"
    else
        # shellcheck disable=SC2016 # apt replaces these
        read -r mirror < <(apt-get indextargets --format '$(REPO_URI)' \
            'Created-By: Packages' 'Origin: Debian' 'Label: Debian') || true
        [ -n "${mirror:-}" ] || fail "no Debian mirror among apt's sources to have $compose_package $compose_release from"
        printf 'set-up: unpacking %s of %s\n' $compose_package $compose_release
        mkdir -p "$state"/{lists/partial,cache/archives/partial,root}
        printf 'deb [signed-by=%s] %s %s main\n' "$key" "$mirror" $compose_release >"$state/sources.list"
        options=(-o "Dir::Etc::SourceList=$state/sources.list" -o Dir::Etc::SourceParts=/dev/null
            -o "Dir::State::Lists=$state/lists" -o "Dir::Cache=$state/cache" -o APT::Sandbox::User=root)
        {
            apt-get "${options[@]}" update -qq &&
                (cd "$state" && apt-get "${options[@]}" download -qq $compose_package) &&
                dpkg-deb -x "$state/$compose_package"_*.deb "$state/root" &&
                install -D -m 755 "$state/root$compose_path" "$compose_path"
        } >>"$run_dir/apt.log" 2>&1 || fail "Docker Compose v2 cannot be had from $mirror; see $run_dir/apt.log"
        rm -rf "$state"
    fi
    docker compose version >/dev/null 2>&1 || fail 'Docker Compose v2 is installed, and docker compose does not run'
}

# What our signatures are held against: Python packages of fixed versions in a folder of their own.
install_oracles() {
    local here venv=/var/cache/decnet-tests/oracles log=$run_dir/oracles.log
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    if cmp -s "$here/oracles/requirements.txt" "$venv/installed.txt"; then
        return 0
    fi
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        refresh
        printf 'set-up: installing python3-venv\n'
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv \
            </dev/null >>"$run_dir/apt.log" 2>&1 ||
            fail "apt-get install python3-venv fails; see $run_dir/apt.log"
    fi
    printf 'set-up: installing %s\n' "$(grep -c '^[^#]' "$here/oracles/requirements.txt") Python packages in $venv"
    {
        rm -rf "$venv" && mkdir -p "$(dirname "$venv")" && python3 -m venv "$venv" &&
            "$venv/bin/pip" install --disable-pip-version-check --only-binary :all: -r "$here/oracles/requirements.txt"
    } </dev/null >"$log" 2>&1 || fail "the Python packages cannot be had; see $log"
    cp "$here/oracles/requirements.txt" "$venv/installed.txt"
}

engine_answers() {
    docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

start_engine() {
    local deadline
    if engine_answers; then
        return 0
    fi
    printf 'set-up: starting dockerd, log in %s\n' "$engine_log"
    setsid dockerd --pidfile "$engine_pid" </dev/null >"$engine_log" 2>&1 &
    deadline=$((SECONDS + engine_wait_s))
    until engine_answers; do
        if ! kill -0 $! 2>/dev/null; then
            fail "no Docker Engine: dockerd ended: $(tail -n 1 "$engine_log")"
        fi
        [ "$SECONDS" -lt "$deadline" ] ||
            fail "no Docker Engine: dockerd does not answer after $engine_wait_s s; see $engine_log"
        sleep 0.2
    done
}

check_namespaces() {
    local probe="decnet-probe-$$"
    ip netns add "$probe" 2>"$run_dir/probe.log" ||
        fail "network namespaces cannot be made: $(head -n 1 "$run_dir/probe.log")"
    ip netns del "$probe"
    ip link add "dnp$$" type veth peer name "dnq$$" 2>"$run_dir/probe.log" ||
        fail "veth pairs cannot be made: $(head -n 1 "$run_dir/probe.log")"
    # The kernel's own words when it has no macvlan are of no help to anybody.
    if ! ip link add "dnm$$" link "dnp$$" type macvlan mode bridge 2>"$run_dir/probe.log"; then
        ip link del "dnp$$"
        fail "macvlan links cannot be made: $(head -n 1 "$run_dir/probe.log")"
    fi
    ip link del "dnm$$"
    ip link del "dnp$$"
    if ! ip tuntap add dev "dnt$$" mode tap 2>"$run_dir/probe.log"; then
        fail "tap links, the cables of lab hosts, cannot be made: $(head -n 1 "$run_dir/probe.log")"
    fi
    ip link del "dnt$$"
}

stop_engine() {
    local pid
    [ -f "$engine_pid" ] || return 0
    pid=$(<"$engine_pid")
    kill "$pid" 2>/dev/null || return 0
    while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
}

[ "$(id -u)" -eq 0 ] || fail 'root is needed: it installs packages, starts the Docker Engine and makes network namespaces'
mkdir -p "$run_dir"
case "${1:-}" in
'') ;;
--down)
    stop_engine
    exit 0
    ;;
*) fail "unknown argument $1; known: --down" ;;
esac
# Several may want the set-up at the same moment.
exec 9>"$run_dir/set-up.lock"
flock 9
install_missing
install_compose
install_oracles
start_engine 9>&-
check_namespaces
printf 'set-up: Docker Engine %s, clients and namespaces are ready\n' "$(docker version --format '{{.Server.Version}}')"
