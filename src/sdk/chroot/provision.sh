# Run as root inside a new chroot: gives it the user who called. Stops at the first error.
# $1: uid, $2: gid, $3: user, $4: group, $5: full name, $6: home
set -eu
umask 022
uid=$1 gid=$2 user=$3 group=$4 name=$5 home=$6
die() {
	echo "provision: $*" >&2
	exit 1
}
known() { getent "$@" >/dev/null 2>&1; }

for file in group gshadow passwd shadow; do
	[ -e /etc/$file ] || : >/etc/$file
done
chmod 0640 /etc/gshadow /etc/shadow

# A group of that name is taken as it is, whatever its number.
if known group "$group"; then
	gid=$(getent group "$group" | cut -d: -f3)
else
	groupadd -o -g "$gid" "$group"
fi
known passwd "$user" || useradd -o -g "$gid" -u "$uid" -s /bin/bash -d "$home" -m -c "$name" "$user"
[ "$(id -u "$user")" = "$uid" ] || die "the SDK has a user $user of its own, whose number is not $uid"

for extra in kvm portage sudo; do
	# Groups of the system can be elsewhere; members are added to what is in /etc only.
	if known -s usrfiles group $extra && ! known -s files group $extra; then
		getent -s usrfiles group $extra >>/etc/group
	fi
	if known group $extra; then
		gpasswd -a "$user" $extra
	else
		echo "provision: there is no group $extra in this SDK" >&2
	fi
done

mkdir -p /etc/sudoers.d /etc/env.d
cat >/etc/sudoers.d/90_env_keep <<END
Defaults env_keep += "COREOS_BUILD_ID COREOS_OFFICIAL EMAIL GIT_AUTHOR_EMAIL GIT_AUTHOR_NAME GIT_COMMITTER_EMAIL GIT_COMMITTER_NAME GIT_PROXY_COMMAND GIT_SSH RSYNC_PROXY GNUPGHOME GPG_AGENT_INFO SSH_AUTH_SOCK BOTO_PATH GOOGLE_APPLICATION_CREDENTIALS USE FEATURES PORTAGE_USERNAME all_proxy ftp_proxy http_proxy https_proxy no_proxy"
END
chmod 0440 /etc/sudoers.d/90_env_keep
echo "PORTAGE_USERNAME=\"$user\"" >/etc/env.d/90portage_username
if command -v env-update >/dev/null; then
	env-update >/dev/null
fi

mkdir -p "$home"
ln -sfn /mnt/host/source "$home/trunk"
echo '# ~/.bash_logout: run when a login shell ends.' >"$home/.bash_logout"
cat >"$home/.bash_profile" <<'END'
# ~/.bash_profile: run by login shells.
[ -f ~/.bashrc ] && . ~/.bashrc
if [ -d "${CHROOT_CWD:-$HOME/trunk/src/scripts}" ]; then
	cd "${CHROOT_CWD:-$HOME/trunk/src/scripts}"
fi
END
cat >"$home/.bashrc" <<'END'
# ~/.bashrc: run by interactive shells.
case $- in
*i*) ;;
*) return ;;
esac
[ -f ~/trunk/src/scripts/bash_completion ] && . ~/trunk/src/scripts/bash_completion
END
chown -hR "$uid:$gid" "$home"

: >/etc/debian_chroot
