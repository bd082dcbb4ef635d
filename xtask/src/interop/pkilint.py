"""Runs pkilint's own linters on many files in one process.

Standard input: a JSON array of {"linter": module, "arguments": [...], "decoder": "own" or "pyasn1"}.
Standard output: one JSON array of their reports, in the same order; null where a linter printed none.
"""

import contextlib
import importlib
import io
import json
import sys

import pkilint.document
from pyasn1.codec.der.decoder import decode

OWN = pkilint.document.decode_der

reports = []
for job in json.load(sys.stdin):
    # The decoder that pkilint brings refuses object identifiers such as 2.999.10; pyasn1, whose types both fill, reads them.
    pkilint.document.decode_der = OWN if job["decoder"] == "own" else decode
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        linter = importlib.import_module("pkilint.bin." + job["linter"])
        linter.main(["lint", "--severity", "NOTICE", "--format", "JSON"] + job["arguments"])
    text = printed.getvalue().strip()
    reports.append(json.loads(text) if text else None)
json.dump(reports, sys.stdout)
