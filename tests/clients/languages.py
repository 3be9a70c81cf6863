"""The clients in other languages, each generated from the protos and built once for each version of its sources."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROTO = ROOT / "proto"
PROTOS = tuple(sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto")))
JARS = (
    *("grpc-api", "grpc-core", "grpc-context", "grpc-stub", "grpc-protobuf", "grpc-protobuf-lite", "grpc-netty"),
    *("netty-buffer", "netty-codec", "netty-codec-http", "netty-codec-http2", "netty-common", "netty-handler"),
    *(
        "netty-resolver",
        "netty-transport",
        "perfmark-api",
        "protobuf",
        "protobuf-util",
        "guava",
        "gson",
        "geronimo-annotation-1.3-spec",
    ),
)
JAR_DIR = Path("/usr/share/java")
GO_LIBRARIES = Path("/usr/share/gocode")
DEBIAN = f"apt-get install $(cat {(HERE / 'debian.txt').relative_to(ROOT)})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    """How a built client is started, as a user would."""

    home: Path
    compatibility: Sequence[str]
    apply: Sequence[str]

    def check(self, vectors: Path) -> subprocess.CompletedProcess[str]:
        """Hold it against compatibility vectors."""
        return self._run(*self.compatibility, str(vectors))

    def send(self, command: Path, secret: str, *flags: str) -> subprocess.CompletedProcess[str]:
        """Sign a command and send it."""
        return self._run(*self.apply, *flags, str(command), secret=secret)

    def _run(self, *command: str, secret: str = "") -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environ["ESPER_LEYLINE_SECRET"] = secret
        return subprocess.run(command, cwd=self.home, env=environ, capture_output=True, text=True, check=False)


def node() -> Client:
    """On protobufjs and grpc-js, from npm."""
    _require("node and npm aren't installed", "node", "npm")
    home = _home("node", install_packages)
    proto = ("--proto", str(PROTO))
    return Client(home=home, compatibility=("node", "compatibility.mjs"), apply=("node", "apply_command.mjs", *proto))


def python() -> Client:
    """On grpcio and what grpc_tools generates, without anything of ours: the generator's own environment."""
    home = _home("python", _generate_python)
    interpreter = str(ROOT / ".cache" / "genproto" / "bin" / "python")
    return Client(home=home, compatibility=(interpreter, "compatibility.py"), apply=(interpreter, "apply_command.py"))


def go() -> Client:
    """On grpc-go and protobuf-go, from Debian."""
    _require(f"not compiled here: {DEBIAN}", "go", "protoc", "protoc-gen-go")
    for library in ("grpc", "protobuf"):
        if not (GO_LIBRARIES / "src/google.golang.org" / library).is_dir():
            pytest.skip(f"not compiled here: google.golang.org/{library} is missing; {DEBIAN}")
    home = _home("go", _build_go)
    return Client(home=home, compatibility=("./client", "compatibility"), apply=("./client", "apply"))


def java() -> Client:
    """On grpc-java and protobuf-java, from Debian."""
    _require(f"not compiled here: {DEBIAN}", "javac", "protoc", "grpc_java_plugin")
    missing = [jar for jar in JARS if not (JAR_DIR / f"{jar}.jar").exists()]
    if missing:
        pytest.skip(f"not compiled here: {', '.join(missing)} missing; {DEBIAN}")
    home = _home("java", _build_java)
    start = ("java", "-cp", f"{_class_path()}:{home}", "Client")
    return Client(home=home, compatibility=(*start, "compatibility"), apply=(*start, "apply"))


def loaders() -> Path:
    """Where `loaders.mjs` is with its packages and what the generators made."""
    _require("node and npm aren't installed", "node", "npm")
    return _home("loaders", _build_loaders)


CLIENTS: dict[str, Callable[[], Client]] = {"node": node, "python": python, "go": go, "java": java}


def _home(language: str, build: Callable[[Path], None]) -> Path:
    """A copy of a client's sources, built; another one where a source, a proto or the way of building changed."""
    sources = sorted(path for path in (HERE / language).iterdir() if path.is_file())
    parts = [path.read_bytes() for path in (*sources, Path(__file__), *sorted(PROTO.rglob("*.proto")))]
    home = ROOT / ".cache" / "clients" / f"{language}-{hashlib.sha256(b''.join(parts)).hexdigest()[:12]}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes of one test run build it once
        if not (home / "built").exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            for source in sources:
                shutil.copy(source, home)
            build(home)
            (home / "built").touch()
    return home


def _require(words: str, *programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{words} ({', '.join(missing)})")


def install_packages(home: Path) -> None:
    """The packages of a lock file; a skip where npm can't be reached."""
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    answer = subprocess.run(install, cwd=home, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        pytest.skip(f"npm ci failed, is there a network? {answer.stderr.strip().splitlines()[-1:]}")


def _build_loaders(home: Path) -> None:
    install_packages(home)
    _made([str(ROOT / "tools" / "buf"), "generate", str(PROTO), "--template", "buf.gen.yaml"], place=home)
    _made(["npx", "tsc", "-p", "tsconfig.json"], place=home)


def _generate_python(home: Path) -> None:
    # The generator's environment is made by the tool that owns it, which needs PyPI once.
    answer = subprocess.run(
        [sys.executable, ROOT / "tools" / "genproto", "--check"], capture_output=True, text=True, check=False
    )
    interpreter = ROOT / ".cache" / "genproto" / "bin" / "python"
    if not interpreter.exists():
        pytest.skip(f"grpcio-tools couldn't be installed, is there a network? {answer.stderr.strip()[-200:]}")
    outputs = (f"--python_out={home}", f"--grpc_python_out={home}")
    _made([str(interpreter), "-m", "grpc_tools.protoc", f"-I{PROTO}", *outputs, *PROTOS])


def _build_go(home: Path) -> None:
    source = home / "src" / "esper" / "client"
    source.mkdir(parents=True)
    for file in home.glob("*.go"):
        file.rename(source / file.name)
    # Where the package is said to be is all that Go's generator needs to know and the protos don't say.
    places = ",".join(f"M{proto}=esper/leyline" for proto in PROTOS)
    _made(["protoc", f"-I{PROTO}", f"--go_out={home / 'src'}", f"--go_opt={places}", *PROTOS])
    _made(["go", "vet", "esper/client"], _go(home))
    _made(["go", "build", "-o", str(home / "client"), "esper/client"], _go(home))


def _go(home: Path) -> dict[str, str]:
    return {**os.environ, "GO111MODULE": "off", "GOFLAGS": "", "GOPATH": f"{home}:{GO_LIBRARIES}"}


def _build_java(home: Path) -> None:
    generated = home / "generated"
    generated.mkdir()
    plugin = f"--plugin=protoc-gen-grpc-java={shutil.which('grpc_java_plugin')}"
    _made(["protoc", f"-I{PROTO}", f"--java_out={generated}", f"--grpc-java_out={generated}", plugin, *PROTOS])
    sources = [str(path) for path in (*home.glob("*.java"), *generated.rglob("*.java"))]
    _made(["javac", "-nowarn", "-cp", _class_path(), "-d", str(home), *sources])


def _class_path() -> str:
    return ":".join(str(JAR_DIR / f"{jar}.jar") for jar in JARS)


def _made(command: Sequence[str], environ: dict[str, str] | None = None, place: Path | None = None) -> None:
    answer = subprocess.run(command, cwd=place, env=environ, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, f"{' '.join(command[:3])}: {answer.stdout}{answer.stderr}"
