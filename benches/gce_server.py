"""Pretends to be Google's servers of tokens, objects and images, as far as an upload needs them; see gce.sh.

Each connection is read so many MiB a second, every answer comes 20 ms late. usage: gce_server.py PORT RATE
"""

import asyncio
import base64
import json
import re
import sys
import time
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c

RATE = float(sys.argv[2]) * 2**20
OBJECTS, SESSIONS = {}, {}
IMAGES = [{"name": f"image-{n:04}"} for n in range(1000)]


def described(name):
    content, generation = OBJECTS[name]
    size, crc = content
    return {
        "name": name, "size": str(size), "generation": str(generation), "metageneration": "1",
        "crc32c": base64.b64encode(crc.to_bytes(4, "big")).decode(), "metadata": {"created-by": "mantle"},
        "timeCreated": "2026-01-01T00:00:00Z",
    }  # fmt: skip


def keep(name, parts):
    """Of a content only its length and its checksum are kept, and the parts for what is put together of them."""
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    OBJECTS[name] = ((sum(map(len, parts)), crc), time.time_ns() // 1000)
    PARTS[name] = parts
    return described(name)


PARTS = {}


def answer(method, path, query, headers, body):
    if path in ("/ready", "/reset"):
        OBJECTS.clear(), SESSIONS.clear(), PARTS.clear()
        return 200, {}, {}
    if path == "/token":
        return 200, {"access_token": "t", "expires_in": 3600}, {}
    if path.endswith("/global/images"):
        if method == "POST":
            return 200, {"name": "o", "status": "DONE"}, {}
        return 200, {"items": IMAGES}, {}
    if path.startswith("/upload/"):
        kind = query.get("uploadType", [""])[0]
        if method == "PUT":
            session = SESSIONS[query["upload_id"][0]]
            total = int(headers["content-range"].rsplit("/", 1)[1])
            session["parts"].append(body)
            got = sum(map(len, session["parts"]))
            if got < total:
                return 308, None, {"Range": f"bytes=0-{got - 1}"}
            return 200, keep(session["name"], session["parts"]), {}
        if kind == "resumable":
            key = str(len(SESSIONS))
            SESSIONS[key] = {"name": json.loads(body)["name"], "parts": []}
            return 200, {}, {"Location": f"http://{headers['host']}{path}?uploadType=resumable&upload_id={key}"}
        boundary = re.search("boundary=(.*)", headers["content-type"])[1].encode()
        _, text, media, _ = body.split(b"--" + boundary)
        name = json.loads(text.split(b"\r\n\r\n", 1)[1])["name"]
        return 200, keep(name, [media.split(b"\r\n\r\n", 1)[1][:-2]]), {}
    names = path.split("/o/", 1)
    if len(names) == 1:
        prefix = query.get("prefix", [""])[0]
        return 200, {"items": [described(n) for n in OBJECTS if n.startswith(prefix)]}, {}
    name = unquote(names[1])
    if name.endswith("/compose"):
        order = json.loads(body)
        return 200, keep(name[: -len("/compose")], [p for s in order["sourceObjects"] for p in PARTS[s["name"]]]), {}
    if name not in OBJECTS:
        return 404, {"error": {"code": 404, "message": "Not Found", "errors": [{"reason": "notFound"}]}}, {}
    if method == "DELETE":
        del OBJECTS[name], PARTS[name]
        return 204, None, {}
    return 200, described(name), {}


async def read(reader, length):
    """A body, no faster than a connection is."""
    parts, got, begun = [], 0, time.monotonic()
    while got < length:
        part = await reader.read(min(length - got, 1 << 18))
        if not part:
            raise EOFError
        parts.append(part)
        got += len(part)
        ahead = got / RATE - (time.monotonic() - begun)
        if ahead > 0:
            await asyncio.sleep(ahead)
    return b"".join(parts)


async def serve(reader, writer):
    try:
        while line := await reader.readline():
            method, target, _ = line.decode().split()
            headers = {}
            while (line := (await reader.readline()).decode().strip()) != "":
                name, value = line.split(":", 1)
                headers[name.lower()] = value.strip()
            body = await read(reader, int(headers.get("content-length", 0)))
            url = urlsplit(target)
            status, value, more = answer(method, url.path, parse_qs(url.query), headers, body)
            await asyncio.sleep(0.02)
            text = b"" if value is None else json.dumps(value).encode()
            lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(text)}"]
            lines += [f"{name}: {value}" for name, value in more.items()]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + text)
            await writer.drain()
    except (EOFError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()


asyncio.run(main())
