# Login shells get the same PATH as commands run by sshd (see sshd_config).
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
