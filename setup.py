"""Builds rsdnet._reader (C++17, LMDB linked statically) and maps the folder kernels/ to rsdnet.kernels.

Environment variables:
  RSDNET_SYSTEM_LMDB=1   link the system's liblmdb instead of the pinned sources
  RSDNET_SANITIZE=LIST   build with -fsanitize=LIST: "address,undefined" or "thread"
  CC, CXX, CFLAGS, ...   as setuptools reads them
The pinned LMDB sources are fetched once, by pip from the configured index, into third_party/.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent

# The sdist of py-lmdb 1.8.1 carries the unmodified C sources of LMDB 0.9.35.
LMDB_VERSION = "1.8.1"
LMDB_SDIST = f"lmdb-{LMDB_VERSION}.tar.gz"
LMDB_SHA256 = "44ef24033929e9cc227a7e17287473c452b462d716f118db885c667c80f57429"
LMDB_FILES = ("mdb.c", "midl.c", "lmdb.h", "midl.h")

SANITIZE = os.environ.get("RSDNET_SANITIZE", "")
SYSTEM_LMDB = os.environ.get("RSDNET_SYSTEM_LMDB", "0") not in ("", "0")

# Hidden symbols: py-lmdb brings an LMDB of its own into the same process.
COMMON_FLAGS = ["-O2", "-g0", "-fvisibility=hidden", "-fPIC"]
CXX_FLAGS = [*COMMON_FLAGS, "-std=c++17", "-fvisibility-inlines-hidden", "-Wall", "-Wextra", "-pthread"]
# LMDB's assertions abort the process; csrc/tree.cpp checks the file before LMDB reads it.
LMDB_FLAGS = [*COMMON_FLAGS, "-DNDEBUG", "-w", "-pthread"]
LINK_FLAGS = ["-Wl,--exclude-libs,ALL", "-pthread"]
if SANITIZE:
    CXX_FLAGS += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-O1", "-g1"]
    LINK_FLAGS += [f"-fsanitize={SANITIZE}"]


def stop(reason: str) -> NoReturn:
    """End the build with one line."""
    sys.exit(f"error: {reason}")


def fetch_lmdb(target: Path) -> None:
    """Download the pinned sdist with pip, which checks its hash before it looks inside."""
    requirement = f"lmdb=={LMDB_VERSION} --hash=sha256:{LMDB_SHA256}\n"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "requirements.txt").write_text(requirement)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "lmdb"]
        command += ["--no-build-isolation", "--require-hashes", "-r", "requirements.txt", "--dest", folder]
        # pip asks the sdist for its metadata; LMDB_PURE keeps it from patching its sources for that.
        environment = {**os.environ, "LMDB_PURE": "1"}
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        archive = Path(folder) / LMDB_SDIST
        if result.returncode != 0 or not archive.is_file():
            lines = [line for line in (result.stderr + result.stdout).splitlines() if line.strip()]
            reason = next((line for line in lines if "ERROR" in line or "No module" in line), "no output").strip()
            stop(
                f"cannot fetch {LMDB_SDIST} (sha256 {LMDB_SHA256[:12]}...) with pip: {reason} "
                f"-- put the file at {target}, or set RSDNET_SYSTEM_LMDB=1 to link the system's liblmdb"
            )
        target.parent.mkdir(exist_ok=True)
        aside = target.with_suffix(f".{os.getpid()}")
        aside.write_bytes(archive.read_bytes())
        aside.replace(target)


def lmdb_sources() -> list[str]:
    """Unpack LMDB's C files into third_party/; return the two to compile, relative to the repository."""
    archive = ROOT / "third_party" / LMDB_SDIST
    if not archive.is_file():
        fetch_lmdb(archive)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != LMDB_SHA256:
        stop(f"{archive} has sha256 {digest}, expected {LMDB_SHA256}; delete it and build again")
    stem = LMDB_SDIST.removesuffix(".tar.gz")
    folder = archive.with_name(stem)
    folder.mkdir(exist_ok=True)
    with tarfile.open(archive) as tar:
        for name in LMDB_FILES:
            member = tar.extractfile(f"{stem}/lib/{name}")
            assert member is not None
            (folder / name).write_bytes(member.read())
    return [str((folder / name).relative_to(ROOT)) for name in LMDB_FILES if name.endswith(".c")]


class BuildReader(build_ext):
    """Compiles the C and C++ files side by side, and anew whenever sources, flags or compiler have changed."""

    def build_extension(self, ext: Extension) -> None:
        digest = self.fingerprint(ext)
        target = Path(self.get_ext_fullpath(ext.name))
        stamp = Path(self.build_temp) / f"{hashlib.sha256(bytes(target)).hexdigest()[:16]}.stamp"
        if target.is_file() and stamp.is_file() and stamp.read_text() == digest and not self.force:
            return
        objects = self.compile_all(ext)
        self.compiler.link_shared_object(
            objects,
            str(target),
            libraries=["lmdb"] if SYSTEM_LMDB else [],
            extra_postargs=LINK_FLAGS,
            build_temp=self.build_temp,
            target_lang="c++",
        )
        stamp.write_text(digest)

    def fingerprint(self, ext: Extension) -> str:
        """Names this build: sources, flags, compiler, Python."""
        parts = [sys.version, pybind11.__version__, LMDB_SHA256, str(SYSTEM_LMDB), *CXX_FLAGS, *LMDB_FLAGS, *LINK_FLAGS]
        commands = sorted(vars(self.compiler).items())
        parts += [str(command) for name, command in commands if name.startswith(("compiler", "linker"))]
        parts += [Path(name).read_text() for name in (*ext.sources, *ext.depends)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def compile_all(self, ext: Extension) -> list[str]:
        jobs = [(source, CXX_FLAGS) for source in ext.sources]
        include = [*ext.include_dirs, pybind11.get_include()]
        if not SYSTEM_LMDB:
            sources = lmdb_sources()
            include.append(str(Path(sources[0]).parent))
            jobs = [(source, LMDB_FLAGS) for source in sources] + jobs

        def compile_one(job: tuple[str, list[str]]) -> list[str]:
            source, flags = job
            return self.compiler.compile(
                [source], output_dir=self.build_temp, include_dirs=include, extra_postargs=flags
            )

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return [name for names in pool.map(compile_one, jobs) for name in names]


os.chdir(ROOT)
reader = Extension(
    "rsdnet._reader",
    sources=sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*.cpp")),
    depends=sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*.hpp")),
    language="c++",
)
setup(
    packages=["rsdnet", "rsdnet.layouts", "rsdnet.kernels"],
    package_dir={"rsdnet": "rsdnet", "rsdnet.kernels": "kernels"},
    ext_modules=[reader],
    cmdclass={"build_ext": BuildReader},
)
