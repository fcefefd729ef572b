#!/usr/bin/env python3
"""Serves the files of a folder on a free port of 127.0.0.1, which is printed, with entity tags and ranges.

usage: serve.py FOLDER [MIB]; MIB: no connection gets more than so many MiB a second
"""
import http.server
import os
import re
import sys
import time

folder, rate = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 0
PIECE = 1 << 20


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = os.path.join(folder, os.path.basename(self.path))
        if not os.path.isfile(path):
            self.send_error(404)
            return
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            tag = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
            start, end, total = 0, stat.st_size, stat.st_size
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted and self.headers.get("If-Range", tag) == tag and int(wanted[1]) < total:
                start = int(wanted[1])
                end = min(total, int(wanted[2]) + 1) if wanted[2] else total
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{total}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(end - start))
            self.send_header("ETag", tag)
            self.end_headers()
            self.wfile.flush()
            try:
                while start < end:
                    sent = os.sendfile(self.connection.fileno(), file.fileno(), start, min(PIECE, end - start))
                    start += sent
                    if rate:
                        time.sleep(sent / rate / (1 << 20))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(server.server_port, flush=True)
server.serve_forever()
