# A machine for the commands of one page: its own network, processes and copies of /etc and /usr, all of which
# end with this script. Nothing of the real machine is changed.
#
# REPOSITORY: the sources. BUILT: folder with the programs. WORLD: an empty folder.
set -euo pipefail

mount -t tmpfs tmpfs "$WORLD"
layer() { # FROM TO: what is written to TO is not written to FROM
    local name=${1//\//-}
    mkdir -p "$WORLD/up$name" "$WORLD/work$name" "$2"
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$WORLD/up$name,workdir=$WORLD/work$name" "$2"
}
layer "$REPOSITORY" "$WORLD/home/visitor/turnpike"
install -D -t "$WORLD/home/visitor/turnpike/target/release" "$BUILT/turnpike" "$BUILT/turnpike-loadtest"
layer /etc /etc
layer /usr /usr
mount -t tmpfs tmpfs /run
mkdir -m 1777 "$WORLD/tmp" && mkdir "$WORLD/state" && chmod 0755 "$WORLD" "$WORLD/state"
mount --bind "$WORLD/state" /var/lib

# Somebody who is not root, but may become it.
useradd --home-dir "$WORLD/home/visitor" --shell /bin/bash visitor
chown visitor "$WORLD/home/visitor" "$WORLD/home/visitor/turnpike"
echo 'visitor ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/visitor

# A configuration of the visitor's own.
sed "s/change-me/correct-horse-battery/" "$REPOSITORY/examples/minimal.toml" >"$WORLD/home/visitor/turnpike/turnpike.toml"

# An answer of 4xx is a failure, whatever a page prints of it.
echo fail-with-body >"$WORLD/home/visitor/.curlrc"

# The addresses that the pages name.
ip link set lo up
ip link add eth0 type veth peer name eth0-peer
ip link set eth0-peer up
ip address add 192.0.2.10/24 dev eth0
ip link set eth0 up
ip route add default via 192.0.2.1

# systemd is not process 1 here: this runs the unit's commands as its user with its capabilities.
rm -f /usr/bin/systemctl /bin/systemctl
cat >/usr/bin/systemctl <<'STAND_IN'
#!/bin/bash
set -euo pipefail
unit=/etc/systemd/system/turnpike.service
value() { sed -n "s/^$1=//p" "$unit"; }
as_service() {
    local capabilities
    capabilities=$(value AmbientCapabilities | sed 's/CAP_/+/g; s/ /,/g' | tr A-Z a-z)
    setpriv --reuid="$(value User)" --regid="$(value Group)" --init-groups --no-new-privs \
        --bounding-set="-all,$capabilities" --inh-caps="-all,$capabilities" --ambient-caps="-all,$capabilities" \
        -- "$@"
}
start() {
    install -d -m 0700 -o "$(value User)" "/var/lib/$(value StateDirectory)"
    as_service $(value ExecStartPre)
    (umask 0077; as_service $(value ExecStart)) >/run/turnpike.log 2>&1 </dev/null &
    for _ in $(seq 200); do
        if grep -q '^turnpike ready' /run/turnpike.log; then return; fi
        if ! kill -0 $! 2>/dev/null; then break; fi
        sleep 0.1
    done
    cat /run/turnpike.log >&2
    return 1
}
running() { pgrep -u turnpike -x turnpike; }
case "$*" in
    daemon-reload) systemd-analyze verify --man=no "$unit" ;;
    "enable --now turnpike" | "start turnpike") start ;;
    "reload turnpike") as_service $(value ExecReload | head -1); kill -HUP "$(running)" ;;
    "stop turnpike") kill "$(running)"; while running >/dev/null; do sleep 0.1; done ;;
    *) echo "this page needs more of systemctl: $*" >&2; exit 1 ;;
esac
STAND_IN
chmod 0755 /usr/bin/systemctl

cat >"$WORLD/lib.sh" <<'LIBRARY'
passed=0 server= log=$(mktemp)
cd ~/turnpike
# Expansions fail as they would for somebody who types: nothing is preset.
failed() {
    echo "FAILED $PAGE:$1: \$ $2"
    sed 's/^/    /' "$log"
    echo "test result: FAILED. $passed passed; 1 failed"
    stop || true
    exit 1
}
ok() {
    passed=$((passed + 1))
    echo "ok $PAGE:$1: \$ $2"
}
stop() {
    if [ -z "$server" ]; then return; fi
    kill -TERM -- "-$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}
ends() {
    eval "$2" >"$log" 2>&1 </dev/null || failed "$1" "$2"
    ok "$1" "$2"
}
streams() {
    (eval "$2") >"$log" 2>&1 </dev/null &
    sleep 3
    kill -TERM -- "-$!" 2>/dev/null || failed "$1" "$2"
    wait $! 2>/dev/null || true
    [ -s "$log" ] || failed "$1" "$2"
    ok "$1" "$2"
}
serves() {
    stop
    local said
    said=$(mktemp)
    (eval "$2") >"$said" 2>&1 </dev/null &
    server=$!
    for _ in $(seq 200); do
        if grep -qE 'ready|listen' "$said"; then ok "$1" "$2"; return; fi
        if ! kill -0 "$server" 2>/dev/null; then break; fi
        sleep 0.1
    done
    cp "$said" "$log"
    failed "$1" "$2"
}
done_with_page() {
    stop
    echo "test result: ok. $passed passed; 0 failed"
}
set -mo pipefail
LIBRARY
chmod 0644 "$WORLD/lib.sh"

as_visitor() { # PAGE
    setpriv --reuid=visitor --regid=visitor --init-groups \
        env --ignore-environment HOME="$WORLD/home/visitor" USER=visitor LANG=C.UTF-8 WORLD="$WORLD" TMPDIR="$WORLD/tmp" \
        PAGE="$1" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin bash
}
