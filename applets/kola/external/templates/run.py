#!/usr/bin/env python3
## kola:
##   description: "@NAME@"
##   # Its machine is its own, it may reboot it; with false it shares one with others.
##   exclusive: true
##   timeoutMin: 10
##   tags: ""
"""Runs on the machine, as root; it needs Python there. An exception fails the test; what is printed is in the journal.

Files of the folder "data" beside this program are in os.environ["KOLA_EXT_DATA"]. After `/tmp/autopkgtest-reboot MARK`
it begins anew with AUTOPKGTEST_REBOOT_MARK=MARK in the environment.
"""
import os
import pathlib


def main():
    assert os.geteuid() == 0, "not root"
    release = pathlib.Path("/etc/os-release").read_text()
    assert "ID=" in release, release
    print("ok", os.environ.get("AUTOPKGTEST_REBOOT_MARK", "first boot"))


main()
