"""Microsoft's client for the classic API, as a judge of our double: classic.py HOST:PORT CERTIFICATE SUBSCRIPTION

CERTIFICATE is a file with key and certificate in PEM. Prints a line of JSON for each thing that was done.
"""

import json
import sys

from azure.common import AzureConflictHttpError, AzureMissingResourceHttpError
from azure.servicemanagement import ServiceManagementService

host, certificate, subscription = sys.argv[1:]
service = ServiceManagementService(subscription, certificate, host=host)


def done(what, operation):
    seen = []
    while not seen or seen[-1].status == "InProgress":
        seen.append(service.get_operation_status(operation.request_id))
    error = seen[-1].error
    print(json.dumps([what, seen[-1].status, len(seen), error and error.message or None]))


done("add", service.add_os_image("label", "https://b/x.vhd", "theirs", "Linux"))
done("replicate", service.replicate_vm_image("theirs", ["East US", "West US"], "offer", "sku", "1.0.0"))
done("unreplicate", service.unreplicate_vm_image("theirs"))
try:
    service.add_os_image("label", "https://b/x.vhd", "theirs", "Linux")
except AzureConflictHttpError as error:
    print(json.dumps(["conflict", "ConflictError" in str(error)]))
try:
    service.get_os_image("missing")
except AzureMissingResourceHttpError as error:
    print(json.dumps(["missing", "ResourceNotFound" in str(error)]))
keys = service.get_storage_account_keys("acc").storage_service_keys
print(json.dumps(["keys", keys.primary, keys.secondary]))
