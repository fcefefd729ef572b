"""Reads back what is at a vSphere, by VMware's own client library, pyvmomi.

Called with host, port (of plain HTTP) and user; reads the password. Prints a JSON object: machines by name.
"""

import json
import sys

from pyVmomi import SoapStubAdapter, vim


def machine(vm):
    ports = [d for d in vm.config.hardware.device if isinstance(d, vim.vm.device.VirtualSerialPort)]
    return {
        "power": vm.runtime.powerState,
        "settings": {option.key: option.value for option in vm.config.extraConfig},
        "serial": [port.backing.fileName for port in ports],
        "addresses": [address for nic in vm.guest.net for address in nic.ipAddress],
        "networks": [network.name for network in vm.network],
    }


def main():
    host, port, user = sys.argv[1:4]
    # A negative port is one without TLS.
    stub = SoapStubAdapter(host, -int(port), version="vim.version.version11", path="/sdk")
    content = vim.ServiceInstance("ServiceInstance", stub).RetrieveContent()
    content.sessionManager.Login(user, sys.stdin.read().strip(), None)
    try:
        view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
        print(json.dumps({vm.name: machine(vm) for vm in view.view}))
    finally:
        content.sessionManager.Logout()


main()
