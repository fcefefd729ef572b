#!/bin/bash
# run.sh COMMAND [ARGUMENT]...: starts a whole OpenStack on the loopback of a network of its own, runs the command there
# with $MANTLE_TEST_OPENSTACK, and ends everything. See README.md beside this file.
set -euo pipefail

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
say() { printf 'openstack: %4d s  %s\n' $SECONDS "$*" >&2; }

if [[ -z ${MANTLE_OPENSTACK_ROOT-} ]]; then
	(($#)) || { echo "usage: $0 COMMAND [ARGUMENT]..." >&2 && exit 2; }
	MANTLE_OPENSTACK_ROOT=$("$here/build.sh")
	export MANTLE_OPENSTACK_ROOT
	MANTLE_OPENSTACK_RUN=$(mktemp -d /var/tmp/mantle-openstack-XXXXXX)
	export MANTLE_OPENSTACK_RUN
	keep() {
		# The logs of a run that failed are worth a look.
		if (($1)); then echo "openstack: logs are in $MANTLE_OPENSTACK_RUN/logs" >&2; else rm -rf "$MANTLE_OPENSTACK_RUN"; fi
	}
	# All processes are in a PID namespace of their own: they end with its first one, and that ends with unshare, which
	# itself takes no notice of most signals.
	unshare --net --mount --pid --fork --kill-child --mount-proc "$0" "$@" &
	inner=$!
	trap 'kill -KILL $inner' INT TERM HUP
	status=0
	wait $inner || status=$?
	keep $status
	exit $status
fi

run=$MANTLE_OPENSTACK_RUN
root=$run/root
mkdir -p "$run"/{upper,work,root,logs}
ip link set lo up
mount -t tmpfs tmpfs "$run/upper" 2>/dev/null || :
mkdir -p "$run"/upper/{files,work}
mount -t overlay overlay -o "lowerdir=$MANTLE_OPENSTACK_ROOT,upperdir=$run/upper/files,workdir=$run/upper/work" "$root"
mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mkdir -p "$root"/run/lock "$root"/var/lib/os/{images,nova,neutron,locks} "$root"/etc/{keystone,glance,placement,nova,neutron} "$root/logs"
mount --bind "$run/logs" "$root/logs"
echo "127.0.0.1 localhost box $(hostname)" >"$root/etc/hosts"
cp "$here/setup.py" "$root/setup.py"

# name COMMAND...: inside the folder, with a log of its own
inside() {
	local name=$1
	shift
	env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONWARNINGS=ignore \
		RABBITMQ_NODENAME=rabbit@localhost RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 ERL_EPMD_ADDRESS=127.0.0.1 \
		chroot "$root" "$@" >>"$run/logs/$name.log" 2>&1
}
once() {
	say "$1"
	inside "$@" || { tail -n 30 "$run/logs/$1.log" >&2 && say "$1 failed: ${*:2}" && exit 1; }
}
service() {
	say "$1"
	inside "$@" &
}
wait_for() { # name port
	local n
	for ((n = 0; n < 1800; n++)); do
		(exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null && return
		sleep 0.1
	done
	tail -n 30 "$run/logs/$1.log" >&2
	say "$1 does not listen" && exit 1
}
wsgi() { # name port file: one request after the other, since SQLite has one writer
	# It closes each connection: who is not told so sends the next request into nowhere.
	service "$1" uwsgi_python3 --http-socket "127.0.0.1:$2" --wsgi-file "$3" --master --die-on-term --add-header "Connection: close" --socket-timeout 600 --buffer-size 65535
}
python() { # name module
	service "$1" python3 -c "import sys; sys.argv = ['$1'] + sys.argv[1:]; from $2 import main; main()" "${@:3}"
}

python3 "$here/setup.py" config "$root"

service rabbitmq /usr/lib/rabbitmq/bin/rabbitmq-server
# Empty databases are the same in every run with the same packages, and to make them takes most of the time.
# The number is to be raised when what is below changes them.
prepared=$MANTLE_OPENSTACK_ROOT/../databases-1-${MANTLE_OPENSTACK_ROOT##*root-}.tar
if [[ -e $prepared ]]; then
	tar -xf "$prepared" -C "$root/var/lib/os"
else
	keystone() {
		once keystone-db keystone-manage db_sync
		once keystone-db keystone-manage fernet_setup --keystone-user root --keystone-group root
		once keystone-db keystone-manage credential_setup --keystone-user root --keystone-group root
		once keystone-db keystone-manage bootstrap --bootstrap-password admin --bootstrap-region-id RegionOne \
			--bootstrap-public-url http://127.0.0.1:5000/v3/ --bootstrap-internal-url http://127.0.0.1:5000/v3/ \
			--bootstrap-admin-url http://127.0.0.1:5000/v3/
	}
	nova() {
		once nova-db nova-manage api_db sync
		once nova-db nova-manage cell_v2 map_cell0 \
			--database_connection 'sqlite:////var/lib/os/nova_cell0.db?timeout=60'
		once nova-db nova-manage db sync
		once nova-db nova-manage cell_v2 create_cell --name cell1 \
			--database_connection 'sqlite:////var/lib/os/nova.db?timeout=60' \
			--transport-url rabbit://guest:guest@127.0.0.1:5672/
	}
	making=()
	keystone & making+=($!)
	once glance-db glance-manage db_sync & making+=($!)
	once placement-db placement-manage db sync & making+=($!)
	once neutron-db python3 /setup.py neutron-db & making+=($!)
	nova & making+=($!)
	for one in "${making[@]}"; do wait "$one"; done
	once databases python3 /setup.py databases
	rm -f "${prepared%/*}"/databases-*
	tar -cf "$prepared.part" -C "$root/var/lib/os" . && mv "$prepared.part" "$prepared"
fi
wsgi keystone 5000 /usr/bin/keystone-wsgi-public
wait_for keystone 5000
once accounts python3 /setup.py accounts
wait_for rabbitmq 5672
service glance glance-api --config-file /etc/glance/glance-api.conf
wsgi placement 8778 /usr/bin/placement-api
service neutron neutron-server --config-file /etc/neutron/neutron.conf --config-file /etc/neutron/ml2.ini
wait_for placement 8778
python nova-conductor nova.cmd.conductor
python nova-scheduler nova.cmd.scheduler
python nova-api nova.cmd.api_os_compute
wait_for glance 9292
wait_for neutron 9696
wait_for nova-api 8774
# It ends when Keystone drops a connection while it starts.
(while ! inside nova-compute python3 -c 'from nova.cmd.compute import main; main()'; do sleep 1; done) &
once cloud python3 /setup.py cloud

cat >"$run/services.json" <<-EOF
	{"identity": "127.0.0.1:5000", "compute": "127.0.0.1:8774", "network": "127.0.0.1:9696", "image": "127.0.0.1:9292"}
EOF
say "all services are up"
export MANTLE_TEST_OPENSTACK=$run/services.json
status=0
"$@" || status=$?
exit $status
