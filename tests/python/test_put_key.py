"""PUT KEY scripts through the public API, byte for byte: the keysets of two devices follow from a published test master, so
everything in a script can be computed here.

The whole-system test tests/tests/system/python.rs runs test_vectors.py first, has two rotations approved, and starts this
with CHANCERY_SCENE.
"""

import json
import os
import secrets
import time
import unittest
from pathlib import Path

import stubs  # makes the modules below importable
import keysets
from authority import Identity
from chancery.v1 import rotation_pb2, rotation_pb2_grpc
from keysets import Keyset

SCENE = json.loads(Path(os.environ["CHANCERY_SCENE"]).read_text())
MASTER = bytes.fromhex(SCENE["master"])
ISD_R = 1


class PutKey(unittest.TestCase):
    def test_the_rule_gives_the_commands_of_other_software(self):
        examples = json.loads(Path(SCENE["vectors"], "put_key.json").read_text())["examples"]
        for example in examples:
            keyset = Keyset(*map(bytes.fromhex, example["keys"]))
            key_version_number = int(example["name"].split()[-1], 16)
            for dialect in "ab":
                command = keysets.put_key(bytes.fromhex(example["dek"]), keyset, key_version_number, dialect)
                self.assertEqual(command.hex(), example[f"put_key_style_{dialect.upper()}"])

    def script(self, service, rotation: str):
        preparing = rotation_pb2.ROTATION_STATE_PREPARING
        state = rotation_pb2.GetRotationRequest(name=rotation)
        for _ in range(500):
            # The service still collects the devices.
            if service.GetRotation(state, timeout=30).status.state != preparing:
                break
            time.sleep(0.02)
        key = secrets.token_hex(16)
        request = rotation_pb2.FetchRotationScriptsRequest(idempotency_key=key, rotation=rotation, limit=1)
        (script,) = service.FetchRotationScripts(request, timeout=30).scripts
        return script

    def test_scripts_of_both_dialects_are_what_the_master_and_the_rule_give(self):
        with Identity(Path(SCENE["provisioner"])).connect() as channel:
            service = rotation_pb2_grpc.RotationServiceStub(channel)
            for name, terms in SCENE["rotations"].items():
                with self.subTest(rotation=name):
                    script = self.script(service, name)
                    old = keysets.derived(MASTER, terms["eid"], ISD_R, terms["from_kvn"], terms["from_bits"])
                    new = keysets.derived(MASTER, terms["eid"], ISD_R, terms["to_kvn"], terms["to_bits"])
                    expected = keysets.put_key(old.dek, new, terms["to_kvn"], terms["dialect"])
                    self.assertEqual((script.eid, script.put_key.hex()), (terms["eid"], expected.hex()))


if __name__ == "__main__":
    unittest.main(verbosity=2)
