#!/bin/bash
## kola:
##   description: "@NAME@"
##   # Its machine is its own, it may reboot it; with false it shares one with others.
##   exclusive: true
##   timeoutMin: 10
##   tags: ""
# Runs on the machine, as root. The test has passed when this ends with status 0; what is printed is in the journal.
set -euo pipefail

# Files of the folder "data" beside this script are in $KOLA_EXT_DATA.
case "${AUTOPKGTEST_REBOOT_MARK:-}" in
"")
    systemctl is-active --quiet multi-user.target || echo "multi-user.target is not reached yet"
    grep -q '^ID=' /etc/os-release
    # To go on after a reboot: /tmp/autopkgtest-reboot rebooted
    ;;
rebooted)
    echo "here again"
    ;;
esac
echo "ok"
