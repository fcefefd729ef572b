"""Microsoft's client for blobs, as a judge: blobs.py URL KEY COMMAND ...

read CONTAINER [FILE BLOB]...   a line of JSON for each page blob in a container; the content of some goes to files
others CONTAINER                makes text.vhd, a block blob, and foreign.vhd, a page blob that says nothing of itself;
                                prints two shared access signatures for the account's blobs: a good one, one that is over
"""

import base64
import datetime
import hashlib
import json
import sys

from azure.storage.blob import BlobServiceClient, generate_account_sas

url, key, command, *words = sys.argv[1:]
account = url.rstrip("/").rsplit("/", 1)[1]
service = BlobServiceClient(url, credential={"account_name": account, "account_key": key})

if command == "read":
    container = service.get_container_client(words[0])
    for found in container.list_blobs():
        blob = container.get_blob_client(found.name)
        content = blob.download_blob().readall()
        properties = blob.get_blob_properties()
        for file, name in zip(words[1::2], words[2::2]):
            if name == found.name:
                with open(file, "wb") as out:
                    out.write(content)
        md5 = properties.content_settings.content_md5
        print(json.dumps({
            "name": found.name,
            "size": len(content),
            "sealed": base64.b64encode(md5).decode() if md5 else None,
            "md5": base64.b64encode(hashlib.md5(content).digest()).decode(),
            "ranges": [[r.start, r.end + 1] for r in blob.list_page_ranges()],
            "metadata": properties.metadata,
        }))
elif command == "others":
    container = service.get_container_client(words[0])
    container.get_blob_client("text.vhd").upload_blob(b"text")
    container.get_blob_client("foreign.vhd").create_page_blob(1024)
    now = datetime.datetime.now(datetime.timezone.utc)
    for hours in [2, -2]:
        expiry = now + datetime.timedelta(hours=hours)
        print(generate_account_sas(account, key, resource_types="co", permission="rwdlac", expiry=expiry))
