# Variant update: what a machine needs to be updated, and what it is updated to. Sourced by build.sh.

# make_updatable OUT: into OUT/root go the kernel that goes with its /usr, and the key of updates; OUT/update.key is that
# key's private half.
make_updatable() {
	local out=$1 usr=$1/root/usr
	install -D -m 644 "$out/vmlinuz" "$usr/boot/vmlinuz"
	install -D -m 644 "$out/initrd.zst" "$usr/boot/initrd"
	openssl genrsa -out "$out/update.key" 2048
	mkdir -p "$usr/share/update-client" "$usr/share/update_engine"
	openssl rsa -in "$out/update.key" -pubout -out "$usr/share/update-client/key.pem"
	# Of an image that is signed by others: kola mounts its own over it.
	echo "the key of the image" >"$usr/share/update_engine/update-payload-key.pub.pem"
}

# make_next OUT USR: OUT/usr-next.img becomes a later version of the file system USR, of the same size.
make_next() {
	local out=$1 size release=$1/root/usr/lib/os-release
	size=$(($(stat -c %s "$2") / mib))
	cp -p "$release" "$out/release"
	sed -i "s/$version/${version%.*}.1/" "$release"
	make_usr "$out/root" "$size" "$out/usr-next.img"
	mv "$out/release" "$release"
}
