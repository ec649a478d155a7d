"""What the tests of Triton's kernels share."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest


@pytest.fixture(scope="session")
def under_the_interpreter() -> Callable[[str], str]:
    """under_the_interpreter(file): what pytest says of it where Triton's interpreter runs the kernels.

    That must be chosen before Triton is imported, hence in a process of its own.
    """

    def run(file: str) -> str:
        command = [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", file]
        environment = {**os.environ, "TRITON_INTERPRET": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def compiled_for() -> Callable[..., Any]:
    """compiled_for(kernel, capability, types, fixed): what Triton's compiler makes for a GPU that need not be here.

    `types` of its tensors and numbers by name, of `fixed`, its constants, the values; `count` is of whole vectors.
    """

    def run(kernel: Any, capability: int, types: Mapping[str, str], fixed: Mapping[str, Any], **options: Any) -> Any:
        import triton
        from triton.backends.compiler import GPUTarget

        signature = {**types, **dict.fromkeys(fixed, "constexpr")}
        place = {name: (kernel.arg_names.index(name),) for name in signature}
        aligned = {place[name]: [["tt.divisibility", 16]] for name in types if types[name][0] == "*" or name == "count"}
        values = {place[name]: value for name, value in fixed.items()}
        source = triton.compiler.ASTSource(kernel, signature, values, aligned)
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)

    return run
