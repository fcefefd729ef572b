#!/bin/bash
# Runs a script as a user who is not root: as-user.sh CORK FOLDER WITH SCRIPT. WITH: sudo, namespace, both or neither: what
# the user is allowed. Users, rights and places are this process's own: it has mounts of its own (run by unshare -m).
# FOLDER is /srv/in there, the user's home /srv/home, the source root /srv/root, cork and mantle are in PATH.
set -euo pipefail
cork=$1 folder=$2 with=$3 script=$4
mount -t tmpfs -o mode=755,size=512m tmpfs /srv
mkdir -p /srv/{bin,etc,in,home,root,tmp}
touch /srv/bin/mantle
mount --bind "$cork" /srv/bin/mantle
ln -s mantle /srv/bin/cork
mount --bind "$folder" /srv/in
for file in passwd group shadow subuid subgid sudoers; do
	cp -p /etc/$file /srv/etc/ 2>/dev/null || touch /srv/etc/$file
done
# A shell that reads the full name would make files of it.
echo 'alice:x:4242:4242:Alice $(touch /srv/tmp/pwned) `touch /srv/tmp/pwned`,,,:/srv/home:/bin/bash' >>/srv/etc/passwd
echo 'alice:x:4242:' >>/srv/etc/group
echo 'alice:*:19000:0:99999:7:::' >>/srv/etc/shadow
echo 'root ALL=(ALL:ALL) ALL' >/srv/etc/sudoers
: >/srv/etc/subuid
: >/srv/etc/subgid
case $with in sudo | both) echo 'alice ALL=(ALL:ALL) NOPASSWD: ALL' >>/srv/etc/sudoers ;; esac
case $with in namespace | both)
	echo 'alice:3000000:65536' | tee /srv/etc/subuid >/srv/etc/subgid
	;;
esac
for file in passwd group shadow subuid subgid sudoers; do
	[ -e /etc/$file ] || touch /etc/$file
	mount --bind /srv/etc/$file /etc/$file
done
chown 4242:4242 /srv/{home,root,tmp}
cd /srv/root
exec setpriv --reuid 4242 --regid 4242 --init-groups env -i \
	PATH=/srv/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/srv/home USER=alice TERM=dumb TMPDIR=/srv/tmp LANG=C.UTF-8 \
	MANTLE_CONFIG=/dev/null MANTLE_VERIFY_KEY=/srv/in/key.asc REPO_ROOT=/srv/root bash -euo pipefail -c "$script"
