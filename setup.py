"""The compiled part of Esper, and nothing else: every other setting is in pyproject.toml.

`_C` holds the operators for the CPU, `_C_cuda` their CUDA twins, `_pool` the gradient pool. The first two use the
LibTorch stable ABI, so that one build serves several torch and Python versions. ESPER_CUDA=auto (the default) builds
`_C_cuda` when torch is a CUDA build and nvcc is there, 1 wherever nvcc is, 0 never.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
import torch
from setuptools import Extension, setup
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parent
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # torch 2.11
# Contraction into fused multiply-adds would make results depend on the instruction set.
CXX_FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=off"]
CXX_FLAGS += ["-Wall", "-Wextra", "-Wno-unused-parameter"]
NVCC_FLAGS = ["-std=c++17", "-O3", "-lineinfo", "--expt-relaxed-constexpr"]
# Torch's build code forbids the conversions of cuda_fp16.h and cuda_bf16.h, which its own headers do not use.
NVCC_FLAGS += [f"-U__CUDA_NO_{name}__" for name in ("HALF_OPERATORS", "HALF_CONVERSIONS", "HALF2_OPERATORS")]
NVCC_FLAGS += ["-U__CUDA_NO_BFLOAT16_CONVERSIONS__"]

# Some compilers link their C++ runtime statically; a second one beside torch's mixes up locales and ends the process in
# the first error message that holds a number. Named here, the shared one comes before what the compiler adds.
LINK_FLAGS = ["-l:libstdc++.so.6"] if sys.platform == "linux" else []


def sources(*patterns: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))


def headers() -> list[str]:
    return sources("csrc/**/*.h", "csrc/**/*.cuh")


def headers_digest() -> str:
    """Torch's build code lets ninja follow the headers of a .cu file under a CUDA torch only: elsewhere a flag that
    changes with them makes it compile anew."""
    return hashlib.sha256(b"".join((ROOT / header).read_bytes() for header in headers())).hexdigest()[:12]


def cuda_home() -> Path | None:
    """Where nvcc is installed; it may be a wrapper script, so CUDA_HOME comes first."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(variable):
            return Path(home)
    nvcc = shutil.which("nvcc")
    candidates = [Path(nvcc).resolve().parent.parent] if nvcc else []
    candidates += [Path("/usr/local/cuda"), *sorted(Path("/usr/local").glob("cuda-*"), reverse=True)]
    return next((home for home in candidates if (home / "include" / "cuda_runtime.h").exists()), None)


def wants_cuda() -> bool:
    setting = os.environ.get("ESPER_CUDA", "auto")
    if setting not in ("auto", "0", "1"):
        raise SystemExit(f"ESPER_CUDA={setting!r}: expected auto, 0 or 1")
    if setting == "1" and cuda_home() is None:
        raise SystemExit("ESPER_CUDA=1, but no CUDA toolkit was found: set CUDA_HOME to where bin/nvcc is")
    return setting == "1" or (setting == "auto" and torch.version.cuda is not None and cuda_home() is not None)


def cpu_operators() -> Extension:
    return cpp_extension.CppExtension(
        "esper.kernels._C",
        sources("csrc/register.cpp", "csrc/cpu/*.cpp", "csrc/common/*.cpp"),
        include_dirs=[str(ROOT / "csrc")],
        depends=headers(),
        extra_compile_args={"cxx": [*CXX_FLAGS, STABLE_ABI]},
        extra_link_args=LINK_FLAGS,
        py_limited_api=True,
    )


def torch_cuda_directory() -> Path:
    """Where the linker finds torch's CUDA library. A CPU torch has none: an empty one of that name stands in, so that
    the operators ask for the real one when they are loaded under a CUDA torch."""
    directory = Path(torch.__file__).parent / "lib"
    if (directory / "libtorch_cuda.so").exists():
        return directory
    stub = ROOT / "build" / "torch_cuda_stub"
    stub.mkdir(parents=True, exist_ok=True)
    compiler = [os.environ.get("CXX", "c++"), "-shared", "-fPIC", "-x", "c++", os.devnull]
    subprocess.run([*compiler, "-Wl,-soname,libtorch_cuda.so", "-o", str(stub / "libtorch_cuda.so")], check=True)
    return stub


def cuda_operators(home: Path) -> Extension:
    # Torch's build code looks for CUDA only under a CUDA torch; the stable headers do not need one.
    cpp_extension.CUDA_HOME = str(home)
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
    return cpp_extension.CppExtension(
        "esper.kernels._C_cuda",
        sources("csrc/cuda/*.cu", "csrc/cuda/*.cpp"),
        include_dirs=[str(ROOT / "csrc"), str(home / "include")],
        depends=headers(),
        library_dirs=[str(home / "lib64"), str(torch_cuda_directory())],
        libraries=["cudart_static", "rt", "dl", "pthread"],
        extra_link_args=["-Wl,--no-as-needed", "-ltorch_cuda", "-Wl,--as-needed", *LINK_FLAGS],
        define_macros=[("USE_CUDA", None)],  # opens the CUDA part of torch's stable headers
        extra_compile_args={
            "cxx": [*CXX_FLAGS, STABLE_ABI],
            "nvcc": [*NVCC_FLAGS, STABLE_ABI, f"-DESPER_HEADERS_{headers_digest()}"],
        },
        py_limited_api=True,
    )


def gradient_pool() -> Extension:
    return Extension(
        "esper.kernels._pool",
        sources("csrc/pool/*.cpp"),
        include_dirs=[pybind11.get_include()],
        depends=headers(),
        extra_compile_args={"cxx": CXX_FLAGS},
        extra_link_args=LINK_FLAGS,
        language="c++",
    )


def extensions() -> list[Extension]:
    home = cuda_home() if wants_cuda() else None
    built = [cpu_operators(), gradient_pool()]
    if home is not None:
        built.append(cuda_operators(home))
    return built


os.environ.setdefault("MAX_JOBS", "2")
setup(ext_modules=extensions(), cmdclass={"build_ext": cpp_extension.BuildExtension})
