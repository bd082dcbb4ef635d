import hashlib, json, pathlib, sys

folder = pathlib.Path(sys.argv[1])
sha256 = lambda data: hashlib.sha256(data).digest()
need = lambda holds, message: None if holds else sys.exit("FAILED: " + message)

manifest = json.loads((folder / "MANIFEST.json").read_bytes())
listed = {f["path"]: f for f in manifest["files"]}
found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
need(found == set(listed) | {"MANIFEST.json"}, "files missing or extra: %s" % (found ^ set(listed) ^ {"MANIFEST.json"}))
for path, record in listed.items():
    need(hashlib.sha256((folder / path).read_bytes()).hexdigest() == record["sha256"], path + ": digest")

def node(left, right):
    return sha256(b"\x01" + left + right)

def number(n):
    groups = ["%03d" % (n % 1000)]
    while n >= 1000:
        n //= 1000
        groups.insert(0, "x%03d" % (n % 1000))
    return "/".join(groups)

origin, size = (folder / "checkpoint").read_text().split("\n")[:2]
size, stack, last, operations = int(size), [], "", {}
for start in range(0, size, 256):
    width = min(256, size - start)
    path = "tile/entries/" + number(start // 256) + ("" if width == 256 else ".p/%d" % width)
    bundle, at = (folder / path).read_bytes(), 0
    for index in range(start, start + width):
        length = int.from_bytes(bundle[at : at + 2], "big")
        raw, at = bundle[at + 2 : at + 2 + length], at + 2 + length
        entry = json.loads(raw)
        where = "%s entry %d: " % (path, index)
        need(entry["index"] == index and entry["time"] > last, where + "index or time")
        last = entry["time"]
        stack.append((1, sha256(b"\x00" + raw)))
        while len(stack) > 1 and stack[-2][0] == stack[-1][0]:
            (width_left, left), (_, right) = stack[-2:]
            stack[-2:] = [(2 * width_left, node(left, right))]
        facts, event, outcome = entry["facts"], entry["event"], entry["outcome"]
        signed = (entry["actor"], facts.get("key"), facts.get("signature"))
        if event == "operation.requested" and outcome == "done":
            need(facts["k"] >= 2 and facts["operation"] not in operations, where + "request")
            operations[facts["operation"]] = {"k": facts["k"], "signed": [signed], "executed": False}
        if event == "operation.approved" and outcome == "done":
            operations[facts["operation"]]["signed"].append(signed)
        if event == "operation.executed" and outcome in ("intent", "done"):
            operation = operations[facts["operation"]]
            operation["executed"] = True
            need(len({person for person, _, _ in operation["signed"]}) >= operation["k"], where + "quorum")
    need(at == len(bundle), path + ": length")

root = stack.pop()[1] if stack else sha256(b"")
while stack:
    root = node(stack.pop()[1], root)
checkpoint = (folder / "checkpoint").read_text().split("\n")[2]
need(__import__("base64").b64encode(root).decode() == checkpoint, "the entries do not hash to the checkpoint's root")

for name, operation in operations.items():
    place = folder / "approvals" / name.removeprefix("sha256:")
    if not place.exists():
        need(not operation["executed"], "%s: no evidence" % place)
        continue
    need(sha256((place / "operation.bin").read_bytes()).hex() == place.name, "%s: operation.bin" % place)
    digests = {"sha256:" + sha256(p.read_bytes()).hex() for p in place.glob("*.der")}
    need(digests >= {signature for _, _, signature in operation["signed"]}, "%s: signatures" % place)

print("%s: %d entries hash to root %s; %d operations" % (origin, size, root.hex(), len(operations)))
