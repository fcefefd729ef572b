"""Judges requests to Packet, and a double's answers, by the models of the vendor's own client (equinix-metal).

Reads lines of JSON with action, body, status and answer; prints complaints. With the words URL TOKEN PROJECT it is the
client itself instead: it lists, looks and deletes by that server.
"""

import json
import sys

import equinix_metal
from equinix_metal import models

ANSWERS = {
    "projects.get": models.Project,
    "ssh-keys.create": models.SSHKey,
    "ssh-keys.list": models.SSHKeyList,
    "devices.create": models.Device,
    "devices.get": models.Device,
    "devices.list": models.DeviceList,
}


def complaints(line):
    action, status = line["action"], line["status"]
    if action == "devices.create":
        body = json.loads(line["body"])
        kind = models.DeviceCreateInMetroInput if "metro" in body else models.DeviceCreateInFacilityInput
        unknown = set(body) - set(kind.model_fields) - {"project_id"}
        if unknown:
            yield f"{action}: unknown {sorted(unknown)}"
        if "facility" in body and "metro" in body:
            yield f"{action}: both a facility and a metro"
        kind.from_json(line["body"])
    elif action == "ssh-keys.create":
        models.SSHKeyCreateInput.from_json(line["body"])
    elif line["body"] and not action.startswith("objects."):
        yield f"{action} has a body"
    if status < 300 and action in ANSWERS:
        ANSWERS[action].from_json(line["answer"])
    elif status >= 400 and not action.startswith("objects."):
        models.Error.from_json(line["answer"])


def client(url, token, project):
    configuration = equinix_metal.Configuration(host=url, api_key={"x_auth_token": token})
    with equinix_metal.ApiClient(configuration) as api:
        assert equinix_metal.ProjectsApi(api).find_project_by_id(project).id == project
        keys = equinix_metal.SSHKeysApi(api)
        made = keys.create_ssh_key(models.SSHKeyCreateInput(label="theirs", key="ssh-ed25519 AAAA x"))
        assert "theirs" in [key.label for key in keys.find_ssh_keys().ssh_keys]
        keys.delete_ssh_key(made.id)
        devices = equinix_metal.DevicesApi(api)
        found = devices.find_project_devices(project, page=1, per_page=1000)
        assert len(found.devices) == found.meta.total == 1, found
        device = devices.find_device_by_id(found.devices[0].id, include=["facility"])
        assert device.state == "active" and device.facility.code == "sjc1", device
        devices.delete_device(device.id)
        assert devices.find_project_devices(project).devices == []


def main():
    if len(sys.argv) > 1:
        return client(*sys.argv[1:])
    for text in sys.stdin:
        line = json.loads(text)
        try:
            for complaint in complaints(line):
                print(complaint)
        except Exception as e:  # whatever the models have against it
            print(f"{line['action']}: {e}\n{line['body']}\n{line['answer']}")


main()
