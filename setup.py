"""Builds rsdnet._reader (C++17) and maps the folder kernels/ to rsdnet.kernels.

Environment variables:
  RSDNET_SANITIZE=LIST   build with -fsanitize=LIST: "address,undefined" or "thread"
  CC, CXX, CFLAGS, ...   as setuptools reads them
"""

import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent

SANITIZE = os.environ.get("RSDNET_SANITIZE", "")

CXX_FLAGS = ["-O2", "-g0", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden"]
CXX_FLAGS += ["-Wall", "-Wextra", "-pthread"]
LINK_FLAGS = ["-pthread"]
if SANITIZE:
    CXX_FLAGS += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-O1", "-g1"]
    LINK_FLAGS += [f"-fsanitize={SANITIZE}"]


class BuildReader(build_ext):
    """Compiles the C++ files side by side, and anew whenever sources, flags or compiler have changed."""

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
            extra_postargs=LINK_FLAGS,
            build_temp=self.build_temp,
            target_lang="c++",
        )
        stamp.write_text(digest)

    def fingerprint(self, ext: Extension) -> str:
        """Names this build: sources, flags, compiler, Python."""
        parts = [sys.version, pybind11.__version__, *CXX_FLAGS, *LINK_FLAGS]
        commands = sorted(vars(self.compiler).items())
        parts += [str(command) for name, command in commands if name.startswith(("compiler", "linker"))]
        parts += [Path(name).read_text() for name in (*ext.sources, *ext.depends)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def compile_all(self, ext: Extension) -> list[str]:
        include = [*ext.include_dirs, pybind11.get_include()]

        def compile_one(source: str) -> list[str]:
            return self.compiler.compile(
                [source], output_dir=self.build_temp, include_dirs=include, extra_postargs=CXX_FLAGS
            )

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return [name for names in pool.map(compile_one, ext.sources) for name in names]


def sources(suffix: str) -> list[str]:
    """The reader's files, without its tests and fuzzers."""
    paths = {path.relative_to(ROOT) for path in (ROOT / "csrc").rglob(f"*{suffix}")}
    return sorted(str(path) for path in paths if path.parts[1] not in ("tests", "fuzz"))


os.chdir(ROOT)
reader = Extension("rsdnet._reader", sources(".cpp"), depends=sources(".hpp"), include_dirs=["csrc"], language="c++")
setup(
    packages=[*find_packages(include=["rsdnet", "rsdnet.*"]), "rsdnet.kernels"],
    package_dir={"rsdnet": "rsdnet", "rsdnet.kernels": "kernels"},
    ext_modules=[reader],
    cmdclass={"build_ext": BuildReader},
)
