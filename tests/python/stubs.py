"""The contract's Python stubs, made from proto/ by grpcio-tools at each start: nothing generated is kept in the tree."""

import importlib.resources
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

_CONTRACT = Path(__file__).resolve().parents[2] / "proto"
_folder = tempfile.TemporaryDirectory(prefix="chancery-stubs-")


def _generate() -> None:
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    sources = [*_CONTRACT.glob("chancery/options/**/*.proto"), *_CONTRACT.glob("chancery/v1/*.proto")]
    arguments = ["protoc", f"-I{_CONTRACT}", f"-I{well_known}"]
    arguments += [f"--python_out={_folder.name}", f"--grpc_python_out={_folder.name}"]
    if protoc.main(arguments + [str(source) for source in sources]) != 0:
        raise RuntimeError("the contract does not compile")
    sys.path.insert(0, _folder.name)


_generate()
