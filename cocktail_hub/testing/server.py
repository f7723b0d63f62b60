"""The HTTP side of the loopback Hub."""
# ruff: noqa
# mypy: ignore-errors
from __future__ import annotations
import base64, dataclasses, datetime as dt, email.utils, fnmatch, hashlib, json, os, re, struct, sys, tempfile, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

SHA = re.compile(r"^[0-9a-f]{40}$")
LFS_EXT = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".npz", ".npy", ".h5", ".parquet", ".zip", ".pkl", ".model")
TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}


def now(): return dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
def git_blob_oid(b: bytes): return hashlib.sha1(b"blob %d\0" % len(b) + b).hexdigest()
def lfs_pointer(oid, size): return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


class HubError(Exception):
    def __init__(self, status, code=None, msg="", headers=None):
        self.status, self.code, self.msg, self.headers = status, code, msg, headers or {}


@dataclasses.dataclass(frozen=True)
class Request:
    """One request that the Hub answered."""
    method: str
    path: str
    status: int
    headers: dict


class Repo:
    def __init__(self, type_, rid, private=False):
        self.type, self.id, self.private, self.gated, self.access = type_, rid, private, False, set()
        self.commits, self.refs, self.tags, self.prs = {}, {}, {}, {}
        self.created = self.modified = now()
        ga = "".join(f"*{e} filter=lfs diff=lfs merge=lfs -text\n" for e in LFS_EXT).encode()
        self.commit({".gitattributes": ga}, {}, "initial commit", "", rid.split("/")[0], "main", None)

    def commit(self, tree_add, deletes, title, desc, author, branch, parent, tree=None):
        tree = dict(self.commits[parent]["tree"]) if parent else {}
        for p in deletes:
            if p.endswith("/"):
                hit = [k for k in tree if k.startswith(p)]
            else:
                hit = [p] if p in tree else []
            if not hit: raise HubError(404, "EntryNotFound", f"A file with this name doesn't exist: {p}")
            for k in hit: del tree[k]
        for p, v in tree_add.items():
            tree[p] = {"oid": git_blob_oid(v), "size": len(v), "data": v} if isinstance(v, bytes) else v
        date = now()
        sha = hashlib.sha1(json.dumps([parent, title, desc, author, date, time.time_ns(), sorted((k, e["oid"]) for k, e in tree.items())]).encode()).hexdigest()
        self.commits[sha] = {"id": sha, "parent": parent, "tree": tree, "title": title, "message": desc, "author": author, "date": date}
        self.refs[f"refs/heads/{branch}" if not branch.startswith("refs/") else branch] = sha
        self.modified = date
        return sha

    def resolve(self, rev):
        for k in (f"refs/heads/{rev}", f"refs/tags/{rev}", rev, f"refs/{rev}"):
            if k in self.refs: return self.refs[k]
            if k in self.tags: return self.tags[k]
        if SHA.match(rev) and rev in self.commits: return rev
        if re.fullmatch(r"[0-9a-f]{7,39}", rev):
            m = [c for c in self.commits if c.startswith(rev)]
            if len(m) == 1: return m[0]
        raise HubError(404, "RevisionNotFound", f"Invalid rev id: {rev}")


class Hub:
    """State shared by all requests."""
    def __init__(self, xet=False, lfs_threshold=10 * 1024 * 1024, multipart_chunk=None, page=1000):
        self.lock = threading.RLock()
        self.repos, self.lfs, self.parts = {}, {}, {}
        self.users = {}      # token -> dict(name, role, orgs)
        self.xet, self.lfs_threshold, self.multipart_chunk, self.page = xet, lfs_threshold, multipart_chunk, page
        self.log, self.faults = [], []   # faults: list of dict(match, status, headers, times)
        self.xet_of_sha, self.xet_files, self.xorbs = {}, {}, {}

    def add_user(self, name, token, role="write", orgs=()):
        self.users[token] = {"name": name, "role": role, "orgs": list(orgs)}

    # -- xet: sha256 -> (xet hash, size, terms), learnt from uploaded shards ---------------------------
    def read_shard(self, b):
        off = 48                                    # 48-byte MDBShardFileHeader, then file-info blocks
        while b[off:off + 32] != b"\xff" * 32:
            h = _xhex(b[off:off + 32]); flags, n = struct.unpack_from("<II", b, off + 32); terms = []
            for i in range(n):
                o = off + 48 + i * 48; _, ln, s, e = struct.unpack_from("<4I", b, o + 32); terms.append((_xhex(b[o:o + 32]), ln, s, e))
            off += 48 + 48 * n + (48 * n if flags & 0x80000000 else 0)
            if any(t[0] not in self.xorbs for t in terms): raise HubError(400, None, "shard refers to an unknown xorb")
            self.xet_files[h] = terms
            if flags & 0x40000000:
                self.xet_of_sha[_xhex(b[off:off + 32])] = (h, sum(t[1] for t in terms)); off += 48

    def put_xorb(self, h, b):
        off, bounds = 0, [0]                        # chunk header: u8 version, u24 packed, u8 scheme, u24 unpacked
        while off + 8 <= len(b) and b[off:off + 7] != b"XETBLOB":
            off += 8 + int.from_bytes(b[off + 1:off + 4], "little"); bounds.append(off)
        new = h not in self.xorbs; self.xorbs[h] = (b, bounds)
        return new

    def reconstruction(self, h, base, lo=0, hi=None):
        if h not in self.xet_files: raise HubError(404)
        terms, span, fetch, pos, skip = [], {}, {}, 0, None
        total = sum(t[1] for t in self.xet_files[h]); hi = total if hi is None else min(hi, total)
        if lo >= total and total: raise HubError(416)
        for x, ln, s, e in self.xet_files[h]:
            if pos + ln > lo and pos < hi:
                if skip is None: skip = lo - pos
                terms.append({"hash": x, "unpacked_length": ln, "range": {"start": s, "end": e}})
                span.setdefault(x, []).append((s, e))
            pos += ln
        for x, rs in span.items():                  # fetch ranges of one xorb must not overlap: merge them
            merged = []
            for s, e in sorted(rs):
                if merged and s <= merged[-1][1]: merged[-1][1] = max(e, merged[-1][1])
                else: merged.append([s, e])
            bd = self.xorbs[x][1]
            fetch[x] = [{"range": {"start": s, "end": e}, "url": f"{base}/xorb/{x}", "url_range": {"start": bd[s], "end": bd[e] - 1}} for s, e in merged]
        return {"offset_into_first_range": skip or 0, "terms": terms, "fetch_info": fetch}

    def size_of(self, sha):
        return len(self.lfs[sha]) if sha in self.lfs else self.xet_of_sha[sha][1] if sha in self.xet_of_sha else None

    def materialize(self, sha):
        """Bytes for an LFS oid, for callers that do not speak Xet; hf_xet reassembles them from our own CAS."""
        if sha in self.lfs or sha not in self.xet_of_sha: return self.lfs.get(sha)
        import hf_xet
        xh, size = self.xet_of_sha[sha]
        with tempfile.TemporaryDirectory() as d:
            with hf_xet.XetSession().new_file_download_group(endpoint=self.cas_url, token="x", token_expiry_unix_secs=int(time.time()) + 3600) as g:
                g.start_download_file(hf_xet.XetFileInfo(xh, size), f"{d}/o")
            data = Path(f"{d}/o").read_bytes()
        if hashlib.sha256(data).hexdigest() != sha: raise HubError(500, None, "xet content mismatch")
        self.lfs[sha] = data
        return data


def _xhex(b): return "".join(f"{w:016x}" for w in struct.unpack("<4Q", b))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    def log_message(self, *a): pass

    # -- plumbing ------------------------------------------------------------------------------------
    def body(self):
        if self._body is None:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                out = b""
                while True:
                    n = int(self.rfile.readline().split(b";")[0], 16)
                    chunk = self.rfile.read(n); self.rfile.readline()
                    if not n: break
                    out += chunk
                self._body = out
            else:
                self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return self._body
    def json(self): return json.loads(self.body() or b"{}")

    def reply(self, status, obj=None, headers=None, raw=None, ctype="application/json; charset=utf-8"):
        data = raw if raw is not None else (b"" if obj is None else json.dumps(obj).encode())
        self.body()                                   # always drain the request, or keep-alive breaks
        self.send_response(status)
        h = {"Content-Type": ctype, "Content-Length": str(len(data)), "X-Request-Id": self.reqid, **(headers or {})}
        for k, v in h.items(): self.send_header(k, str(v))
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(data)
        self.hub.log.append(Request(self.command, self.path, status, {k.lower(): v for k, v in self.headers.items()}))

    def handle_any(self):
        self._body, self.reqid = None, "Root=" + (self.headers.get("X-Amzn-Trace-Id") or "x")
        self.base = f"http://{self.headers.get('Host')}"
        u = urlsplit(self.path)
        self.upath, self.q = u.path, parse_qs(u.query, keep_blank_values=True)
        try:
            for f in self.hub.faults:
                if f["times"] > 0 and re.search(f["match"], f"{self.command} {self.path}"):
                    f["times"] -= 1
                    return self.reply(f["status"], {"error": "injected"}, f.get("headers"))
            self.route()
        except HubError as e:
            h = dict(e.headers)
            if e.code: h["X-Error-Code"] = e.code
            if e.msg: h["X-Error-Message"] = e.msg.encode("ascii", "replace").decode()
            self.reply(e.status, {"error": e.msg}, h)
        except BrokenPipeError: pass
        except Exception as e:  # noqa
            import traceback; traceback.print_exc()
            self.reply(500, {"error": repr(e)})
    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any

    def user(self, required=False):
        a = self.headers.get("Authorization", "")
        if a.startswith("Bearer "):
            u = self.hub.users.get(a[7:])
            if not u: raise HubError(401, None, "Invalid credentials in Authorization header")
            return u
        if required: raise HubError(401, None, "Invalid username or password.")
        return None

    def can_write(self, u, ns): return u and u["role"] == "write" and (ns == u["name"] or ns in u["orgs"])

    def repo(self, type_, rid, write=False, content=False):
        u, r = self.user(), self.hub.repos.get((type_, rid))
        member = u and r and (rid.split("/")[0] == u["name"] or rid.split("/")[0] in u["orgs"])
        if r is None or (r.private and not member):
            # the Hub says 401 to anonymous callers and 404 to logged-in ones
            raise HubError(404 if u else 401, "RepoNotFound", "Repository not found")
        if content and r.gated and not (member or (u and u["name"] in r.access)):
            if not u: raise HubError(401, "GatedRepo", f"Access to {r.type} {rid} is restricted. You must have access to it and be authenticated to access it. Please log in.")
            raise HubError(403, "GatedRepo", f"Access to {r.type} {rid} is restricted and you are not in the authorized list. Visit {self.base}/{rid} to ask for access.")
        if write and not self.can_write(u, rid.split("/")[0]):
            if not u: raise HubError(401, None, "Invalid username or password.")
            raise HubError(403, None, "Forbidden: you must use a write token / have write access to this repo")
        return r

    # -- routes --------------------------------------------------------------------------------------
    def route(self):
        p, m, hub = self.upath, self.command, self.hub
        seg = p.strip("/").split("/")
        if p == "/api/whoami-v2":
            u = self.user(required=True)
            return self.reply(200, {"type": "user", "id": hashlib.md5(u["name"].encode()).hexdigest()[:24], "name": u["name"], "fullname": u["name"], "email": f"{u['name']}@example.invalid", "isPro": False,
                                    "orgs": [{"type": "org", "name": o, "roleInOrg": "write"} for o in u["orgs"]],
                                    "auth": {"type": "access_token", "accessToken": {"displayName": "t", "role": u["role"], "createdAt": now()}}})
        if p == "/api/agent-harnesses": return self.reply(200, {"standardEnvVars": [], "harnesses": {}})
        if p.startswith("/api/telemetry"): return self.reply(200)
        if p == "/api/validate-yaml": return self.validate_yaml()
        if p == "/api/repos/create" and m == "POST": return self.create_repo()
        if p == "/api/repos/delete" and m == "DELETE":
            d = self.json(); rid = f"{d['organization']}/{d['name']}" if d.get("organization") else f"{self.user(True)['name']}/{d['name']}"
            r = self.repo(d.get("type") or "model", rid, write=True); del hub.repos[(r.type, rid)]; return self.reply(200)
        if p == "/api/repos/move" and m == "POST":
            d = self.json(); r = self.repo(d.get("type") or "model", d["fromRepo"], write=True)
            hub.repos[(r.type, d["toRepo"])] = hub.repos.pop((r.type, r.id)); r.id = d["toRepo"]; return self.reply(200)
        if seg[0] == "api" and len(seg) == 2 and seg[1] in TYPES: return self.list_repos(TYPES[seg[1]])
        if p.startswith("/api/resolve-cache/"):
            t = TYPES[seg[2]]
            i = next(i for i in range(3, len(seg)) if SHA.match(seg[i]))
            return self.send_file(self.repo(t, "/".join(seg[3:i]), content=True), seg[i], unquote("/".join(seg[i + 1:])))
        if seg[0] == "api" and seg[1] in TYPES: return self.repo_api(TYPES[seg[1]], seg[2:])
        if seg[0] == "_cas": return self.cas(seg[1:])
        if seg[0] == "_lfs": return self.lfs_object(seg[1], seg[2:])
        t = "model"
        if seg[0] in ("datasets", "spaces"): t, seg = TYPES[seg[0]], seg[1:]
        if p.endswith(".git/info/lfs/objects/batch") and m == "POST": return self.lfs_batch(t, p.split(".git/")[0].strip("/").removeprefix(t + "s/"))
        for i in (1, 2):
            if len(seg) > i + 1 and seg[i] in ("resolve", "raw"):
                return self.resolve(t, "/".join(seg[:i]), unquote(seg[i + 1]), unquote("/".join(seg[i + 2:])))
        raise HubError(404, None, "Sorry, we can't find the page you are looking for.")

    def validate_yaml(self):
        import yaml
        c = self.json().get("content", ""); mt = re.match(r"^\s*---\r?\n(.*?)\r?\n---", c, re.S); errs, warns = [], []
        if mt:
            try:
                d = yaml.safe_load(mt[1]) or {}
                if "license" in d and not re.fullmatch(r"[a-z0-9.\-+]+", str(d["license"])): errs.append({"message": '"license" must be one of [...]'})
                for k in ("tags",):
                    if k in d and not isinstance(d[k], list): errs.append({"message": f'"{k}" must be an array'})
            except yaml.YAMLError as e: errs.append({"message": str(e)})
        else: warns.append({"message": "empty or missing yaml metadata in repo card"})
        return self.reply(400 if errs else 200, {"errors": errs, "warnings": warns})

    def create_repo(self):
        u, d = self.user(required=True), self.json()
        ns = d.get("organization") or u["name"]; rid, t = f"{ns}/{d['name']}", d.get("type") or "model"
        if not self.can_write(u, ns): raise HubError(403, None, f"You don't have the rights to create a {t} under the namespace \"{ns}\"")
        url = f"{self.base}/{'' if t == 'model' else t + 's/'}{rid}"
        with self.hub.lock:
            if (t, rid) in self.hub.repos: return self.reply(409, {"error": "You already created this model repo", "url": url}, {"X-Error-Message": f"You already created this {t} repo"})
            self.hub.repos[(t, rid)] = Repo(t, rid, d.get("private") or d.get("visibility") == "private")
        return self.reply(200, {"url": url, "name": rid, "id": "0" * 24})

    def visible(self, r):
        u = self.user(); return not r.private or (u and r.id.split("/")[0] in [u["name"], *u["orgs"]])

    def list_repos(self, t):
        g = lambda k: (self.q.get(k) or [None])[0]
        rs = [r for (tt, _), r in sorted(self.hub.repos.items()) if tt == t and self.visible(r)]
        if g("author"): rs = [r for r in rs if r.id.split("/")[0] == g("author")]
        if g("search"): rs = [r for r in rs if g("search").lower() in r.id.lower()]
        for f in self.q.get("filter", []): rs = [r for r in rs if f in self.info(r, r.resolve("main"), False)["tags"]]
        start, lim = int(g("cursor") or 0), min(int(g("limit") or self.hub.page), self.hub.page)
        items = [self.info(r, r.resolve("main"), False) for r in rs[start:start + lim]]
        for i in items: i.pop("siblings", None)
        h = {}
        if start + lim < len(rs) and not g("limit"): h["Link"] = f'<{self.base}/api/{t}s?cursor={start + lim}>; rel="next"'
        return self.reply(200, items, h)

    def entry_json(self, r, path, e, expand=False, commit=None):
        d = {"type": "file", "oid": e["oid"], "size": e["size"], "path": path}
        if e.get("lfs"):
            d["lfs"] = {"oid": e["lfs"], "size": e["size"], "pointerSize": len(lfs_pointer(e["lfs"], e["size"]))}
            if e.get("xet"): d["xetHash"] = e["xet"]
        if expand and commit:
            c = r.commits[commit]; d["lastCommit"] = {"id": c["id"], "title": c["title"], "date": c["date"]}
            d["securityFileStatus"] = {"status": "unscanned", "avScan": None, "pickleImportScan": None}
        return d

    def data_of(self, e): return e["data"] if "data" in e else self.hub.materialize(e["lfs"])

    def info(self, r, sha, blobs):
        tree, tags, card, cfg = r.commits[sha]["tree"], [], None, None
        if "README.md" in tree:
            import yaml
            mt = re.match(r"^\s*---\r?\n(.*?)\r?\n---", self.data_of(tree["README.md"]).decode("utf8", "replace"), re.S)
            try: card = yaml.safe_load(mt[1]) if mt else {}
            except yaml.YAMLError: card = {}
            tags += [str(t) for t in (card.get("tags") or [])]
            if card.get("license"): tags.append(f"license:{card['license']}")
            bm = card.get("base_model"); bm = [bm] if isinstance(bm, str) else (bm or [])
            tags += [f"base_model:{b}" for b in bm] + ([f"base_model:{card.get('base_model_relation', 'finetune')}:{b}" for b in bm])
        if "config.json" in tree:
            try: c = json.loads(self.data_of(tree["config.json"])); cfg = {k: c[k] for k in ("architectures", "model_type") if k in c}
            except Exception: cfg = None
        d = {"_id": "0" * 24, "id": r.id, "modelId": r.id, "author": r.id.split("/")[0], "sha": sha, "lastModified": r.commits[sha]["date"], "createdAt": r.created, "private": r.private,
             "gated": r.gated, "disabled": False, "downloads": 0, "likes": 0, "tags": tags, "spaces": [], "usedStorage": sum(e["size"] for e in tree.values())}
        if card is not None:
            d["cardData"] = card
            for k in ("library_name", "pipeline_tag"):
                if card.get(k): d[k] = card[k]
        if cfg: d["config"] = cfg
        sib = []
        for p, e in sorted(tree.items()):
            s = {"rfilename": p}
            if blobs:
                s.update(size=e["size"], blobId=e["oid"])
                if e.get("lfs"): s["lfs"] = {"sha256": e["lfs"], "size": e["size"], "pointerSize": len(lfs_pointer(e["lfs"], e["size"]))}
            sib.append(s)
        d["siblings"] = sib
        st = self.safetensors(tree)
        if st: d["safetensors"] = st
        return d

    def safetensors(self, tree):
        names = [p for p in tree if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", p)]
        par = {}
        for p in names:
            b = self.data_of(tree[p]) or b""
            try: hdr = json.loads(b[8:8 + struct.unpack("<Q", b[:8])[0]])
            except Exception: continue
            for k, v in hdr.items():
                if k == "__metadata__": continue
                n = 1
                for s in v["shape"]: n *= s
                par[v["dtype"]] = par.get(v["dtype"], 0) + n
        return {"parameters": par, "total": sum(par.values())} if par else None

    VERBS = {"revision", "tree", "paths-info", "refs", "commits", "commit", "preupload", "branch", "tag", "discussions", "settings", "auth-check", "xet-read-token", "xet-write-token", "super-squash", "lfs-files", "resolve-cache", "user-access-request", "user-access-list"}

    def repo_api(self, t, seg):
        if len(seg) >= 2 and seg[1] not in self.VERBS: rid, rest = "/".join(seg[:2]), seg[2:]
        else: rid, rest = seg[0], seg[1:]
        m, hub, q = ("GET" if self.command == "HEAD" else self.command), self.hub, self.q
        verb, arg = (rest[0] if rest else ""), [unquote(x) for x in rest[1:]]
        if verb in ("", "revision") and m == "GET":
            r = self.repo(t, rid); sha = r.resolve(arg[0] if arg else "main")
            d = self.info(r, sha, "blobs" in q)
            ex = q.get("expand") or q.get("expand[]")
            if ex: d = {k: v for k, v in d.items() if k in ("_id", "id") or k in ex}
            return self.reply(200, d)
        if verb == "auth-check":
            self.repo(t, rid, write=bool(arg), content=True); return self.reply(200, {})
        if verb == "settings":
            r, d = self.repo(t, rid, write=True), self.json()
            if "gated" in d: r.gated = d["gated"]
            if "private" in d: r.private = d["private"]
            if "visibility" in d: r.private = d["visibility"] == "private"
            return self.reply(200, {})
        if verb == "refs":
            r = self.repo(t, rid); g = lambda pre: [{"name": k[len(pre):], "ref": k, "targetCommit": v} for k, v in r.refs.items() if k.startswith(pre)]
            d = {"branches": g("refs/heads/"), "converts": g("refs/convert/"), "tags": [{"name": k, "ref": f"refs/tags/{k}", "targetCommit": v} for k, v in r.tags.items()]}
            if "include_prs" in q: d["pullRequests"] = [{"name": k[5:], "ref": k, "targetCommit": v} for k, v in r.refs.items() if k.startswith("refs/pr/")]
            return self.reply(200, d)
        if verb == "tree":
            r = self.repo(t, rid, content=True); sha = r.resolve(arg[0]); tree = r.commits[sha]["tree"]; base = "/".join(arg[1:]); base = base and base + "/"
            if base and not any(k.startswith(base) for k in tree): raise HubError(404, "EntryNotFound", f"{base[:-1]} does not exist on \"{arg[0]}\"", {"X-Repo-Commit": sha})
            rec, exp = q.get("recursive", ["false"])[0].lower() == "true", q.get("expand", ["false"])[0].lower() == "true"
            out, dirs = [], set()
            for p, e in sorted(tree.items()):
                if not p.startswith(base): continue
                parts = p[len(base):].split("/")
                for i in range(1, len(parts) if rec else min(len(parts), 2)):
                    d = base + "/".join(parts[:i])
                    if d not in dirs: dirs.add(d); out.append({"type": "directory", "oid": hashlib.sha1(d.encode()).hexdigest(), "size": 0, "path": d})
                if rec or len(parts) == 1: out.append(self.entry_json(r, p, e, exp, sha))
            cur = int(q.get("cursor", ["0"])[0]); page = out[cur:cur + hub.page]
            h = {"X-Repo-Commit": sha}
            if cur + hub.page < len(out): h["Link"] = f'<{self.base}{self.upath}?recursive={rec}&expand={exp}&cursor={cur + hub.page}>; rel="next"'
            return self.reply(200, page, h)
        if verb == "paths-info":
            r = self.repo(t, rid, content=True); sha = r.resolve(arg[0]); tree = r.commits[sha]["tree"]
            f = self.json() if "json" in self.headers.get("Content-Type", "") else parse_qs(self.body().decode())
            exp, out = str((f.get("expand") or ["False"])[0]).lower() == "true" if not isinstance(f.get("expand"), bool) else f["expand"], []
            for p in f.get("paths", []):
                if p in tree: out.append(self.entry_json(r, p, tree[p], exp, sha))
                elif any(k.startswith(p.rstrip("/") + "/") for k in tree): out.append({"type": "directory", "oid": hashlib.sha1(p.encode()).hexdigest(), "size": 0, "path": p})
            return self.reply(200, out)
        if verb == "commits":
            r = self.repo(t, rid, content=True); c, out = r.resolve(arg[0]), []
            while c:
                k = r.commits[c]; out.append({"id": c, "title": k["title"], "message": k["message"], "authors": [{"user": k["author"]}], "date": k["date"]}); c = k["parent"]
            return self.reply(200, out, {"X-Total-Count": len(out)})
        if verb == "branch":
            r = self.repo(t, rid, write=True); ref = f"refs/heads/{arg[0]}"
            if m == "POST":
                if ref in r.refs: raise HubError(409, None, f"Reference already exists: {ref}")
                r.refs[ref] = r.resolve(self.json().get("startingPoint") or "main"); return self.reply(201, {})
            if ref not in r.refs: raise HubError(404, "RevisionNotFound", f"Invalid rev id: {arg[0]}")
            if arg[0] == "main": raise HubError(403, None, "Cannot delete main")
            del r.refs[ref]; return self.reply(204)
        if verb == "tag":
            r = self.repo(t, rid, write=True)
            if m == "POST":
                tag = self.json()["tag"]
                if tag in r.tags: raise HubError(409, None, f"Tag {tag} already exists")
                r.tags[tag] = r.resolve(arg[0]); return self.reply(200, {})
            if arg[0] not in r.tags: raise HubError(404, "RevisionNotFound", f"Invalid rev id: {arg[0]}")
            del r.tags[arg[0]]; return self.reply(204)
        if verb == "preupload":
            r = self.repo(t, rid, write="create_pr" not in q, content=True); tree = r.commits[r.resolve(arg[0])]["tree"]; d, out = self.json(), []
            ign = [l.strip() for l in (d.get("gitIgnore") or "").splitlines() if l.strip() and not l.startswith("#")]
            for f in d["files"]:
                sample = base64.b64decode(f.get("sample") or "")
                lfs = f["path"].endswith(LFS_EXT) or f["size"] > hub.lfs_threshold or b"\0" in sample
                e = tree.get(f["path"])
                out.append({"path": f["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": any(fnmatch.fnmatch(f["path"], i) or fnmatch.fnmatch(os.path.basename(f["path"]), i) for i in ign),
                            "oid": (e.get("lfs") or e["oid"]) if e else None})
            return self.reply(200, {"files": out, "commitOid": r.resolve(arg[0])})
        if verb in ("xet-read-token", "xet-write-token"):
            r = self.repo(t, rid, write=verb == "xet-write-token" and "create_pr" not in q, content=True)
            if not hub.xet: raise HubError(404, None, "Xet is not enabled on this hub")
            exp, cas = int(time.time()) + 3600, hub.cas_url
            return self.reply(200, {"accessToken": "xet-" + "0" * 16, "exp": exp, "casUrl": cas}, {"X-Xet-Cas-Url": cas, "X-Xet-Access-Token": "xet-" + "0" * 16, "X-Xet-Token-Expiration": exp})
        if verb == "commit" and m == "POST": return self.do_commit(t, rid, arg[0])
        if verb == "discussions": return self.discussions(t, rid, arg)
        raise HubError(404, None, f"no route {m} {self.upath}")

    def open_pr(self, r, u, title, desc, base_sha, status="draft"):
        n = max(r.prs, default=0) + 1
        r.prs[n] = {"num": n, "title": title, "author": u["name"], "createdAt": now(), "status": status, "isPullRequest": True, "merge": None, "base": "refs/heads/main",
                    "events": [{"id": f"ev{n}-0", "type": "comment", "createdAt": now(), "author": {"name": u["name"]}, "data": {"edited": False, "hidden": False, "latest": {"raw": desc}}}]}
        r.refs[f"refs/pr/{n}"] = base_sha
        return n

    def do_commit(self, t, rid, rev):
        u = self.user(required=True); pr = "create_pr" in self.q
        is_pr_ref = rev.startswith("refs/pr/")
        r = self.repo(t, rid, content=True, write=not pr and not is_pr_ref)
        lines = [json.loads(l) for l in self.body().splitlines() if l.strip()]
        hdr = next(l["value"] for l in lines if l["key"] == "header")
        with self.hub.lock:
            head = r.resolve(rev)
            if hdr.get("parentCommit") and not head.startswith(hdr["parentCommit"]): raise HubError(412, None, "A commit has happened since. Please refresh and try again.")
            if SHA.match(rev) or rev in r.tags: raise HubError(400, None, "Cannot commit on a commit oid or tag")
            add, dele = {}, []
            for l in lines:
                k, v = l["key"], l["value"]
                if k == "file": add[v["path"]] = base64.b64decode(v["content"]) if v.get("encoding") == "base64" else v["content"].encode()
                elif k == "lfsFile":
                    size = self.hub.size_of(v["oid"])
                    if size is None: raise HubError(400, None, f"LFS pointer pointed to a file that does not exist: {v['path']} ({v['oid']})")
                    e = {"oid": git_blob_oid(lfs_pointer(v["oid"], size)), "size": size, "lfs": v["oid"]}
                    if v["oid"] in self.hub.xet_of_sha: e["xet"] = self.hub.xet_of_sha[v["oid"]][0]
                    add[v["path"]] = e
                elif k == "deletedFile": dele.append(v["path"])
                elif k == "deletedFolder": dele.append(v["path"].rstrip("/") + "/")
            branch = rev
            out = {"success": True}
            if pr:
                n = self.open_pr(r, u, hdr["summary"], hdr.get("description", ""), head, status="open"); branch = f"refs/pr/{n}"
                out["pullRequestUrl"] = f"{self.base}/{'' if t == 'model' else t + 's/'}{rid}/discussions/{n}"
            sha = r.commit(add, dele, hdr["summary"], hdr.get("description", ""), u["name"], branch, head)
        out.update(commitOid=sha, commitUrl=f"{self.base}/{'' if t == 'model' else t + 's/'}{rid}/commit/{sha}", hookOutput="")
        return self.reply(200, out)

    def discussions(self, t, rid, arg):
        u, m = self.user(), self.command
        r = self.repo(t, rid, content=True)
        if not arg and m == "POST":
            u = self.user(required=True); d = self.json()
            n = self.open_pr(r, u, d["title"], d.get("description", ""), r.resolve("main"))
            return self.reply(200, {"num": n, "pullRequest": True})
        brief = lambda d: {"num": d["num"], "title": d["title"], "author": {"name": d["author"]}, "createdAt": d["createdAt"], "status": d["status"], "isPullRequest": True, "repo": {"name": rid, "type": t}}
        if not arg: return self.reply(200, {"count": len(r.prs), "start": 0, "discussions": [brief(d) for d in r.prs.values()], "numClosedDiscussions": 0})
        n = int(arg[0])
        if n not in r.prs: raise HubError(404, None, "Discussion not found")
        d = r.prs[n]
        if len(arg) == 1: return self.reply(200, {**brief(d), "events": d["events"], "filesWithConflicts": [], "changes": {"base": d["base"], "mergeCommitId": d["merge"]}, "diff": ""})
        ev = {"id": f"ev{n}-{len(d['events'])}", "createdAt": now(), "author": {"name": u["name"] if u else "x"}}
        if arg[1] == "comment":
            ev.update(type="comment", data={"edited": False, "hidden": False, "latest": {"raw": self.json()["comment"]}}); d["events"].append(ev); return self.reply(200, {"newMessage": ev})
        self.repo(t, rid, write=True)
        if arg[1] == "status":
            d["status"] = self.json()["status"]; ev.update(type="status-change", data={"status": d["status"]}); d["events"].append(ev); return self.reply(200, {"newStatus": ev})
        if arg[1] == "merge":
            src = r.commits[r.refs[f"refs/pr/{n}"]]; head = r.resolve("main"); base_tree = r.commits[head]["tree"]
            d["merge"] = r.commit({p: e for p, e in src["tree"].items()}, [p for p in base_tree if p not in src["tree"]], f"{d['title']} (#{n})", "", u["name"], "main", head); d["status"] = "merged"
            return self.reply(200, {})
        raise HubError(404)

    # -- LFS -----------------------------------------------------------------------------------------
    def lfs_batch(self, t, rid):
        d = self.json()
        r = self.repo(t, rid, content=True, write=d["operation"] == "upload" and d.get("ref") is not None); out = []
        for o in d["objects"]:
            e = {"oid": o["oid"], "size": o["size"], "authenticated": True}
            if d["operation"] == "upload" and o["oid"] not in self.hub.lfs:
                c = self.hub.multipart_chunk
                if c and o["size"] > c and "multipart" in d.get("transfers", []):
                    n = -(-o["size"] // c)
                    up = {"href": f"{self.base}/_lfs/complete/{o['oid']}", "header": {"chunk_size": str(c), **{f"{i + 1:05d}": f"{self.base}/_lfs/part/{o['oid']}/{i + 1}" for i in range(n)}}}
                else: up = {"href": f"{self.base}/_lfs/put/{o['oid']}", "header": {}}
                e["actions"] = {"upload": up, "verify": {"href": f"{self.base}/_lfs/verify/{o['oid']}", "header": {}}}
            elif d["operation"] == "download": e["actions"] = {"download": {"href": f"{self.base}/_lfs/get/{o['oid']}"}}
            out.append(e)
        return self.reply(200, {"transfer": "multipart" if any("chunk_size" in str(x) for x in out) else "basic", "objects": out}, ctype="application/vnd.git-lfs+json")

    def lfs_object(self, op, a):
        hub, oid = self.hub, a[0]
        if op == "put" and self.command == "PUT":
            b = self.body()
            if hashlib.sha256(b).hexdigest() != oid: raise HubError(400, None, "sha256 mismatch")
            hub.lfs[oid] = b; return self.reply(200, headers={"ETag": '"' + hashlib.md5(b).hexdigest() + '"'})
        if op == "part": hub.parts.setdefault(oid, {})[int(a[1])] = self.body(); return self.reply(200, headers={"ETag": '"' + hashlib.md5(self.body()).hexdigest() + '"'})
        if op == "complete":
            d = self.json(); b = b"".join(hub.parts[oid][p["partNumber"]] for p in d["parts"])
            if hashlib.sha256(b).hexdigest() != oid: raise HubError(400, None, "sha256 mismatch")
            hub.lfs[oid] = b; hub.parts.pop(oid); return self.reply(200, {})
        if op == "verify": 
            if oid not in hub.lfs or len(hub.lfs[oid]) != self.json()["size"]: raise HubError(404, None, "not uploaded")
            return self.reply(200, {})
        if op == "get":   # plays the CDN: no auth is expected here
            b = hub.materialize(oid)
            if b is None: raise HubError(404)
            return self.bytes_reply(b, {"ETag": f'"{hashlib.md5(b).hexdigest()}"'})
        raise HubError(404)

    # -- Xet CAS -------------------------------------------------------------------------------------
    def cas(self, a):
        hub, m = self.hub, self.command
        if a[0] == "xorb": return self.bytes_reply(hub.xorbs[a[1]][0], {})          # plays the pre-signed URL
        if not self.headers.get("Authorization", "").startswith("Bearer "): raise HubError(401)
        if a[:2] == ["v1", "xorbs"] and m == "POST": return self.reply(200, {"was_inserted": hub.put_xorb(a[3], self.body())})
        if a[:2] == ["v1", "xorbs"] and m == "HEAD": return self.reply(200 if a[3] in hub.xorbs else 404)
        if a == ["v1", "shards"]: hub.read_shard(self.body()); return self.reply(200, {"result": 1})
        if a[:2] == ["v1", "reconstructions"] and len(a) == 3:
            g = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            return self.reply(200, hub.reconstruction(a[2], hub.cas_url, int(g[1]) if g else 0, int(g[2]) + 1 if g and g[2] else None))
        if a == ["v1", "telemetry"]: return self.reply(200, {})
        raise HubError(404)                         # /v2/* and /v1/chunks/*: hf_xet falls back

    # -- files ---------------------------------------------------------------------------------------
    def bytes_reply(self, b, headers):
        rng = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "").replace(" ", ""))
        h = {"Accept-Ranges": "bytes", **headers}
        if rng and (rng[1] or rng[2]):
            s = int(rng[1]) if rng[1] else max(0, len(b) - int(rng[2])); e = min(int(rng[2]), len(b) - 1) if rng[1] and rng[2] else len(b) - 1
            if s >= len(b): return self.reply(416, {"error": "range"}, {"Content-Range": f"bytes */{len(b)}"})
            return self.reply(206, raw=b[s:e + 1], headers={**h, "Content-Range": f"bytes {s}-{e}/{len(b)}"}, ctype="application/octet-stream")
        return self.reply(200, raw=b, headers=h, ctype="application/octet-stream")

    def resolve(self, t, rid, rev, path):
        r = self.repo(t, rid, content=True); sha = r.resolve(rev); e = r.commits[sha]["tree"].get(path); rc = {"X-Repo-Commit": sha}
        if e is None: raise HubError(404, "EntryNotFound", "Entry not found", rc)
        if e.get("lfs"):
            h = {**rc, "X-Linked-Size": e["size"], "X-Linked-ETag": f'"{e["lfs"]}"', "ETag": f'"{e["oid"]}"', "Accept-Ranges": "bytes"}
            # the CDN must be another origin, so that the client's "drop Authorization" path runs
            h["Location"] = f"http://localhost:{self.server.server_port}/_lfs/get/{e['lfs']}?filename={quote(os.path.basename(path))}"
            if e.get("xet"):
                h["X-Xet-Hash"] = e["xet"]
                h["Link"] = f'<{self.base}/api/{t}s/{rid}/xet-read-token/{sha}>; rel="xet-auth", <{self.base}/_recon/{e["xet"]}>; rel="xet-reconstruction-info"'
                h["X-Xet-Refresh-Route"] = f"{self.base}/api/{t}s/{rid}/xet-read-token/{sha}"
            return self.reply(302, raw=b"Found", headers=h, ctype="text/plain")
        # regular file: the Hub answers 307 to a content-addressed, same-host path
        return self.reply(307, raw=b"Temporary Redirect", headers={**rc, "ETag": f'"{e["oid"]}"', "X-Linked-Size": e["size"], "Location": f"/api/resolve-cache/{t}s/{rid}/{sha}/{quote(path, safe='')}"}, ctype="text/plain")

    def send_file(self, r, sha, path):
        e = r.commits[sha]["tree"].get(path)
        if e is None: raise HubError(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        return self.bytes_reply(e["data"], {"X-Repo-Commit": sha, "ETag": f'"{e["oid"]}"', "Content-Disposition": f'inline; filename="{os.path.basename(path)}"'})


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

