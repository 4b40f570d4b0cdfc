"""What object_store calls of Google Cloud Storage's XML API, from memory, on a free port of the loopback.

    gcs.py BUCKET ISSUER

Requests must carry a token that ISSUER signed; the signature itself is not checked. Objects: PUT (also only where there is
none), GET and HEAD with ranges, DELETE. Uploads in parts: begin, part, complete, give up. Listing by prefix in pages of 1000.
Prints its address first and ends with standard input.
"""

import base64
import hashlib
import json
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

BUCKET, ISSUER = sys.argv[1:]
PAGE = 1000

lock = threading.Lock()
objects = {}  # key -> (bytes, ETag, generation, time of change)
uploads = {}  # upload id -> (key, {part number: bytes})
counter = iter(range(1, 1 << 62))


def etag(body):
    return '"%s"' % hashlib.md5(body).hexdigest()


def store(key, body, tag=None):
    objects[key] = (body, tag or etag(body), next(counter), time.time())
    return objects[key]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status, code):
        self.answer(status, b"<Error><Code>%s</Code><Message>%s</Message></Error>" % (code.encode(), code.encode()))

    def handle_request(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.allowed():
            return self.error(401, "AuthenticationRequired")
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        bucket, _, key = parts.path.lstrip("/").partition("/")
        if unquote(bucket) != BUCKET:
            return self.error(404, "NoSuchBucket")
        key = unquote(key)
        with lock:
            if not key:
                return self.list(query)
            if "uploads" in query or "uploadId" in query:
                return self.upload(key, query, body)
            return getattr(self, "object_" + self.command)(key, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request

    def allowed(self):
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        try:
            claims = token.split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        except (IndexError, ValueError):
            return False
        return scheme == "Bearer" and claims["iss"] == ISSUER and claims["exp"] > time.time()

    def object_GET(self, key, _):
        if key not in objects:
            return self.error(404, "NoSuchKey")
        body, tag, generation, changed = objects[key]
        headers = {"ETag": tag, "x-goog-generation": generation, "Last-Modified": formatdate(changed, usegmt=True)}
        wanted = self.headers.get("Range")
        if not wanted:
            return self.answer(200, body, headers)
        start, end = wanted.removeprefix("bytes=").split("-")
        start, end = int(start), min(int(end), len(body) - 1)
        if start > end:
            return self.error(416, "InvalidRange")
        headers["Content-Range"] = "bytes %d-%d/%d" % (start, end, len(body))
        self.answer(206, body[start : end + 1], headers)

    object_HEAD = object_GET

    def object_PUT(self, key, body):
        if self.headers.get("x-goog-if-generation-match") == "0" and key in objects:
            return self.error(412, "PreconditionFailed")
        _, tag, generation, _ = store(key, body)
        self.answer(200, headers={"ETag": tag, "x-goog-generation": generation})

    def object_DELETE(self, key, _):
        if objects.pop(key, None) is None:
            return self.error(404, "NoSuchKey")
        self.answer(204)

    def upload(self, key, query, body):
        if "uploads" in query:
            name = "upload-%d" % next(counter)
            uploads[name] = (key, {})
            text = "<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>" % name
            return self.answer(200, text.encode())
        name = query["uploadId"]
        if name not in uploads or uploads[name][0] != key:
            return self.error(404, "NoSuchUpload")
        parts = uploads[name][1]
        if self.command == "PUT":
            parts[int(query["partNumber"])] = body
            return self.answer(200, headers={"ETag": etag(body)})
        del uploads[name]
        if self.command == "DELETE":
            return self.answer(204)
        numbers = [int(part.find("PartNumber").text) for part in ElementTree.fromstring(body).iter("Part")]
        tag = '"parts-%d"' % len(numbers)
        _, tag, generation, _ = store(key, b"".join(parts[number] for number in numbers), tag)
        text = "<CompleteMultipartUploadResult><ETag>%s</ETag></CompleteMultipartUploadResult>" % escape(tag)
        self.answer(200, text.encode(), {"x-goog-generation": generation})

    def list(self, query):
        after = max(query.get("continuation-token", ""), query.get("start-after", ""))
        keys = sorted(key for key in objects if key.startswith(query.get("prefix", "")) and key > after)
        page = keys[: int(query.get("max-keys", PAGE))]
        text = "".join(self.entry(key) for key in page)
        if len(page) < len(keys):
            text += "<NextContinuationToken>%s</NextContinuationToken>" % escape(page[-1])
        self.answer(200, ("<ListBucketResult>%s</ListBucketResult>" % text).encode())

    @staticmethod
    def entry(key):
        body, tag, _, changed = objects[key]
        changed = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(changed))
        shown = (escape(key), len(body), changed, escape(tag))
        return "<Contents><Key>%s</Key><Size>%d</Size><LastModified>%s</LastModified><ETag>%s</ETag></Contents>" % shown


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("http://127.0.0.1:%d" % server.server_port, flush=True)
sys.stdin.read()
