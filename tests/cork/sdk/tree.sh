#!/bin/bash
# Makes a small SDK of this machine's own programs: tree.sh ARCHIVE. For tests that are quick and need no network.
set -euo pipefail
archive=$1
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
mkdir -p "$tree"/{usr/{bin,sbin,lib/modules,lib64,libexec},etc/{pam.d,sudoers.d},home,root,tmp,var/log,dev,proc,sys,run}
ln -s usr/bin usr/sbin usr/lib usr/lib64 "$tree"
chmod 1777 "$tree/tmp"

# A file with what it links to, under the same path; /bin and /lib are links inside.
add() {
	for file in "$@"; do
		[ -e "$tree$file" ] && continue
		mkdir -p "$tree$(dirname "$file")"
		cp -L --preserve=mode "$file" "$tree$file"
		for library in $(ldd "$file" 2>/dev/null | grep -o '/[^ ]*'); do
			[ -e "$tree$library" ] || { mkdir -p "$tree$(dirname "$library")" && cp -L "$library" "$tree$library"; }
		done
	done
}
programs="bash cat chmod chown cp cut date env false getent gpasswd grep groupadd head hostname id ln ls mkdir mktemp mv
	printenv readlink rm sed sh sleep stat stty sudo tee touch true tty uname useradd wc"
for program in $programs; do
	add "$(type -P "$program")"
done
add /usr/libexec/sudo/*.so* /lib/*-linux-gnu/security/pam_{permit,deny}.so
for kind in auth account password session; do
	echo "$kind required pam_permit.so"
done >"$tree/etc/pam.d/other"
cp "$tree/etc/pam.d/other" "$tree/etc/pam.d/sudo"
cp "$tree/etc/pam.d/other" "$tree/etc/pam.d/sudo-i"

echo 'passwd: files
group: files
shadow: files' >"$tree/etc/nsswitch.conf"
echo 'root:x:0:0:root:/root:/bin/bash' >"$tree/etc/passwd"
echo 'root:x:0:
tty:x:5:
kvm:x:78:
portage:x:250:
sudo:x:27:' >"$tree/etc/group"
echo 'root:*:19000:0:99999:7:::' >"$tree/etc/shadow"
echo 'UID_MIN 1000' >"$tree/etc/login.defs"
echo 'Defaults !fqdn
root ALL=(ALL:ALL) ALL
%sudo ALL=(ALL:ALL) NOPASSWD: ALL
@includedir /etc/sudoers.d' >"$tree/etc/sudoers"
chmod 440 "$tree/etc/sudoers"
mkdir -p "$tree/usr/lib"
echo 'NAME=SDK
VERSION=2.0.0
VERSION_ID=2.0.0' >"$tree/usr/lib/os-release"
ln -s ../usr/lib/os-release "$tree/etc/os-release"
tar --numeric-owner --owner=0 --group=0 --sort=name -C "$tree" -cf "$archive.new" .
mv "$archive.new" "$archive"
