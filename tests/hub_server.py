"""A stand-in for the parts of the Hugging Face Hub's HTTP API that its client uses, on 127.0.0.1.

Standard library (and yaml for cards). It can be told to fail: see FAULTS. Real bytes are kept on disk; every
upload is checked against its SHA-256 and size. How the real Hub answers is taken from the client's source;
nothing was compared with it. Long because the protocol is: one method for each endpoint, and none that no
test reaches.
"""

import argparse
import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import socket
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".npz", ".onnx", ".tif", ".png")
LFS_SIZE = 1 << 20  # the real Hub: regular up to ~10 MB of text, any binary pattern -> lfs
REGULAR_MAX = 10 << 20

BODIES = {  # answers with code 200 that are none
    "broken json": b'{"id": "me/tiny", "siblings": [{"rfil',
    "other json": b"[1, 2, 3]",
    "null": b"null",
    "web page": b"<!DOCTYPE html><html><body>Log in to the hotel's network</body></html>",
    "nothing": b"",
}
FAULTS = {
    **{name: "an answer with code 200 that is none" for name in BODIES},
    "hang up": "the connection is closed without an answer, and nothing is done",
    "lost answer": "what was asked is done, and the connection closed without an answer",
    "no answer": "the connection is kept, and nothing answered",
    "truncated": "half of the file, then the connection is closed",
    "short": "half of the file, as if that were all",
    "changed": "the file with a byte changed",
    "other etag": "the file with an ETag that is not its own",
    "circle": "a redirect to the same place",
    "elsewhere": "a redirect to another host, which answers",
}
"""What `HubServer.fault` can do beside answering with a code of HTTP."""


class HubError(Exception):
    def __init__(self, status, message, code=None, headers=None, body=None):
        self.status, self.message, self.code = status, message, code
        self.headers, self.body = headers or {}, body


def now():
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def git_blob(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Store:
    """Repos, commits, refs as json in `root`; blobs as files named by sha256."""

    def __init__(self, root, users):
        self.root, self.lock = root, threading.RLock()
        self.users = users  # token -> {"name", "role": "read"|"write", "orgs": [...]}
        os.makedirs(os.path.join(root, "blobs"), exist_ok=True)
        os.makedirs(os.path.join(root, "tmp"), exist_ok=True)
        self.file = os.path.join(root, "repos.json")
        self.repos = json.loads(Path(self.file).read_text()) if os.path.exists(self.file) else {}

    def save(self):
        tmp = self.file + ".tmp"
        with open(tmp, "w") as f:
            json.dump(self.repos, f, indent=1)
        os.replace(tmp, self.file)

    def blob_path(self, sha):
        return os.path.join(self.root, "blobs", sha)

    def put_bytes(self, data):
        sha = hashlib.sha256(data).hexdigest()
        if not os.path.exists(self.blob_path(sha)):
            tmp = os.path.join(self.root, "tmp", secrets.token_hex(8))
            with open(tmp, "wb") as f:
                f.write(data)
            os.replace(tmp, self.blob_path(sha))
        return sha

    def resolve(self, repo, rev):
        rev = unquote(rev)
        if rev in repo["heads"]:
            return repo["heads"][rev]
        if rev in repo["tags"]:
            return repo["tags"][rev]
        if rev.startswith("refs/heads/") and rev[11:] in repo["heads"]:
            return repo["heads"][rev[11:]]
        if rev.startswith("refs/tags/") and rev[10:] in repo["tags"]:
            return repo["tags"][rev[10:]]
        if re.fullmatch(r"[0-9a-f]{4,40}", rev):
            hits = [c for c in repo["commits"] if c.startswith(rev)]
            if len(hits) == 1:
                return hits[0]
        raise HubError(404, f"Invalid rev id: {rev}", "RevisionNotFound")

    def add_commit(self, repo, branch, files, title, message, author, parent):
        oid = hashlib.sha1(
            json.dumps([files, title, parent, time.time_ns()], sort_keys=True).encode()
        ).hexdigest()
        repo["commits"][oid] = dict(
            files=files, title=title, message=message, author=author, parent=parent, date=now()
        )
        repo["heads"][branch] = oid
        repo["lastModified"] = now()
        self.save()
        return oid


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "loopback-hub"
    hub: "HubServer"

    # ------------------------------------------------------------------ plumbing
    def log_message(self, *a):
        pass

    def read_body(self):
        if "chunked" in (self.headers.get("Transfer-Encoding") or "").lower():
            out = bytearray()
            while True:
                n = int(self.rfile.readline().split(b";")[0], 16)
                if n == 0:
                    while self.rfile.readline() not in (b"\r\n", b"\n", b""):
                        pass
                    return bytes(out)
                out += self.rfile.read(n)
                self.rfile.readline()
        n = int(self.headers.get("Content-Length") or 0)
        return self.rfile.read(n) if n else b""

    def reply(self, status=200, obj=None, headers=None, raw=None):
        body = raw if raw is not None else (b"" if obj is None else json.dumps(obj).encode())
        if self.fault == "lost answer":
            return self.hang_up()
        self.send_response(status)
        h = {
            "Content-Type": "application/json; charset=utf-8",
            "X-Request-Id": f"Root={secrets.token_hex(6)}",
        }
        h.update(headers or {})
        h.setdefault("Content-Length", str(len(body)))
        for k, v in h.items():
            self.send_header(k, v)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.status = status

    def hang_up(self):
        """Close the connection: whatever was not sent is lost."""
        self.status, self.close_connection = self.status or 499, True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def send_fault(self):
        """Do what a fault asks for in the place of an answer; False where it only changes one."""
        match self.fault:
            case int():
                self.reply(self.fault, {"error": "injected fault"}, headers=self.fault_headers)
            case name if name in BODIES:
                self.reply(raw=BODIES[name])
            case "hang up":
                self.hang_up()
            case "no answer":
                self.hub.silence.wait(self.hub.patience)
                self.hang_up()
            case "circle":
                self.reply(302, headers={"Location": self.path})
            case "elsewhere":
                self.reply(302, headers={"Location": f"{self.hub.cdn_url}/elsewhere{self.path}"})
            case _:
                return False
        return True

    def elsewhere(self, path):
        """Another host: it must never see a token."""
        if self.headers.get("Authorization"):
            self.hub.leaks.append(self.path)
        self.reply(404, {"error": "this is not the Hub"})

    def send_blob(self, sha, size, headers):
        if self.fault == "other etag":
            headers = headers | {"ETag": '"' + "0" * 40 + '"', "X-Linked-Etag": '"' + "0" * 64 + '"'}
        content = Path(self.hub.store.blob_path(sha)).read_bytes() if self.fault in DAMAGES else b""
        if self.fault == "changed":
            content = content[:-1] + bytes([content[-1] ^ 1])
        elif self.fault == "short":
            content, size = content[: size // 2], size // 2
        elif self.fault == "truncated":
            content = content[: size // 2]
        start, status = 0, 200
        rng = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        end = size - 1
        if rng and size:
            start = int(rng.group(1))
            end = min(int(rng.group(2) or end), end)
            if start > end:
                return self.reply(416, headers={"Content-Range": f"bytes */{size}"})
            status, headers = 206, {**headers, "Content-Range": f"bytes {start}-{end}/{size}"}
        self.send_response(status)
        for k, v in {
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
            **headers,
            "Content-Length": str(end - start + 1 if size else 0),
        }.items():
            self.send_header(k, v)
        self.end_headers()
        self.status = status
        if self.command == "HEAD":
            return
        if self.fault in DAMAGES:
            self.wfile.write(content[start : end + 1])
            return self.hang_up() if self.fault == "truncated" else None
        with open(self.hub.store.blob_path(sha), "rb") as f:
            f.seek(start)
            left = end - start + 1
            while left > 0:
                chunk = f.read(min(1 << 20, left))
                self.wfile.write(chunk)
                left -= len(chunk)

    def dispatch(self):
        self.status, t0 = 0, time.time()
        parts = urlsplit(self.path)
        self.q = parse_qs(parts.query, keep_blank_values=True)
        path = parts.path
        self.body = b"" if path.startswith("/lfs/put/") else self.read_body()
        self.fault, self.fault_headers = self.hub.take_fault(self.command, path)
        try:
            if self.fault and self.send_fault():
                return None
            for method, pattern, fn in ROUTES:
                m = method == ("GET" if self.command == "HEAD" else self.command) and re.fullmatch(
                    pattern, path
                )
                if m:
                    return fn(self, *m.groups())
            raise HubError(404, f"no such endpoint: {self.command} {path}")
        except HubError as e:
            h = dict(e.headers)
            h["X-Error-Message"] = e.message
            if e.code:
                h["X-Error-Code"] = e.code
            self.reply(e.status, e.body or {"error": e.message}, headers=h)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            self.hub.log.append(
                dict(
                    method=self.command,
                    path=self.path,
                    status=self.status,
                    auth=bool(self.headers.get("Authorization")),
                    ms=round(1e3 * (time.time() - t0), 1),
                    ua=(self.headers.get("User-Agent") or "").split(";")[0],
                )
            )

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = dispatch

    # ------------------------------------------------------------------ auth
    def user(self):
        auth = self.headers.get("Authorization") or ""
        if not auth:
            return None
        u = self.hub.store.users.get(auth.removeprefix("Bearer ").strip())
        if u is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return u

    def can_write(self, u, repo_id):
        return u is not None and (repo_id.split("/")[0] in [u["name"], *u.get("orgs", [])])

    def repo(self, repo_id, write=False):
        repo_id = unquote(repo_id)
        u = self.user()
        r = self.hub.store.repos.get(repo_id)
        visible = r is not None and (not r["private"] or self.can_write(u, repo_id))
        if not visible:
            # anonymous callers cannot tell "missing" from "private": 401; known callers get 404
            raise HubError(
                404 if u else 401,
                "Repository not found" if u else "Invalid username or password.",
                "RepoNotFound",
            )
        if write:
            if u is None:
                raise HubError(401, "Invalid username or password.")
            if u.get("role") != "write":
                raise HubError(403, "Forbidden: you must use a write token to upload to a repository.")
            if not self.can_write(u, repo_id):
                raise HubError(403, "Forbidden: you don't have the rights to write to this repository")
        return r

    def json_body(self):
        try:
            return json.loads(self.body or b"{}")
        except ValueError:
            raise HubError(400, "invalid json") from None

    # ------------------------------------------------------------------ repos

    def create_repo(self):
        u, b, st = self.user(), self.json_body(), self.hub.store
        if u is None:
            raise HubError(401, "Invalid username or password.")
        ns = b.get("organization") or u["name"]
        repo_id = f"{ns}/{b['name']}"
        url = f"{self.hub.url}/{repo_id}"
        if u.get("role") != "write" or ns not in [u["name"], *u.get("orgs", [])]:
            raise HubError(403, f'You don\'t have the rights to create a model under the namespace "{ns}"')
        with st.lock:
            if repo_id in st.repos:
                raise HubError(
                    409,
                    "You already created this model repo",
                    body={"error": "You already created this model repo", "url": url, "id": repo_id},
                )
            r = st.repos[repo_id] = dict(
                private=b.get("visibility") == "private",
                gated=False,
                heads={},
                tags={},
                commits={},
                createdAt=now(),
                lastModified=now(),
            )
            sha = st.put_bytes(GITATTRIBUTES)
            files = {
                ".gitattributes": dict(
                    size=len(GITATTRIBUTES), oid=git_blob(GITATTRIBUTES), sha256=sha, lfs=False
                )
            }
            st.add_commit(r, "main", files, "initial commit", "", u["name"], None)
        self.reply(obj={"url": url, "name": repo_id, "id": secrets.token_hex(12)})

    def model_info(self, repo_id, rev="main"):
        r = self.repo(repo_id)
        oid = self.hub.store.resolve(r, rev)
        c = r["commits"][oid]
        blobs = "blobs" in self.q
        card = card_metadata(self.hub.store, c["files"])
        sib = []
        for p, f in sorted(c["files"].items()):
            s = {"rfilename": p}
            if blobs:
                s.update(size=f["size"], blobId=f["oid"])
                if f["lfs"]:
                    s["lfs"] = dict(sha256=f["sha256"], size=f["size"], pointerSize=130)
            sib.append(s)
        rid = unquote(repo_id)
        tags = list(card.get("tags") or []) if card else []
        self.reply(
            obj=dict(
                _id=hashlib.sha1(rid.encode()).hexdigest()[:24],
                id=rid,
                modelId=rid,
                author=rid.split("/")[0],
                sha=oid,
                lastModified=r["lastModified"],
                createdAt=r["createdAt"],
                private=r["private"],
                gated=r["gated"],
                disabled=False,
                downloads=0,
                likes=0,
                tags=tags,
                siblings=sib,
                spaces=[],
                library_name=(card or {}).get("library_name"),
                pipeline_tag=(card or {}).get("pipeline_tag"),
                cardData=card,
                **({"model-index": card["model-index"]} if card and card.get("model-index") else {}),
            )
        )

    def tree(self, repo_id, rev, sub=""):
        r = self.repo(repo_id)
        c = r["commits"][self.hub.store.resolve(r, rev)]
        sub = unquote(sub or "").strip("/")
        recursive = (self.q.get("recursive") or ["false"])[0].lower() in ("true", "1")
        out, seen = [], set()
        for p, f in sorted(c["files"].items()):
            if sub and not p.startswith(sub + "/"):
                continue
            rest = p[len(sub) + 1 :] if sub else p
            parts = rest.split("/")
            for i in range(1, len(parts)):
                d = "/".join(([sub] if sub else []) + parts[:i])
                if d not in seen and (recursive or i == 1):
                    seen.add(d)
                    out.append(
                        dict(type="directory", oid=hashlib.sha1(d.encode()).hexdigest(), size=0, path=d)
                    )
            if recursive or len(parts) == 1:
                out.append(tree_entry(p, f))
        if sub and not out:
            raise HubError(404, f'{sub} does not exist on "{rev}"', "EntryNotFound")
        self.reply(obj=out)

    def refs(self, repo_id):
        r = self.repo(repo_id)
        self.reply(
            obj=dict(
                branches=[dict(name=k, ref=f"refs/heads/{k}", targetCommit=v) for k, v in r["heads"].items()],
                converts=[],
                pullRequests=[],
                tags=[dict(name=k, ref=f"refs/tags/{k}", targetCommit=v) for k, v in r["tags"].items()],
            )
        )

    def make_ref(self, repo_id, kind, name):
        r, b, st = self.repo(repo_id, write=True), self.json_body(), self.hub.store
        with st.lock:
            if kind == "tag":
                tag, oid = b["tag"], st.resolve(r, name)
                if tag in r["tags"]:
                    raise HubError(409, "Tag already exists")
                r["tags"][tag] = oid
            else:
                name = unquote(name)
                if name in r["heads"]:
                    raise HubError(409, f"Branch {name} already exists")
                r["heads"][name] = st.resolve(r, b.get("startingPoint") or "main")
            st.save()
        self.reply(obj={"ok": True})

    def validate_yaml(self):
        content = self.json_body().get("content", "")
        errors, warn = check_card(content)
        self.reply(
            400 if errors else 200,
            {"errors": [{"message": e} for e in errors], "warnings": [{"message": w} for w in warn]},
        )

    # ------------------------------------------------------------------ upload
    def preupload(self, repo_id, rev):
        r, b = self.repo(repo_id, write=True), self.json_body()
        files = r["commits"][self.hub.store.resolve(r, rev)]["files"]
        out = []
        for f in b["files"]:
            sample = base64.b64decode(f.get("sample") or "")
            lfs = f["path"].endswith(LFS_SUFFIXES) or f["size"] > LFS_SIZE or b"\0" in sample
            old = files.get(f["path"])
            out.append(
                dict(
                    path=f["path"],
                    uploadMode="lfs" if lfs else "regular",
                    shouldIgnore=False,
                    oid=(old["sha256"] if old["lfs"] else old["oid"]) if old else None,
                )
            )
        self.reply(obj={"files": out})

    def lfs_batch(self, repo_id):
        self.repo(repo_id, write=True)
        b, st = self.json_body(), self.hub.store
        out = []
        for o in b["objects"]:
            e = dict(oid=o["oid"], size=o["size"])
            if not re.fullmatch("[0-9a-f]{64}", o["oid"]):
                e["error"] = dict(code=422, message="invalid oid")
            elif os.path.exists(st.blob_path(o["oid"])):
                pass  # no "actions": client skips the upload
            else:
                sig = self.hub.sign(f"{o['oid']}.{o['size']}")
                put = f"{self.hub.url}/lfs/put/{o['oid']}/{o['size']}?sig={sig}"
                check = f"{self.hub.url}/{unquote(repo_id)}.git/info/lfs/verify"
                e["actions"] = dict(upload=dict(href=put, header={}), verify=dict(href=check, header={}))
            out.append(e)
        self.reply(
            obj=dict(transfer="basic", objects=out), headers={"Content-Type": "application/vnd.git-lfs+json"}
        )

    def iter_body(self):
        if "chunked" in (self.headers.get("Transfer-Encoding") or "").lower():
            while True:
                n = int(self.rfile.readline().split(b";")[0], 16)
                if n == 0:
                    while self.rfile.readline() not in (b"\r\n", b"\n", b""):
                        pass
                    return
                yield self.rfile.read(n)
                self.rfile.readline()
        else:
            left = int(self.headers.get("Content-Length") or 0)
            while left > 0:
                chunk = self.rfile.read(min(1 << 20, left))
                if not chunk:
                    return
                left -= len(chunk)
                yield chunk

    def lfs_put(self, oid, size):
        """The 'S3' side of basic transfer: unauthenticated, signed url."""
        st = self.hub.store
        h, n, tmp = hashlib.sha256(), 0, os.path.join(st.root, "tmp", secrets.token_hex(8))
        with open(tmp, "wb") as f:
            for chunk in self.iter_body():  # always drain the body, else keep-alive breaks
                h.update(chunk)
                n += len(chunk)
                f.write(chunk)
        try:
            if (self.q.get("sig") or [""])[0] != self.hub.sign(f"{oid}.{size}"):
                raise HubError(403, "bad signature")
            if h.hexdigest() != oid or n != int(size):
                raise HubError(400, f"sha256/size mismatch: got {h.hexdigest()} {n}, want {oid} {size}")
            os.replace(tmp, st.blob_path(oid))
        finally:
            if os.path.exists(tmp):
                os.unlink(tmp)
        self.reply(200, headers={"ETag": f'"{oid[:32]}"'})

    def lfs_verify(self, repo_id):
        self.repo(repo_id, write=True)
        b = self.json_body()
        p = self.hub.store.blob_path(b["oid"])
        if not os.path.exists(p) or os.path.getsize(p) != b["size"]:
            raise HubError(404, "object not found")
        self.reply(obj={"oid": b["oid"], "size": b["size"]})

    def commit(self, repo_id, rev):
        r, st = self.repo(repo_id, write=True), self.hub.store
        branch = unquote(rev)
        propose = bool(self.q.get("create_pr"))
        head, ops = {}, []
        for line in self.body.splitlines():
            if line.strip():
                o = json.loads(line)
                head, ops = (o["value"], ops) if o["key"] == "header" else (head, ops + [o])
        with st.lock:
            if branch not in r["heads"]:
                raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            parent = r["heads"][branch]
            if head.get("parentCommit") and head["parentCommit"] != parent:
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            files = dict(r["commits"][parent]["files"])
            for o in ops:
                v = o["value"]
                p = v["path"]
                if o["key"] == "file":
                    data = base64.b64decode(v["content"])
                    if len(data) > REGULAR_MAX:
                        raise HubError(400, f"{p}: regular files must be smaller than 10 MiB")
                    files[p] = dict(size=len(data), oid=git_blob(data), sha256=st.put_bytes(data), lfs=False)
                elif o["key"] == "lfsFile":
                    blob = st.blob_path(v["oid"])
                    if not os.path.exists(blob):
                        raise HubError(400, f"an LFS pointer points to a file that does not exist: {p}")
                    size = os.path.getsize(blob)
                    if "size" in v and v["size"] != size:
                        raise HubError(400, f"{p}: size mismatch")
                    pointer = (
                        f"version https://git-lfs.github.com/spec/v1\noid sha256:{v['oid']}\nsize {size}\n"
                    )
                    files[p] = dict(size=size, oid=git_blob(pointer.encode()), sha256=v["oid"], lfs=True)
                elif o["key"] == "deletedFile":
                    if files.pop(p, None) is None:
                        raise HubError(404, f"A file with this name doesn't exist: {p}", "EntryNotFound")
                elif o["key"] == "deletedFolder":
                    gone = [k for k in files if k.startswith(p.rstrip("/") + "/")]
                    for k in gone:
                        del files[k]
                    if not gone:
                        raise HubError(404, f"A folder with this name doesn't exist: {p}", "EntryNotFound")
            if propose:
                branch = f"refs/pr/{1 + sum(name.startswith('refs/pr/') for name in r['heads'])}"
            if "README.md" in files:
                errors, _ = check_card(
                    Path(st.blob_path(files["README.md"]["sha256"])).read_text(encoding="utf-8")
                )
                if errors:
                    raise HubError(400, "Invalid metadata in README.md: " + "; ".join(errors))
            oid = st.add_commit(
                r,
                branch,
                files,
                head.get("summary", ""),
                head.get("description", ""),
                self.user()["name"],
                parent,
            )
        url = f"{self.hub.url}/{unquote(repo_id)}"
        done = dict(success=True, commitUrl=f"{url}/commit/{oid}", commitOid=oid, hookOutput="")
        if propose:
            done["pullRequestUrl"] = f"{url}/discussions/{branch.rsplit('/', 1)[1]}"
        self.reply(obj=done)

    # ------------------------------------------------------------------ download
    def resolve(self, repo_id, rev, filename):
        r = self.repo(repo_id)
        oid = self.hub.store.resolve(r, rev)
        if r["gated"] and not self.can_write(self.user(), unquote(repo_id)):
            raise HubError(
                403 if self.user() else 401, f"Access to model {unquote(repo_id)} is restricted.", "GatedRepo"
            )
        f = r["commits"][oid]["files"].get(unquote(filename))
        base = {
            "X-Repo-Commit": oid,
            "Access-Control-Expose-Headers": "X-Repo-Commit,X-Linked-Size,X-Linked-Etag",
        }
        if f is None:
            raise HubError(404, "Entry not found", "EntryNotFound", headers=base)
        if f["lfs"]:
            base.update({"X-Linked-Etag": f'"{f["sha256"]}"', "X-Linked-Size": str(f["size"])})
            exp = int(time.time()) + 600
            sig = self.hub.sign(f"{f['sha256']}.{exp}")
            place = f"{self.hub.cdn_url}/cdn/{f['sha256']}?exp={exp}&sig={sig}"
            return self.reply(302, headers={**base, "Location": place}, raw=b"Found")
        return self.send_blob(f["sha256"], f["size"], {**base, "ETag": f'"{f["oid"]}"'})

    def cdn(self, sha):
        if self.headers.get("Authorization"):
            self.hub.leaks.append(self.path)
            raise HubError(400, "token leaked to the CDN")
        exp = (self.q.get("exp") or ["0"])[0]
        if (self.q.get("sig") or [""])[0] != self.hub.sign(f"{sha}.{exp}") or int(exp) < time.time():
            raise HubError(403, "bad or expired signature")
        self.send_blob(sha, os.path.getsize(self.hub.store.blob_path(sha)), {"ETag": f'"{sha[:32]}"'})


DAMAGES = ("changed", "short", "truncated")
GITATTRIBUTES = "".join(f"*{s} filter=lfs diff=lfs merge=lfs -text\n" for s in LFS_SUFFIXES).encode()


def tree_entry(p, f):
    e = dict(type="file", oid=f["oid"], size=f["size"], path=p)
    if f["lfs"]:
        e["lfs"] = dict(oid=f["sha256"], size=f["size"], pointerSize=130)
    return e


def split_card(content):
    m = re.match(r"\s*---\r?\n(.*?)\r?\n---", content, re.S)
    return m.group(1) if m else None


def card_metadata(store, files):
    if "README.md" not in files:
        return None
    try:
        import yaml

        block = split_card(Path(store.blob_path(files["README.md"]["sha256"])).read_text(encoding="utf-8"))
        return yaml.safe_load(block) if block else None
    except Exception:
        return None


def check_card(content):
    """A small part of what POST /api/validate-yaml checks on the real Hub."""
    block = split_card(content)
    if block is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        import yaml

        data = yaml.safe_load(block)
    except Exception as e:
        return [f"bad yaml: {e}"], []
    errors = []
    if not isinstance(data, dict):
        return ["metadata must be a mapping"], []
    for key, kind in dict(
        license=(str, list),
        library_name=str,
        pipeline_tag=str,
        tags=list,
        datasets=(str, list),
        base_model=(str, list),
    ).items():
        if data.get(key) is not None and not isinstance(data[key], kind):
            errors.append(f'"{key}" must be {kind}')
    for m in data.get("model-index") or []:
        if not m.get("name"):
            errors.append('"model-index[0].name" is required')
        for res in m.get("results") or []:
            for path in (("task", "type"), ("dataset", "type"), ("dataset", "name")):
                if not (res.get(path[0]) or {}).get(path[1]):
                    errors.append(f'"model-index[0].results[].{".".join(path)}" is required')
            for met in res.get("metrics") or [{}]:
                if "type" not in met or "value" not in met:
                    errors.append('"model-index[0].results[].metrics[].type/value" is required')
    return errors, []


R = r"([^/]+/[^/]+)"
ROUTES = [
    ("POST", r"/api/repos/create", Handler.create_repo),
    ("POST", r"/api/validate-yaml", Handler.validate_yaml),
    ("GET", rf"/api/models/{R}", Handler.model_info),
    ("GET", rf"/api/models/{R}/revision/(.+)", Handler.model_info),
    ("GET", rf"/api/models/{R}/tree/([^/]+)(/.*)?", Handler.tree),
    ("GET", rf"/api/models/{R}/refs", Handler.refs),
    ("POST", rf"/api/models/{R}/(tag|branch)/(.+)", Handler.make_ref),
    ("POST", rf"/api/models/{R}/preupload/(.+)", Handler.preupload),
    ("POST", rf"/api/models/{R}/commit/(.+)", Handler.commit),
    ("POST", rf"/{R}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("POST", rf"/{R}\.git/info/lfs/verify", Handler.lfs_verify),
    ("PUT", r"/lfs/put/([0-9a-f]{64})/(\d+)", Handler.lfs_put),
    ("GET", r"/cdn/([0-9a-f]{64})", Handler.cdn),
    ("GET", rf"/{R}/resolve/([^/]+)/(.+)", Handler.resolve),
    ("GET", r"/elsewhere(/.+)", Handler.elsewhere),
]


class HubServer:
    """Serve repositories kept under `root`; `users` maps tokens to names, or to name, role and orgs."""

    def __init__(self, root, users, port=0):
        users = {t: {"name": u, "role": "write"} if isinstance(u, str) else u for t, u in users.items()}
        self.store = Store(root, users)
        self.key, self.log, self.faults, self.leaks = secrets.token_bytes(16), [], [], []
        self.silence, self.patience = threading.Event(), 5.0  # seconds that "no answer" keeps a connection
        handler = type("Bound", (Handler,), {"hub": self})
        # Like the real Hub: large files come from another origin, which must never see a token.
        self.servers = [ThreadingHTTPServer(("127.0.0.1", p), handler) for p in (port, 0)]
        self.url, self.cdn_url = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)

    def sign(self, text):
        return hmac.new(self.key, text.encode(), "sha256").hexdigest()[:32]

    def fault(self, method, pattern, status, times=1, headers=None):
        """Let the next `times` requests of this kind fail: with a code of HTTP, or one of FAULTS."""
        assert isinstance(status, int) or status in FAULTS, status
        self.faults.append([method, pattern, status, times, headers])

    def take_fault(self, method, path):
        """What the request is to fail by, and headers of a code; None where it is not to fail."""
        for fault in self.faults:
            if fault[3] > 0 and re.fullmatch(fault[0], method) and re.search(fault[1], path):
                fault[3] -= 1
                return fault[2], fault[4]
        return None, None

    def files(self, repo_id, revision="main"):
        """Path → sha256 of what a revision holds."""
        repo = self.store.repos[repo_id]
        commit = repo["commits"][self.store.resolve(repo, revision)]
        return {path: file["sha256"] for path, file in commit["files"].items()}

    def start(self):
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
        return self

    def stop(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="a Hub on this machine, to try publishing without an account"
    )
    parser.add_argument("--root", default="hub", help="folder of the repositories (default: hub)")
    parser.add_argument("--user", default="me", help="whose models they are (default: me; token: tok)")
    parser.add_argument("--port", type=int, default=8900)
    given = parser.parse_args()
    served = HubServer(given.root, {"tok": given.user}, given.port).start()
    print(f"export HF_ENDPOINT={served.url} HF_TOKEN=tok HF_HUB_DISABLE_XET=1", flush=True)
    threading.Event().wait()
